/* The memory of an engine on a GPU: states, and two blocks that hold everything else, each with a pinned twin on the
 * host of the same layout, so that all inputs of a round travel in one copy and all results in another.
 *
 *   inputs    n_known  n_draft  temperature  uniform  plain uniform | position  tokens
 *   results   n_accepted  draft_tokens  draft_confidence | committed  next_position  next_tokens
 *
 * The host fills what is left of the bar in every round, position and tokens only while prefilling: in decoding they
 * are the results' next_position and next_tokens, copied on the device. The plain graph has the results right of the
 * bar. Each piece is aligned for the strictest library. */
#ifndef FORERUN_CUDA_BUFFERS_H
#define FORERUN_CUDA_BUFFERS_H

#include "backend.h"
#include "cuda_driver.h"
#include "ort_ports.h"

enum { FR_CUDA_PORTS = FR_MAX_PORTS + 2 };

typedef struct fr_cuda_block {
    unsigned char *host; /* pinned */
    CUdeviceptr device;
    size_t bytes;
} fr_cuda_block;

typedef struct fr_cuda_state {
    const fr_state *facts;
    CUdeviceptr address; /* of the input and of the output that replaces it: graphs update their states in place */
    size_t bytes;
} fr_cuda_state;

typedef struct fr_cuda_buffers {
    fr_cuda_block inputs, results;
    const fr_model *model;                /* without prompt lookup: draft tokens never come from the host */
    float *plain_uniform;                 /* pinned [1] */
    int64_t *next_position, *next_tokens; /* pinned [1], [K + 1] */
    fr_cuda_state *states;                /* those of the round graph; the plain graph shares them by name */
    size_t n_states;
} fr_cuda_buffers;

/* What every prefill run is as wide as. */
size_t fr_cuda_prefill_width(const fr_model *model);

/* Takes all memory, cleared, and points *io into the pinned blocks. fr_cuda_buffers_close frees it, also when this
 * failed. */
forerun_status fr_cuda_buffers_open(fr_cuda *cuda, fr_arena *arena, const fr_model *model, const fr_graph *round,
                                    fr_io *io, fr_cuda_buffers *out, forerun_error *error);

/* Enqueues the clearing of all states. Rows that attention masks away still take part in its sums, and 0 times the NaN
 * of another generation is NaN. */
forerun_status fr_cuda_clear_states(fr_cuda *cuda, const fr_cuda_buffers *self, forerun_error *error);

void fr_cuda_buffers_close(fr_cuda *cuda, fr_cuda_buffers *self);

/* The ports of a graph of `kind`: those that all libraries know, and the two that feed the next round. Their data is in
 * the pinned blocks. */
size_t fr_cuda_ports(const fr_cuda_buffers *self, const fr_io *io, fr_graph_kind kind, fr_port ports[FR_CUDA_PORTS]);

/* The address on the device of what stands at `data` in the block's pinned twin. */
CUdeviceptr fr_cuda_address(const fr_cuda_block *block, const void *data);

/* The buffer of a graph's state; NULL where the round graph has no such state of its type and shape. */
const fr_cuda_state *fr_cuda_find_state(const fr_cuda_buffers *self, const fr_tensor *tensor);

/* Enqueue the copies of a run: its inputs from the host before it; after it the next round's tokens and position, and
 * the results to the host. */
forerun_status fr_cuda_copy_in(fr_cuda *cuda, const fr_cuda_buffers *self, const fr_io *io, fr_run run,
                               forerun_error *error);
forerun_status fr_cuda_copy_out(fr_cuda *cuda, const fr_cuda_buffers *self, const fr_io *io, fr_run run,
                                forerun_error *error);

#endif
