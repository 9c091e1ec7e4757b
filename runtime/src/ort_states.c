#include "ort_states.h"

#include <string.h>

static int element_type(fr_dtype dtype) {
    static const int TYPES[] = {[FR_INT64] = ORT_INT64,
                                [FR_FLOAT32] = ORT_FLOAT32,
                                [FR_FLOAT16] = ORT_FLOAT16,
                                [FR_BFLOAT16] = ORT_BFLOAT16,
                                [FR_INT8] = ORT_INT8};
    return TYPES[dtype];
}

forerun_status fr_ort_value(const fr_ort_api *api, const OrtMemoryInfo *host, fr_dtype dtype, const int64_t *shape,
                            size_t rank, void *data, OrtValue **out, forerun_error *error) {
    size_t bytes = fr_dtype_bytes(dtype);
    for (size_t i = 0; i < rank; i++)
        bytes *= (size_t)shape[i];
    OrtStatus *status = api->CreateTensorWithDataAsOrtValue(host, data, bytes, shape, rank, element_type(dtype), out);
    return fr_ort_check(api, status, "describing a buffer", error);
}

static forerun_status take_on_host(const fr_ort_api *api, fr_arena *arena, const OrtMemoryInfo *host,
                                   const fr_tensor *tensor, OrtValue **out, forerun_error *error) {
    size_t bytes = fr_tensor_bytes(tensor);
    void *buffer = fr_arena_take(arena, bytes, 1);
    if (buffer == NULL)
        return fr_fail(error, FORERUN_OUT_OF_MEMORY,
                       "No memory for state %s of %zu bytes. Build the bundle with a smaller capacity.", tensor->name,
                       bytes);
    return fr_ort_value(api, host, tensor->dtype, tensor->shape, tensor->rank, buffer, out, error);
}

forerun_status fr_ort_states_take(const fr_ort_api *api, fr_arena *arena, const OrtMemoryInfo *host,
                                  const OrtMemoryInfo *device, const OrtSession *session, const fr_graph *round,
                                  fr_ort_states *out, forerun_error *error) {
    *out = (fr_ort_states){.facts = round->states, .count = round->n_states};
    out->values = fr_arena_take(arena, round->n_states, sizeof *out->values);
    if (out->values == NULL)
        return fr_fail(error, FORERUN_OUT_OF_MEMORY, "No memory for the states.");
    forerun_status status = FORERUN_OK;
    if (device != NULL)
        status =
            fr_ort_check(api, api->CreateAllocator(session, device, &out->allocator), "memory of the device", error);
    for (size_t i = 0; i < round->n_states && status == FORERUN_OK; i++) {
        const fr_tensor *tensor = &round->states[i].tensor;
        if (device == NULL)
            status = take_on_host(api, arena, host, tensor, &out->values[i], error);
        else
            status = fr_ort_check(api,
                                  api->CreateTensorAsOrtValue(out->allocator, tensor->shape, tensor->rank,
                                                              element_type(tensor->dtype), &out->values[i]),
                                  tensor->name, error);
    }
    return status;
}

forerun_status fr_ort_states_find(const fr_ort_states *self, const fr_graph *graph, const fr_tensor *tensor,
                                  OrtValue **out, forerun_error *error) {
    for (size_t i = 0; i < self->count; i++) {
        const fr_tensor *own = &self->facts[i].tensor;
        if (strcmp(own->name, tensor->name) == 0 && own->dtype == tensor->dtype && own->rank == tensor->rank &&
            memcmp(own->shape, tensor->shape, own->rank * sizeof own->shape[0]) == 0) {
            *out = self->values[i];
            return FORERUN_OK;
        }
    }
    return fr_fail(error, FORERUN_BUNDLE_ERROR,
                   "%s: expected the state \"%s\" to be one of the round graph's, found no such state of its type and "
                   "shape. Build the bundle again.",
                   graph->file, tensor->name);
}

void fr_ort_states_close(const fr_ort_api *api, fr_ort_states *self) {
    for (size_t i = 0; self->values != NULL && i < self->count; i++)
        if (self->values[i] != NULL)
            api->ReleaseValue(self->values[i]);
    if (self->allocator != NULL)
        api->ReleaseAllocator(self->allocator);
}
