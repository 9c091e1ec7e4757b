/* The state buffers of ONNX Runtime's graphs: on the host, or on the device of an execution provider. */
#ifndef FORERUN_ORT_STATES_H
#define FORERUN_ORT_STATES_H

#include "arena.h"
#include "manifest.h"
#include "ort_api.h"

typedef struct fr_ort_states {
    const fr_state *facts; /* those of the round graph; the plain graph shares them by name */
    size_t count;
    OrtValue **values;       /* [count] */
    OrtAllocator *allocator; /* of a device; NULL on the host */
} fr_ort_states;

/* A value of the library over the caller's memory, which it does not copy. */
forerun_status fr_ort_value(const fr_ort_api *api, const OrtMemoryInfo *host, fr_dtype dtype, const int64_t *shape,
                            size_t rank, void *data, OrtValue **out, forerun_error *error);

/* Takes the states of `round`: zeroed, in the arena; or, with the session that runs the graph, in the memory `device`
 * of its provider, where they hold anything. fr_ort_states_close frees them, also when this failed. */
forerun_status fr_ort_states_take(const fr_ort_api *api, fr_arena *arena, const OrtMemoryInfo *host,
                                  const OrtMemoryInfo *device, const OrtSession *session, const fr_graph *round,
                                  fr_ort_states *out, forerun_error *error);

/* The value of a graph's state, which must be one of the round graph's: a plain generation then leaves no second
 * cache. */
forerun_status fr_ort_states_find(const fr_ort_states *self, const fr_graph *graph, const fr_tensor *tensor,
                                  OrtValue **out, forerun_error *error);

void fr_ort_states_close(const fr_ort_api *api, fr_ort_states *self);

#endif
