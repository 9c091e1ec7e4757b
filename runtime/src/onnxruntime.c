#define _GNU_SOURCE /* sched_getaffinity */
#include "onnxruntime.h"

#include "custom_ops.h"
#include "files.h"
#include "ort_api.h"
#include "ort_ports.h"

#include <sched.h>
#include <string.h>
#include <unistd.h>

/* A generation uses at most three widths of a graph: decoding, a full prefill chunk, and the prompt's rest. */
enum { WIDTHS = 4 };

/* All inputs and outputs of a graph bound for one width, so that a round is one call. */
typedef struct binding {
    size_t width; /* 0 = free */
    uint64_t last_prepared;
    OrtIoBinding *handle;
    OrtValue *tokens;
} binding;

typedef struct compiled {
    const fr_graph *graph;
    OrtSession *session;
    binding bindings[WIDTHS];
} compiled;

typedef struct onnxruntime {
    fr_backend base;
    fr_ort_api api;
    fr_arena *arena;
    const char *folder;
    int64_t draft_len;
    OrtEnv *env;
    OrtMemoryInfo *memory;
    OrtSessionOptions *options;
    OrtCustomOpDomain *operators;
    compiled graphs[2];     /* by fr_graph_kind */
    const fr_state *states; /* those of the round graph; the plain graph shares them by name */
    void **buffers;         /* [n_states] */
    OrtValue **state_values;
    OrtValue *ports[2][FR_MAX_PORTS]; /* NULL for tokens, whose shape depends on the width */
    uint64_t prepared;
} onnxruntime;

#define TRY(call)                                                                                                      \
    do {                                                                                                               \
        forerun_status status_ = (call);                                                                               \
        if (status_ != FORERUN_OK)                                                                                     \
            return status_;                                                                                            \
    } while (0)

static int32_t usable_processors(void) {
#ifdef __linux__
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0)
        return (int32_t)CPU_COUNT(&set);
#endif
    long online = sysconf(_SC_NPROCESSORS_ONLN);
    return online > 0 ? (int32_t)online : 1;
}

static forerun_status check(onnxruntime *self, OrtStatus *status, const char *doing, forerun_error *error) {
    return fr_ort_check(&self->api, status, doing, error);
}

static forerun_status make_value(onnxruntime *self, fr_dtype dtype, const int64_t *shape, size_t rank, void *data,
                                 OrtValue **out, forerun_error *error) {
    size_t bytes = dtype == FR_INT64 ? sizeof(int64_t) : sizeof(float);
    for (size_t i = 0; i < rank; i++)
        bytes *= (size_t)shape[i];
    OrtStatus *status = self->api.CreateTensorWithDataAsOrtValue(self->memory, data, bytes, shape, rank,
                                                                 dtype == FR_INT64 ? ORT_INT64 : ORT_FLOAT32, out);
    return check(self, status, "describing a buffer", error);
}

static forerun_status take_states(onnxruntime *self, const fr_graph *graph, forerun_error *error) {
    self->states = graph->states;
    self->base.n_states = graph->n_states;
    self->buffers = fr_arena_take(self->arena, graph->n_states, sizeof *self->buffers);
    self->state_values = fr_arena_take(self->arena, graph->n_states, sizeof *self->state_values);
    if (self->buffers == NULL || self->state_values == NULL)
        return fr_fail(error, FORERUN_OUT_OF_MEMORY, "No memory for the states.");
    for (size_t i = 0; i < graph->n_states; i++) {
        const fr_tensor *tensor = &graph->states[i].tensor;
        size_t bytes = fr_tensor_bytes(tensor);
        if ((self->buffers[i] = fr_arena_take(self->arena, bytes, 1)) == NULL)
            return fr_fail(error, FORERUN_OUT_OF_MEMORY,
                           "No memory for state %s of %zu bytes. Build the bundle with a smaller capacity.",
                           tensor->name, bytes);
        TRY(make_value(self, tensor->dtype, tensor->shape, tensor->rank, self->buffers[i], &self->state_values[i],
                       error));
    }
    return FORERUN_OK;
}

/* The buffer of a state, which must be one of the round graph's: a plain generation then leaves no second cache. */
static forerun_status find_state(const onnxruntime *self, const fr_graph *graph, const fr_tensor *tensor,
                                 OrtValue **out, forerun_error *error) {
    for (size_t i = 0; i < self->base.n_states; i++) {
        const fr_tensor *own = &self->states[i].tensor;
        if (strcmp(own->name, tensor->name) == 0 && own->dtype == tensor->dtype && own->rank == tensor->rank &&
            memcmp(own->shape, tensor->shape, own->rank * sizeof own->shape[0]) == 0) {
            *out = self->state_values[i];
            return FORERUN_OK;
        }
    }
    return fr_fail(error, FORERUN_BUNDLE_ERROR,
                   "%s: expected the state \"%s\" to be one of the round graph's, found no such state of its type and "
                   "shape. Build the bundle again.",
                   graph->file, tensor->name);
}

static forerun_status load_graph(onnxruntime *self, fr_graph_kind kind, forerun_error *error) {
    compiled *it = &self->graphs[kind];
    fr_port ports[FR_MAX_PORTS];
    size_t n_ports = fr_ports(&self->base.io, kind, self->draft_len, ports);
    TRY(fr_ports_check(it->graph, ports, n_ports, error));
    for (size_t i = 0; i < n_ports; i++)
        if (ports[i].data != self->base.io.tokens && self->ports[kind][i] == NULL)
            TRY(make_value(self, ports[i].dtype, ports[i].shape, ports[i].rank, ports[i].data, &self->ports[kind][i],
                           error));
    const char *path = fr_file_path(self->arena, self->folder, it->graph->file);
    if (path == NULL)
        return fr_fail(error, FORERUN_OUT_OF_MEMORY, "No memory to load %s.", it->graph->file);
    return check(self, self->api.CreateSession(self->env, path, self->options, &it->session), path, error);
}

static forerun_status bind_all(onnxruntime *self, fr_graph_kind kind, binding *to, forerun_error *error) {
    const compiled *it = &self->graphs[kind];
    fr_port ports[FR_MAX_PORTS];
    size_t n_ports = fr_ports(&self->base.io, kind, self->draft_len, ports);
    TRY(check(self, self->api.CreateIoBinding(it->session, &to->handle), "binding", error));
    const int64_t shape[2] = {1, (int64_t)to->width};
    TRY(make_value(self, FR_INT64, shape, 2, self->base.io.tokens, &to->tokens, error));
    for (size_t i = 0; i < n_ports; i++) {
        OrtValue *value = self->ports[kind][i] != NULL ? self->ports[kind][i] : to->tokens;
        if (!ports[i].output)
            TRY(check(self, self->api.BindInput(to->handle, ports[i].name, value), ports[i].name, error));
        else if (fr_port_find(it->graph, &ports[i]) != NULL)
            TRY(check(self, self->api.BindOutput(to->handle, ports[i].name, value), ports[i].name, error));
    }
    for (size_t i = 0; i < it->graph->n_states; i++) {
        const fr_state *state = &it->graph->states[i];
        OrtValue *value = NULL;
        TRY(find_state(self, it->graph, &state->tensor, &value, error));
        TRY(check(self, self->api.BindInput(to->handle, state->tensor.name, value), state->tensor.name, error));
        TRY(check(self, self->api.BindOutput(to->handle, state->output, value), state->output, error));
    }
    return FORERUN_OK;
}

static void release_binding(onnxruntime *self, binding *it) {
    if (it->handle != NULL)
        self->api.ReleaseIoBinding(it->handle);
    if (it->tokens != NULL)
        self->api.ReleaseValue(it->tokens);
    *it = (binding){0};
}

static forerun_status ort_prepare(fr_backend *base, fr_run run, forerun_error *error) {
    onnxruntime *self = (onnxruntime *)base;
    compiled *it = &self->graphs[run.kind];
    if (it->session == NULL)
        TRY(load_graph(self, run.kind, error));
    binding *oldest = &it->bindings[0];
    for (size_t i = 0; i < WIDTHS; i++) {
        if (it->bindings[i].width == run.width) {
            it->bindings[i].last_prepared = ++self->prepared;
            return FORERUN_OK;
        }
        if (it->bindings[i].last_prepared < oldest->last_prepared)
            oldest = &it->bindings[i];
    }
    release_binding(self, oldest);
    oldest->width = run.width;
    forerun_status status = bind_all(self, run.kind, oldest, error);
    if (status != FORERUN_OK)
        release_binding(self, oldest);
    else
        oldest->last_prepared = ++self->prepared;
    return status;
}

static forerun_status ort_run(fr_backend *base, fr_run run, forerun_error *error) {
    onnxruntime *self = (onnxruntime *)base;
    const compiled *it = &self->graphs[run.kind];
    for (size_t i = 0; i < WIDTHS; i++)
        if (it->bindings[i].width == run.width)
            return check(self, self->api.RunWithBinding(it->session, NULL, it->bindings[i].handle), it->graph->file,
                         error);
    return fr_fail(error, FORERUN_INVALID_STATE, "%s was not prepared for %zu tokens.", it->graph->file, run.width);
}

static void ort_state(const fr_backend *base, size_t index, forerun_state_info *out) {
    const onnxruntime *self = (const onnxruntime *)base;
    void *data = NULL;
    out->name = self->states[index].tensor.name;
    out->bytes = fr_tensor_bytes(&self->states[index].tensor);
    /* What the library itself says of the value that is bound, not what we meant to bind. */
    OrtStatus *status = self->api.GetTensorMutableData(self->state_values[index], &data);
    if (status != NULL)
        self->api.ReleaseStatus(status);
    out->input_address = out->output_address = data;
}

static void ort_close(fr_backend *base) {
    onnxruntime *self = (onnxruntime *)base;
    for (int kind = 0; kind < 2; kind++) {
        for (size_t i = 0; i < WIDTHS; i++)
            release_binding(self, &self->graphs[kind].bindings[i]);
        if (self->graphs[kind].session != NULL)
            self->api.ReleaseSession(self->graphs[kind].session);
        for (size_t i = 0; i < FR_MAX_PORTS; i++)
            if (self->ports[kind][i] != NULL)
                self->api.ReleaseValue(self->ports[kind][i]);
    }
    for (size_t i = 0; self->state_values != NULL && i < self->base.n_states; i++)
        if (self->state_values[i] != NULL)
            self->api.ReleaseValue(self->state_values[i]);
    if (self->options != NULL)
        self->api.ReleaseSessionOptions(self->options);
    if (self->operators != NULL)
        self->api.ReleaseCustomOpDomain(self->operators);
    if (self->memory != NULL)
        self->api.ReleaseMemoryInfo(self->memory);
    if (self->env != NULL)
        self->api.ReleaseEnv(self->env);
}

static forerun_status make_options(onnxruntime *self, int32_t threads, forerun_error *error) {
    const fr_ort_api *api = &self->api;
    TRY(check(self, api->CreateEnv(ORT_FATAL, "forerun", &self->env), "starting", error));
    TRY(check(self, api->CreateCpuMemoryInfo(ORT_ARENA_ALLOCATOR, ORT_MEMORY_DEFAULT, &self->memory), "starting",
              error));
    TRY(check(self, api->CreateSessionOptions(&self->options), "session options", error));
    TRY(check(self, api->SetSessionGraphOptimizationLevel(self->options, ORT_ENABLE_ALL), "session options", error));
    TRY(check(self, fr_custom_ops_add(api, self->options, &self->operators), "our operators", error));
    TRY(check(self, api->SetIntraOpNumThreads(self->options, threads), "threads", error));
    return check(self, api->SetInterOpNumThreads(self->options, 1), "threads", error);
}

static const fr_backend_operations operations = {ort_prepare, ort_run, ort_state, ort_close};

forerun_status fr_onnxruntime_open(fr_arena *arena, const char *folder, const fr_manifest *manifest,
                                   const char *library, int32_t threads, fr_backend **out, forerun_error *error) {
    const fr_model *model = &manifest->model;
    if (manifest->round.file == NULL)
        return fr_fail(
            error, FORERUN_BUNDLE_ERROR,
            "%s holds no graphs for ONNX Runtime on the CPU: it was built for GPUs alone. Open it with a GPU, "
            "or add \"- backend: onnxruntime\" to the engines of its recipe and build it again.",
            folder);
    onnxruntime *self = fr_arena_take(arena, 1, sizeof *self);
    if (self == NULL)
        return fr_fail(error, FORERUN_OUT_OF_MEMORY, "No memory to open %s.", folder);
    TRY(fr_ort_load(library, &self->api, error));
    threads = threads > 0 ? threads : usable_processors();
    self->base = (fr_backend){
        .operations = &operations, .name = "onnxruntime", .version = self->api.version, .threads = threads};
    self->arena = arena;
    self->folder = folder;
    self->draft_len = model->draft_len;
    self->graphs[FR_ROUND].graph = &manifest->round;
    self->graphs[FR_PLAIN].graph = &manifest->plain;
    *out = &self->base; /* from here on the caller closes it, also when opening fails */
    TRY(fr_io_take(arena, &self->base.io, model, error));
    TRY(make_options(self, threads, error));
    TRY(take_states(self, &manifest->round, error));
    return load_graph(self, FR_ROUND, error);
}
