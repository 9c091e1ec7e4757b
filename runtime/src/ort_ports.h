/* The graphs' named inputs and outputs, matched between a manifest and the buffers of fr_io. */
#ifndef FORERUN_ORT_PORTS_H
#define FORERUN_ORT_PORTS_H

#include "backend.h"

#include <stdbool.h>

typedef struct fr_port {
    const char *name;
    fr_dtype dtype;
    bool output;
    size_t rank;
    int64_t shape[2]; /* -1 = the width of the run */
    void *data;
} fr_port;

enum { FR_MAX_PORTS = 11 };

/* The ports of a graph of `kind`, in ports[0 .. result-1]. */
size_t fr_ports(const fr_io *io, fr_graph_kind kind, const fr_model *model, fr_port ports[FR_MAX_PORTS]);

/* The tensor of that name among the graph's inputs or outputs; NULL = none. */
const fr_tensor *fr_port_find(const fr_graph *graph, const fr_port *port);

/* Whether the interface in the manifest is the one that the loop drives: every port there (draft_confidence may be
 * absent) with its type and shape, and nothing else. */
forerun_status fr_ports_check(const fr_graph *graph, const fr_port *ports, size_t n_ports, forerun_error *error);

#endif
