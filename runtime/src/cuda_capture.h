/* Runs of a graph that an outside library enqueues, each captured once as one CUDA graph. */
#ifndef FORERUN_CUDA_CAPTURE_H
#define FORERUN_CUDA_CAPTURE_H

#include "cuda_buffers.h"

/* One captured run: the copy of its inputs, the graph, the copies to the next round and to the host. */
typedef struct fr_capture {
    struct fr_capture *next;
    fr_run run;
    CUgraphExec exec;
} fr_capture;

typedef struct fr_captures {
    fr_cuda *cuda;
    fr_cuda_buffers *buffers;
    const fr_io *io;
    forerun_graphs library;    /* its strings are not kept */
    const fr_graph *graphs[2]; /* by fr_graph_kind */
    fr_capture *first;
} fr_captures;

/* The capture of such a run; NULL = none yet. */
fr_capture *fr_capture_find(const fr_captures *self, fr_run run);

/* Binds the graph's tensors, runs it once, captures it and uploads the result to the device. Running it once lets a
 * library allocate what it allocates lazily, which capturing forbids; it writes the first rows of the caches, so this
 * belongs before the first prefill of a generation. */
forerun_status fr_capture_make(fr_captures *self, fr_arena *arena, fr_run run, forerun_error *error);

void fr_captures_close(fr_captures *self);

#endif
