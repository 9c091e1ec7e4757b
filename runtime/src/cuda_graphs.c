#include "cuda_graphs.h"

#include "cuda_capture.h"

#include <inttypes.h>
#include <string.h>

typedef struct cuda_graphs {
    fr_backend base;
    fr_arena *arena;
    fr_cuda cuda;
    fr_cuda_buffers buffers;
    fr_captures captures;
} cuda_graphs;

static forerun_status cuda_prepare(fr_backend *base, fr_run run, forerun_error *error) {
    cuda_graphs *self = (cuda_graphs *)base;
    TRY(fr_cuda_enter(&self->cuda, error));
    return fr_capture_find(&self->captures, run) != NULL ? FORERUN_OK
                                                         : fr_capture_make(&self->captures, self->arena, run, error);
}

/* Launches; on a thread whose current context is not ours, makes it current first. The usual round has no such call. */
static CUresult launch(cuda_graphs *self, CUgraphExec exec) {
    fr_cuda *cuda = &self->cuda;
    CUresult result = cuda->GraphLaunch(exec, cuda->stream);
    if (result == CUDA_ERROR_INVALID_CONTEXT || result == CUDA_ERROR_INVALID_HANDLE) {
        result = cuda->CtxSetCurrent(cuda->context);
        if (result == CUDA_SUCCESS)
            result = cuda->GraphLaunch(exec, cuda->stream);
    }
    return result;
}

/* The device goes on from its own position: one that differs from the loop's would write caches in the wrong rows. */
static forerun_status check_position(const cuda_graphs *self, fr_run run, forerun_error *error) {
    const fr_io *io = &self->base.io;
    uint64_t accepted = run.kind == FR_PLAIN ? 0 : (uint64_t)io->n_accepted[0]; /* its range is the loop's to check */
    int64_t expected = (int64_t)((uint64_t)io->position[0] + (uint64_t)io->n_known[0] + accepted);
    if (self->buffers.next_position[0] == expected)
        return FORERUN_OK;
    return fr_fail(error, FORERUN_BACKEND_ERROR,
                   "%s: the round ended at position %" PRId64 ", expected %" PRId64 ": the bundle's graph is wrong.",
                   self->captures.graphs[run.kind]->file, self->buffers.next_position[0], expected);
}

static forerun_status cuda_run(fr_backend *base, fr_run run, forerun_error *error) {
    cuda_graphs *self = (cuda_graphs *)base;
    const fr_capture *capture = fr_capture_find(&self->captures, run);
    if (capture == NULL)
        return fr_fail(error, FORERUN_INVALID_STATE, "%s was not prepared for %zu tokens.",
                       self->captures.graphs[run.kind]->file, run.width);
    *self->buffers.plain_uniform = base->io.uniform[self->buffers.model->draft_len];
    TRY(fr_cuda_check(&self->cuda, launch(self, capture->exec), "launching a round", error));
    TRY(fr_cuda_check(&self->cuda, self->cuda.StreamSynchronize(self->cuda.stream), "waiting for a round", error));
    return check_position(self, run, error);
}

static void cuda_state(const fr_backend *base, size_t index, forerun_state_info *out) {
    const fr_cuda_state *state = &((const cuda_graphs *)base)->buffers.states[index];
    out->name = state->facts->tensor.name;
    out->bytes = state->bytes;
    out->input_address = out->output_address = (const void *)(uintptr_t)state->address;
}

static void cuda_close(fr_backend *base) {
    cuda_graphs *self = (cuda_graphs *)base;
    if (self->cuda.context != NULL) {
        self->cuda.CtxSetCurrent(self->cuda.context); /* after a lost device it fails, and so may all that follows */
        if (self->cuda.stream != NULL)
            self->cuda.StreamSynchronize(self->cuda.stream);
        fr_captures_close(&self->captures);
        fr_cuda_buffers_close(&self->cuda, &self->buffers);
    }
    fr_cuda_stop(&self->cuda);
}

/* The first run of the generation comes after it on the same stream, so nothing is waited for. */
static forerun_status cuda_begin(fr_backend *base, forerun_error *error) {
    cuda_graphs *self = (cuda_graphs *)base;
    return fr_cuda_clear_states(&self->cuda, &self->buffers, error);
}

static const fr_backend_operations operations = {cuda_prepare, cuda_run, cuda_state, cuda_close, cuda_begin};

/* Every tensor that the graph must have, and states that are the round graph's: a plain generation then leaves no
 * second cache. */
static forerun_status check_graph(const cuda_graphs *self, fr_graph_kind kind, forerun_error *error) {
    const fr_graph *graph = self->captures.graphs[kind];
    fr_port ports[FR_CUDA_PORTS];
    size_t n_ports = fr_cuda_ports(&self->buffers, &self->base.io, kind, ports);
    TRY(fr_ports_check(graph, ports, n_ports, error));
    for (size_t i = 0; i < graph->n_states; i++)
        if (fr_cuda_find_state(&self->buffers, &graph->states[i].tensor) == NULL)
            return fr_fail(error, FORERUN_BUNDLE_ERROR,
                           "%s: expected the state \"%s\" to be one of the round graph's, found no such state of its "
                           "type and shape. Build the bundle again.",
                           graph->file, graph->states[i].tensor.name);
    return FORERUN_OK;
}

/* A padded prefill run must find room somewhere in the caches. */
static forerun_status check_model(const fr_model *model, const fr_graph *round, forerun_error *error) {
    int64_t rows = (int64_t)fr_cuda_prefill_width(model) + model->block_size;
    if (rows <= model->cache_rows)
        return FORERUN_OK;
    return fr_fail(error, FORERUN_BUNDLE_ERROR,
                   "%s: a prefill run and a block after it write %" PRId64 " rows, its caches have %" PRId64
                   ". Build the bundle with a smaller prefill_chunk.",
                   round->file, rows, model->cache_rows);
}

forerun_status fr_cuda_graphs_open(fr_arena *arena, const fr_model *model, const fr_graph *round, const fr_graph *plain,
                                   const forerun_graphs *graphs, fr_backend **out, forerun_error *error) {
    TRY(check_model(model, round, error));
    cuda_graphs *self = fr_arena_take(arena, 1, sizeof *self);
    const char *name = graphs->library != NULL ? graphs->library : "cuda", *version = graphs->library_version;
    version = version != NULL ? version : "unknown";
    char *own_name = fr_arena_text(arena, name, strlen(name));
    char *own_version = fr_arena_text(arena, version, strlen(version));
    if (self == NULL || own_name == NULL || own_version == NULL)
        return fr_fail(error, FORERUN_OUT_OF_MEMORY, "No memory to open %s.", round->file);
    self->base = (fr_backend){.operations = &operations,
                              .name = own_name,
                              .version = own_version,
                              .threads = 1,
                              .has_confidence = fr_graph_gives(round, "draft_confidence"),
                              .prefill_width = fr_cuda_prefill_width(model)};
    self->arena = arena;
    *out = &self->base; /* from here on the caller closes it, also when opening fails */
    self->captures = (fr_captures){.cuda = &self->cuda,
                                   .buffers = &self->buffers,
                                   .io = &self->base.io,
                                   .library = *graphs,
                                   .graphs = {[FR_ROUND] = round, [FR_PLAIN] = plain}};
    TRY(fr_cuda_load(graphs->cuda_library, &self->cuda, error));
    TRY(fr_cuda_start(&self->cuda, graphs->device, error));
    TRY(fr_cuda_buffers_open(&self->cuda, arena, model, round, &self->base.io, &self->buffers, error));
    self->base.n_states = self->buffers.n_states;
    TRY(check_graph(self, FR_ROUND, error));
    TRY(check_graph(self, FR_PLAIN, error));
    const fr_run decode = {FR_ROUND, FORERUN_DECODE, (size_t)model->draft_len + 1};
    return cuda_prepare(&self->base, decode, error);
}
