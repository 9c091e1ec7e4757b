/* Reading the graphs and the engines of a manifest. */
#ifndef FORERUN_MANIFEST_GRAPH_H
#define FORERUN_MANIFEST_GRAPH_H

#include "manifest.h"
#include "manifest_fields.h"

/* The graphs `round` and `plain` of the object `graphs`, which stands in `section`. */
void fr_field_graphs(fr_fields *in, const fr_json *graphs, const char *section, int64_t cache_rows, fr_graph *round,
                     fr_graph *plain);

/* The engines that were built, of all entries of `engines`. */
void fr_field_engines(fr_fields *in, const fr_json *root, fr_manifest *out);

#endif
