#define _GNU_SOURCE /* sched_getaffinity */
#include "onnxruntime.h"

#include "custom_ops.h"
#include "files.h"
#include "ort_graph.h"
#include "ort_providers.h"

#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct onnxruntime {
    fr_backend base;
    fr_ort_api api;
    fr_arena *arena;
    const char *folder;
    OrtEnv *env;
    OrtMemoryInfo *memory;       /* of the host */
    const OrtMemoryInfo *device; /* where the graphs of an engine keep their states; NULL = in the arena */
    bool owns_device;
    OrtSessionOptions *options;
    OrtCustomOpDomain *operators;
    fr_ort_graph graphs[2];      /* by fr_graph_kind */
    fr_ort_binding *bindings[2]; /* [n_bindings] of each: as many widths as a generation may use */
    size_t n_bindings;
    fr_ort_states states;
    uint64_t prepared;
} onnxruntime;

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

static forerun_status load_graph(onnxruntime *self, fr_graph_kind kind, forerun_error *error) {
    fr_ort_graph *it = &self->graphs[kind];
    it->host = self->memory;
    it->on_device = self->device != NULL;
    const char *path = fr_file_path(self->arena, self->folder, it->facts->file);
    if (path == NULL)
        return fr_fail(error, FORERUN_OUT_OF_MEMORY, "No memory to load %s.", it->facts->file);
    return fr_ort_graph_load(it, self->env, self->options, path, error);
}

static forerun_status ort_prepare(fr_backend *base, fr_run run, forerun_error *error) {
    onnxruntime *self = (onnxruntime *)base;
    fr_ort_graph *it = &self->graphs[run.kind];
    if (it->session == NULL)
        TRY(load_graph(self, run.kind, error));
    fr_ort_binding *bindings = self->bindings[run.kind], *oldest = &bindings[0];
    for (size_t i = 0; i < self->n_bindings; i++) {
        if (bindings[i].width == run.width) {
            bindings[i].last_prepared = ++self->prepared;
            return FORERUN_OK;
        }
        if (bindings[i].last_prepared < oldest->last_prepared)
            oldest = &bindings[i];
    }
    fr_ort_graph_unbind(it, oldest);
    oldest->width = run.width;
    forerun_status status = fr_ort_graph_bind(it, oldest, error);
    if (status != FORERUN_OK)
        fr_ort_graph_unbind(it, oldest);
    else
        oldest->last_prepared = ++self->prepared;
    return status;
}

static forerun_status ort_run(fr_backend *base, fr_run run, forerun_error *error) {
    onnxruntime *self = (onnxruntime *)base;
    const fr_ort_graph *it = &self->graphs[run.kind];
    for (size_t i = 0; i < self->n_bindings; i++)
        if (self->bindings[run.kind][i].width == run.width)
            return fr_ort_graph_run(it, &self->bindings[run.kind][i], error);
    return fr_fail(error, FORERUN_INVALID_STATE, "%s was not prepared for %zu tokens.", it->facts->file, run.width);
}

/* One round that reads zeros from the host and leaves its states on the device: what memory holds by chance may be no
 * number at all, which attention would spread from rows that it masks. */
static forerun_status clear_states(onnxruntime *self, fr_ort_binding *once, void *zeros, forerun_error *error) {
    const fr_ort_graph *round = &self->graphs[FR_ROUND];
    TRY(fr_ort_graph_bind(round, once, error));
    for (size_t i = 0; i < self->states.count; i++) {
        const fr_tensor *tensor = &self->states.facts[i].tensor;
        OrtValue *zero = NULL;
        TRY(fr_ort_value(&self->api, self->memory, tensor->dtype, tensor->shape, tensor->rank, zeros, &zero, error));
        OrtStatus *status = self->api.BindInput(once->handle, tensor->name, zero);
        self->api.ReleaseValue(zero); /* the binding keeps what it needs */
        TRY(fr_ort_check(&self->api, status, tensor->name, error));
    }
    *self->base.io.n_known = 1;
    return fr_ort_graph_run(round, once, error);
}

static forerun_status take_states(onnxruntime *self, forerun_error *error) {
    const fr_ort_graph *round = &self->graphs[FR_ROUND];
    TRY(fr_ort_states_take(&self->api, self->arena, self->memory, self->device, round->session, round->facts,
                           &self->states, error));
    self->base.n_states = self->states.count;
    size_t largest = 1;
    for (size_t i = 0; i < self->states.count; i++)
        if (fr_tensor_bytes(&self->states.facts[i].tensor) > largest)
            largest = fr_tensor_bytes(&self->states.facts[i].tensor);
    if (self->device == NULL)
        return FORERUN_OK;
    void *zeros = calloc(largest, 1);
    if (zeros == NULL)
        return fr_fail(error, FORERUN_OUT_OF_MEMORY, "No memory to clear states of %zu bytes.", largest);
    fr_ort_binding once = {.width = (size_t)fr_verify_len(round->model) + 1};
    forerun_status status = clear_states(self, &once, zeros, error);
    fr_ort_graph_unbind(round, &once);
    free(zeros);
    return status;
}

static void ort_state(const fr_backend *base, size_t index, forerun_state_info *out) {
    const onnxruntime *self = (const onnxruntime *)base;
    void *data = NULL;
    out->name = self->states.facts[index].tensor.name;
    out->bytes = fr_tensor_bytes(&self->states.facts[index].tensor);
    /* What the library itself says of the value that is bound, not what we meant to bind. */
    OrtStatus *status = self->api.GetTensorMutableData(self->states.values[index], &data);
    if (status != NULL)
        self->api.ReleaseStatus(status);
    out->input_address = out->output_address = data;
}

static void ort_close(fr_backend *base) {
    onnxruntime *self = (onnxruntime *)base;
    for (int kind = 0; kind < 2; kind++)
        for (size_t i = 0; i < self->n_bindings; i++)
            fr_ort_graph_unbind(&self->graphs[kind], &self->bindings[kind][i]);
    fr_ort_states_close(&self->api, &self->states); /* before the session whose provider owns their memory */
    for (int kind = 0; kind < 2; kind++)
        fr_ort_graph_close(&self->graphs[kind]);
    if (self->options != NULL)
        self->api.ReleaseSessionOptions(self->options);
    if (self->operators != NULL)
        self->api.ReleaseCustomOpDomain(self->operators);
    if (self->owns_device)
        self->api.ReleaseMemoryInfo((OrtMemoryInfo *)(uintptr_t)self->device);
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
    /* Each graph has threads of its own. They wait for work within a run by spinning; between runs they would take the
     * processors of the other graph's for some ten milliseconds. */
    TRY(check(self, api->AddSessionConfigEntry(self->options, "session.force_spinning_stop", "1"), "threads", error));
    return check(self, api->SetInterOpNumThreads(self->options, 1), "threads", error);
}

static const fr_backend_operations operations = {ort_prepare, ort_run, ort_state, ort_close, NULL};

/* The graphs to run: those for the CPU, or those of an engine, with which its library was fed. */
static forerun_status choose_graphs(onnxruntime *self, const fr_manifest *manifest, const char *engine, bool on_device,
                                    forerun_error *error) {
    self->graphs[FR_ROUND].facts = &manifest->round;
    self->graphs[FR_PLAIN].facts = &manifest->plain;
    if (engine == NULL && !on_device && manifest->round.file != NULL)
        return FORERUN_OK;
    if (engine == NULL && !on_device)
        return fr_fail(
            error, FORERUN_BUNDLE_ERROR,
            "%s holds no graphs for ONNX Runtime on the CPU: it was built for GPUs alone. Open it with a GPU, "
            "or add \"- backend: onnxruntime\" to the engines of its recipe and build it again.",
            self->folder);
    for (size_t i = 0; i < manifest->n_engines; i++) {
        if (engine != NULL && strcmp(manifest->engines[i].folder, engine) != 0)
            continue;
        self->graphs[FR_ROUND].facts = &manifest->engines[i].round;
        self->graphs[FR_PLAIN].facts = &manifest->engines[i].plain;
        self->base.prefill_width = (size_t)manifest->model.prefill_chunk;
        return FORERUN_OK;
    }
    return fr_fail(error, FORERUN_BUNDLE_ERROR,
                   "%s holds no %s%.200s%s, whose graphs a provider of a GPU runs. Add \"- backend: tensorrt-rtx\" to "
                   "the engines of its recipe and build it again.",
                   self->folder, engine != NULL ? "engine \"" : "engine of a GPU", engine != NULL ? engine : "",
                   engine != NULL ? "\"" : "");
}

static forerun_status add_provider(onnxruntime *self, const fr_provider *provider, const forerun_options *options,
                                   forerun_error *error) {
    TRY(fr_provider_add(provider, &self->api, self->env, self->options, options->provider_library, options->device,
                        &self->device, &self->owns_device, error));
    if (self->base.prefill_width == 0)
        return FORERUN_OK;
    if (self->device == NULL)
        self->device = self->memory; /* an engine's graphs on the CPU: as on a device, for comparing */
    /* Their products quantize and dequantize in ways that the library's own fusions take for 8 bit integers. */
    return check(self, self->api.AddSessionConfigEntry(self->options, "session.disable_quant_qdq", "1"),
                 "session options", error);
}

forerun_status fr_onnxruntime_open(fr_arena *arena, const char *folder, const fr_manifest *manifest,
                                   const forerun_options *options, fr_backend **out, forerun_error *error) {
    const forerun_options defaults = {.threads = 0};
    const fr_provider *provider = NULL;
    options = options != NULL ? options : &defaults;
    TRY(fr_provider_find(options->provider, &provider, error));
    onnxruntime *self = fr_arena_take(arena, 1, sizeof *self);
    if (self == NULL)
        return fr_fail(error, FORERUN_OUT_OF_MEMORY, "No memory to open %s.", folder);
    self->arena = arena;
    self->folder = folder;
    self->base = (fr_backend){.operations = &operations, .name = "onnxruntime"};
    self->base.threads = options->threads > 0 ? options->threads : usable_processors();
    TRY(choose_graphs(self, manifest, options->engine, fr_provider_device(provider) != NULL, error));
    TRY(fr_ort_load(options->onnxruntime_library, &self->api, error));
    self->base.version = self->api.version;
    const size_t others = 2 + 64; /* a chunk of the prompt, its rest, and after pauses a power of two */
    size_t n_bindings = manifest->model.n_verify_widths + others;
    for (int kind = 0; kind < 2; kind++)
        if ((self->bindings[kind] = fr_arena_take(arena, n_bindings, sizeof(fr_ort_binding))) == NULL)
            return fr_fail(error, FORERUN_OUT_OF_MEMORY, "No memory to open %s.", folder);
    self->n_bindings = n_bindings;
    self->base.has_confidence = fr_graph_gives(self->graphs[FR_ROUND].facts, "draft_confidence");
    *out = &self->base; /* from here on the caller closes it, also when opening fails */
    for (int kind = 0; kind < 2; kind++) {
        fr_ort_graph *it = &self->graphs[kind];
        *it = (fr_ort_graph){.facts = it->facts, .kind = (fr_graph_kind)kind, .api = &self->api, .io = &self->base.io};
        it->states = &self->states;
        it->model = &manifest->model;
    }
    TRY(fr_io_take(arena, &self->base.io, &manifest->model, error));
    TRY(make_options(self, self->base.threads, error));
    TRY(add_provider(self, provider, options, error));
    TRY(load_graph(self, FR_ROUND, error));
    return take_states(self, error);
}
