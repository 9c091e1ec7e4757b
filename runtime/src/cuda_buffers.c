#include "cuda_buffers.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* What TensorRT asks of every address that it is given. */
enum { ALIGNMENT = 256 };

/* The next piece of a block of which `*at` bytes are laid out; NULL while the block has no memory yet. */
static void *lay(const fr_cuda_block *block, size_t *at, size_t count, size_t size) {
    void *piece = block->host != NULL ? block->host + *at : NULL;
    *at += (count * size + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    return piece;
}

size_t fr_cuda_prefill_width(const fr_model *model) {
    return (size_t)(model->prefill_chunk < model->capacity ? model->prefill_chunk : model->capacity);
}

/* Points *io and *self into the blocks; called once for the sizes and once more with memory. */
static void lay_out(fr_cuda_buffers *self, const fr_model *model, fr_io *io) {
    size_t k = (size_t)model->draft_len, in = 0, out = 0, width = fr_cuda_prefill_width(model);
    fr_cuda_block *inputs = &self->inputs, *results = &self->results;
    width = width > k + 1 ? width : k + 1;
    io->n_known = lay(inputs, &in, 1, sizeof(int64_t));
    io->n_draft = lay(inputs, &in, 1, sizeof(int64_t));
    io->temperature = lay(inputs, &in, 1, sizeof(float));
    io->uniform = lay(inputs, &in, 2 * k + 2, sizeof(float));
    self->plain_uniform = lay(inputs, &in, 1, sizeof(float));
    io->position = lay(inputs, &in, 1, sizeof(int64_t));
    io->tokens = lay(inputs, &in, width, sizeof(int64_t));
    io->n_accepted = lay(results, &out, 1, sizeof(int64_t));
    io->draft_tokens = lay(results, &out, k, sizeof(int64_t));
    io->draft_confidence = lay(results, &out, k, sizeof(float));
    io->committed = lay(results, &out, k + 1, sizeof(int64_t));
    self->next_position = lay(results, &out, 1, sizeof(int64_t));
    self->next_tokens = lay(results, &out, k + 1, sizeof(int64_t));
    inputs->bytes = in;
    results->bytes = out;
}

static forerun_status take_device(fr_cuda *cuda, size_t bytes, const char *what, CUdeviceptr *out,
                                  forerun_error *error) {
    CUresult result = cuda->MemAlloc(out, bytes);
    if (result != CUDA_ERROR_OUT_OF_MEMORY)
        return fr_cuda_check(cuda, result, what, error);
    size_t left = 0, total = 0;
    if (cuda->MemGetInfo(&left, &total) != CUDA_SUCCESS)
        left = total = 0;
    return fr_fail(error, FORERUN_OUT_OF_MEMORY,
                   "%s has no memory for %s of %zu bytes: %zu of %zu are left. End other programs on it, or build the "
                   "bundle with a smaller capacity.",
                   cuda->name, what, bytes, left, total);
}

static forerun_status take_block(fr_cuda *cuda, fr_cuda_block *block, const char *what, forerun_error *error) {
    void *host = NULL;
    CUresult result = cuda->MemHostAlloc(&host, block->bytes, 0);
    if (result == CUDA_ERROR_OUT_OF_MEMORY)
        return fr_fail(error, FORERUN_OUT_OF_MEMORY,
                       "No pinned host memory for %s of %zu bytes. End other programs that pin memory.", what,
                       block->bytes);
    TRY(fr_cuda_check(cuda, result, what, error));
    block->host = host;
    memset(host, 0, block->bytes);
    return take_device(cuda, block->bytes, what, &block->device, error);
}

static forerun_status take_state(fr_cuda *cuda, const fr_state *facts, fr_cuda_state *out, forerun_error *error) {
    char what[96];
    snprintf(what, sizeof what, "state %s", facts->tensor.name);
    out->facts = facts;
    out->bytes = fr_tensor_bytes(&facts->tensor);
    return take_device(cuda, out->bytes, what, &out->address, error);
}

forerun_status fr_cuda_clear_states(fr_cuda *cuda, const fr_cuda_buffers *self, forerun_error *error) {
    for (size_t i = 0; i < self->n_states; i++) {
        CUresult result = cuda->MemsetD8Async(self->states[i].address, 0, self->states[i].bytes, cuda->stream);
        TRY(fr_cuda_check(cuda, result, "clearing its states", error));
    }
    return FORERUN_OK;
}

static forerun_status clear_blocks(fr_cuda *cuda, fr_cuda_buffers *self, const fr_io *io, forerun_error *error) {
    for (int64_t i = 0; i < self->model->draft_len; i++)
        io->draft_confidence[i] = 1.0f; /* what a graph without a confidence head leaves there */
    const fr_cuda_block *blocks[2] = {&self->inputs, &self->results};
    for (int i = 0; i < 2; i++)
        TRY(fr_cuda_check(cuda,
                          cuda->MemcpyHtoDAsync(blocks[i]->device, blocks[i]->host, blocks[i]->bytes, cuda->stream),
                          "clearing its buffers", error));
    return fr_cuda_check(cuda, cuda->StreamSynchronize(cuda->stream), "clearing its buffers", error);
}

forerun_status fr_cuda_buffers_open(fr_cuda *cuda, fr_arena *arena, const fr_model *model, const fr_graph *round,
                                    fr_io *io, fr_cuda_buffers *out, forerun_error *error) {
    out->model = model;
    lay_out(out, model, io);
    TRY(take_block(cuda, &out->inputs, "the inputs of a round", error));
    TRY(take_block(cuda, &out->results, "the results of a round", error));
    lay_out(out, model, io);
    out->states = fr_arena_take(arena, round->n_states, sizeof *out->states);
    if (out->states == NULL)
        return fr_fail(error, FORERUN_OUT_OF_MEMORY, "No memory for the list of states.");
    out->n_states = round->n_states;
    for (size_t i = 0; i < round->n_states; i++)
        TRY(take_state(cuda, &round->states[i], &out->states[i], error));
    TRY(fr_cuda_clear_states(cuda, out, error)); /* for the runs that warm up */
    return clear_blocks(cuda, out, io, error);
}

void fr_cuda_buffers_close(fr_cuda *cuda, fr_cuda_buffers *self) {
    for (size_t i = 0; i < self->n_states; i++)
        if (self->states[i].address != 0)
            cuda->MemFree(self->states[i].address);
    fr_cuda_block *blocks[2] = {&self->inputs, &self->results};
    for (int i = 0; i < 2; i++) {
        if (blocks[i]->device != 0)
            cuda->MemFree(blocks[i]->device);
        if (blocks[i]->host != NULL)
            cuda->MemFreeHost(blocks[i]->host);
    }
    *self = (fr_cuda_buffers){.n_states = 0};
}

size_t fr_cuda_ports(const fr_cuda_buffers *self, const fr_io *io, fr_graph_kind kind, fr_port ports[FR_CUDA_PORTS]) {
    const bool plain = kind == FR_PLAIN;
    size_t count = fr_ports(io, kind, self->model, ports);
    for (size_t i = 0; plain && i < count; i++)
        if (strcmp(ports[i].name, "uniform") == 0)
            ports[i].data = self->plain_uniform; /* within the round graph's it would not be aligned */
    const fr_port next[2] = {
        {"next_tokens", FR_INT64, true, 2, {1, plain ? 1 : self->model->draft_len + 1}, self->next_tokens},
        {"next_position", FR_INT64, true, 1, {1}, self->next_position},
    };
    memcpy(ports + count, next, sizeof next);
    return count + 2;
}

CUdeviceptr fr_cuda_address(const fr_cuda_block *block, const void *data) {
    return block->device + (CUdeviceptr)((const unsigned char *)data - block->host);
}

const fr_cuda_state *fr_cuda_find_state(const fr_cuda_buffers *self, const fr_tensor *tensor) {
    for (size_t i = 0; i < self->n_states; i++) {
        const fr_tensor *own = &self->states[i].facts->tensor;
        if (strcmp(own->name, tensor->name) == 0 && own->dtype == tensor->dtype && own->rank == tensor->rank &&
            memcmp(own->shape, tensor->shape, own->rank * sizeof own->shape[0]) == 0)
            return &self->states[i];
    }
    return NULL;
}

/* From `first` to the end of `last_bytes` at `last`. */
static size_t span(const void *first, const void *last, size_t last_bytes) {
    return (size_t)((const unsigned char *)last - (const unsigned char *)first) + last_bytes;
}

forerun_status fr_cuda_copy_in(fr_cuda *cuda, const fr_cuda_buffers *self, const fr_io *io, fr_run run,
                               forerun_error *error) {
    size_t bytes = run.phase == FORERUN_PREFILL ? span(io->n_known, io->tokens, run.width * sizeof(int64_t))
                                                : span(io->n_known, self->plain_uniform, sizeof(float));
    CUresult result = cuda->MemcpyHtoDAsync(self->inputs.device, self->inputs.host, bytes, cuda->stream);
    return fr_cuda_check(cuda, result, "copying a round's inputs", error);
}

forerun_status fr_cuda_copy_out(fr_cuda *cuda, const fr_cuda_buffers *self, const fr_io *io, fr_run run,
                                forerun_error *error) {
    const bool plain = run.kind == FR_PLAIN;
    size_t n_next = plain ? 1 : (size_t)self->model->draft_len + 1;
    size_t bytes = span(self->next_position, self->next_tokens, n_next * sizeof(int64_t));
    CUdeviceptr to = fr_cuda_address(&self->inputs, io->position);
    CUresult result =
        cuda->MemcpyDtoDAsync(to, fr_cuda_address(&self->results, self->next_position), bytes, cuda->stream);
    TRY(fr_cuda_check(cuda, result, "copying the next round's tokens", error));
    unsigned char *first = (unsigned char *)(plain ? io->committed : io->n_accepted);
    bytes = span(first, self->next_position, sizeof(int64_t));
    result = cuda->MemcpyDtoHAsync(first, fr_cuda_address(&self->results, first), bytes, cuda->stream);
    return fr_cuda_check(cuda, result, "copying a round's results", error);
}
