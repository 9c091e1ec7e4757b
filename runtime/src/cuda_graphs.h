/* The backend over an outside library on a GPU: a round is one launch of a captured graph, and one wait. */
#ifndef FORERUN_CUDA_GRAPHS_H
#define FORERUN_CUDA_GRAPHS_H

#include "backend.h"

/* Opens the device, takes all memory of the graphs' interfaces, which `round` and `plain` describe and which must live
 * as long as the backend, and makes the decoding run of the round graph. The caller closes *out, also on failure. */
forerun_status fr_cuda_graphs_open(fr_arena *arena, const fr_model *model, const fr_graph *round, const fr_graph *plain,
                                   const forerun_graphs *graphs, fr_backend **out, forerun_error *error);

#endif
