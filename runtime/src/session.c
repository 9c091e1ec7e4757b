/* The public calls on an engine: argument checks, and the engine's parts put together. */
#include "arena.h"
#include "cuda_graphs.h"
#include "files.h"
#include "loop.h"
#include "manifest.h"
#include "onnxruntime.h"
#include "reference.h"
#include "vocab.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { VOCAB_BYTES = 1 << 30, MAX_THREADS = 4096 };

struct forerun_engine {
    fr_arena arena;
    fr_manifest manifest; /* of a table model: only `model` is filled */
    fr_vocab vocab;
    fr_backend *backend;
    fr_loop loop;
};

/* A struct of another size comes from another version of the header. */
static forerun_status check_size(const char *name, size_t found, size_t expected, forerun_error *error) {
    if (found == expected)
        return FORERUN_OK;
    return fr_fail(
        error, FORERUN_INVALID_ARGUMENT,
        "%s.struct_size must be sizeof(%s) = %zu, found %zu. Set it, and build with the header of forerun %s.", name,
        name, expected, found, FORERUN_VERSION);
}

static forerun_status missing(const char *name, forerun_error *error) {
    return fr_fail(error, FORERUN_INVALID_ARGUMENT, "%s must not be NULL.", name);
}

/* The engine of `graphs->engine`, whose interface the callbacks serve. */
static forerun_status open_graphs(forerun_engine *engine, const char *folder, const forerun_graphs *graphs,
                                  forerun_error *error) {
    const fr_manifest *manifest = &engine->manifest;
    for (size_t i = 0; i < manifest->n_engines; i++) {
        const fr_engine *it = &manifest->engines[i];
        if (strcmp(it->folder, graphs->engine) == 0)
            return fr_cuda_graphs_open(&engine->arena, &manifest->model, &it->round, &it->plain, graphs,
                                       &engine->backend, error);
    }
    char list[400] = "no engine for a GPU";
    for (size_t i = 0, used = 0; i < manifest->n_engines && used < sizeof list; i++)
        used += (size_t)snprintf(list + used, sizeof list - used, "%s\"%s\"", i > 0 ? ", " : "",
                                 manifest->engines[i].folder);
    return fr_fail(error, FORERUN_INVALID_ARGUMENT,
                   "%s has no engine \"%.200s\": found %s. Choose one that it has, or build the bundle with another.",
                   folder, graphs->engine, list);
}

/* `graphs` is NULL where ONNX Runtime runs the bundle. */
static forerun_status open_parts(forerun_engine *engine, const char *bundle, const forerun_options *options,
                                 const forerun_graphs *graphs, forerun_error *error) {
    char *data, *folder = fr_arena_text(&engine->arena, bundle, strlen(bundle));
    size_t length;
    if (folder == NULL)
        return fr_fail(error, FORERUN_OUT_OF_MEMORY, "No memory to open %s.", bundle);
    forerun_status status = fr_manifest_open(&engine->arena, folder, &engine->manifest, error);
    if (status == FORERUN_OK)
        status = fr_file_read(&engine->arena, folder, "vocab.bin", VOCAB_BYTES, &data, &length, error);
    if (status == FORERUN_OK)
        status = fr_vocab_parse("vocab.bin", data, length, &engine->vocab, error);
    if (status == FORERUN_OK && graphs != NULL)
        status = open_graphs(engine, folder, graphs, error);
    else if (status == FORERUN_OK)
        status = fr_onnxruntime_open(&engine->arena, folder, &engine->manifest, options, &engine->backend, error);
    if (status == FORERUN_OK)
        status = fr_loop_open(&engine->loop, &engine->arena, engine->backend, &engine->manifest.model, error);
    return status;
}

static forerun_status open_bundle(const char *bundle, const forerun_options *options, const forerun_graphs *graphs,
                                  forerun_engine **out, forerun_error *error) {
    if (bundle == NULL || out == NULL)
        return missing(bundle == NULL ? "bundle" : "out", error);
    if (options != NULL) {
        forerun_status status = check_size("forerun_options", options->struct_size, sizeof *options, error);
        if (status != FORERUN_OK)
            return status;
        if (options->threads < 0 || options->threads > MAX_THREADS)
            return fr_fail(error, FORERUN_INVALID_ARGUMENT, "threads must be 0 (all) .. %d, found %d.", MAX_THREADS,
                           options->threads);
    }
    forerun_engine *engine = calloc(1, sizeof *engine);
    if (engine == NULL)
        return fr_fail(error, FORERUN_OUT_OF_MEMORY, "No memory to open %s.", bundle);
    forerun_status status = open_parts(engine, bundle, options, graphs, error);
    if (status != FORERUN_OK)
        forerun_close(engine);
    else
        *out = engine;
    return status;
}

forerun_status forerun_open(const char *bundle, const forerun_options *options, forerun_engine **out,
                            forerun_error *error) {
    return open_bundle(bundle, options, NULL, out, error);
}

forerun_status forerun_open_graphs(const char *bundle, const forerun_options *options, const forerun_graphs *graphs,
                                   forerun_engine **out, forerun_error *error) {
    if (graphs == NULL)
        return missing("graphs", error);
    forerun_status status = check_size("forerun_graphs", graphs->struct_size, sizeof *graphs, error);
    if (status != FORERUN_OK)
        return status;
    if (graphs->engine == NULL || graphs->bind == NULL || graphs->enqueue == NULL || graphs->message == NULL)
        return missing(graphs->engine == NULL    ? "graphs.engine"
                       : graphs->bind == NULL    ? "graphs.bind"
                       : graphs->enqueue == NULL ? "graphs.enqueue"
                                                 : "graphs.message",
                       error);
    return open_bundle(bundle, options, graphs, out, error);
}

forerun_status forerun_open_table(const forerun_table *table, forerun_engine **out, forerun_error *error) {
    if (table == NULL || out == NULL)
        return missing(table == NULL ? "table" : "out", error);
    forerun_status status = check_size("forerun_table", table->struct_size, sizeof *table, error);
    if (status != FORERUN_OK)
        return status;
    forerun_engine *engine = calloc(1, sizeof *engine);
    if (engine == NULL)
        return fr_fail(error, FORERUN_OUT_OF_MEMORY, "No memory to open a table model.");
    fr_model *model = &engine->manifest.model;
    status = fr_reference_open(&engine->arena, table, model, &engine->backend, error);
    if (status == FORERUN_OK)
        status = fr_loop_open(&engine->loop, &engine->arena, engine->backend, model, error);
    if (status != FORERUN_OK)
        forerun_close(engine);
    else
        *out = engine;
    return status;
}

void forerun_close(forerun_engine *engine) {
    if (engine == NULL)
        return;
    if (engine->backend != NULL)
        engine->backend->operations->close(engine->backend);
    fr_arena_free(&engine->arena);
    free(engine);
}

forerun_status forerun_describe(const forerun_engine *engine, forerun_facts *out, forerun_error *error) {
    if (engine == NULL || out == NULL)
        return missing(engine == NULL ? "engine" : "out", error);
    forerun_status status = check_size("forerun_facts", out->struct_size, sizeof *out, error);
    if (status != FORERUN_OK)
        return status;
    const fr_model *model = &engine->manifest.model;
    *out = (forerun_facts){.struct_size = sizeof *out,
                           .name = model->name,
                           .target_architecture = model->target_architecture,
                           .drafter_family = model->drafter_family,
                           .backend = engine->backend->name,
                           .backend_version = engine->backend->version,
                           .vocab_size = model->vocab_size,
                           .draft_len = model->draft_len,
                           .block_size = model->block_size,
                           .capacity = model->capacity,
                           .prefill_chunk = model->prefill_chunk,
                           .verify_widths = model->verify_widths,
                           .n_verify_widths = model->n_verify_widths,
                           .eos_token_ids = model->eos_token_ids,
                           .n_eos_token_ids = model->n_eos_token_ids,
                           .bos_token_id = model->bos_token_id,
                           .n_states = engine->backend->n_states,
                           .threads = engine->backend->threads,
                           .has_costs = engine->loop.has_costs,
                           .lookup_len = model->lookup_len,
                           .lookup_match = model->lookup_match};
    return FORERUN_OK;
}

forerun_status forerun_state(const forerun_engine *engine, size_t index, forerun_state_info *out,
                             forerun_error *error) {
    if (engine == NULL || out == NULL)
        return missing(engine == NULL ? "engine" : "out", error);
    forerun_status status = check_size("forerun_state_info", out->struct_size, sizeof *out, error);
    if (status != FORERUN_OK)
        return status;
    if (index >= engine->backend->n_states)
        return fr_fail(error, FORERUN_INVALID_ARGUMENT, "State %zu does not exist; this engine has %zu.", index,
                       engine->backend->n_states);
    engine->backend->operations->state(engine->backend, index, out);
    return FORERUN_OK;
}

forerun_status forerun_token_bytes(const forerun_engine *engine, int64_t token, const char **bytes, size_t *n_bytes,
                                   forerun_error *error) {
    if (engine == NULL || bytes == NULL || n_bytes == NULL)
        return missing(engine == NULL ? "engine" : bytes == NULL ? "bytes" : "n_bytes", error);
    if (token < 0 || token >= engine->manifest.model.vocab_size)
        return fr_fail(error, FORERUN_INVALID_ARGUMENT, "Token %" PRId64 " does not exist; ids are 0 .. %" PRId64 ".",
                       token, engine->manifest.model.vocab_size - 1);
    *bytes = fr_vocab_bytes(&engine->vocab, token, n_bytes);
    return FORERUN_OK;
}

static forerun_status check_cost(const char *name, size_t index, float cost, forerun_error *error) {
    if (cost > 0.0f && isfinite(cost))
        return FORERUN_OK;
    return fr_fail(error, FORERUN_INVALID_ARGUMENT, "costs.%s[%zu] must be above 0 and finite, found %g.", name, index,
                   (double)cost);
}

forerun_status forerun_set_costs(forerun_engine *engine, const forerun_costs *costs, forerun_error *error) {
    if (engine == NULL)
        return missing("engine", error);
    if (costs != NULL) {
        TRY(check_size("forerun_costs", costs->struct_size, sizeof *costs, error));
        size_t expected = engine->manifest.model.n_verify_widths;
        if (costs->rounds == NULL || costs->n_rounds != expected)
            return fr_fail(error, FORERUN_INVALID_ARGUMENT,
                           "costs.rounds must hold a cost for each of the %zu verify widths, found %zu.", expected,
                           costs->rounds != NULL ? costs->n_rounds : 0);
        TRY(check_cost("plain", 0, costs->plain, error));
        for (size_t i = 0; i < expected; i++)
            TRY(check_cost("rounds", i, costs->rounds[i], error));
    }
    fr_loop_costs(&engine->loop, costs);
    return FORERUN_OK;
}

forerun_status forerun_start(forerun_engine *engine, const int64_t *prompt, size_t n_prompt,
                             const forerun_request *request, forerun_error *error) {
    if (engine == NULL || request == NULL)
        return missing(engine == NULL ? "engine" : "request", error);
    forerun_status status = check_size("forerun_request", request->struct_size, sizeof *request, error);
    return status != FORERUN_OK ? status : fr_loop_start(&engine->loop, prompt, n_prompt, request, error);
}

forerun_status forerun_step(forerun_engine *engine, forerun_round *out, forerun_error *error) {
    if (engine == NULL || out == NULL)
        return missing(engine == NULL ? "engine" : "out", error);
    forerun_status status = check_size("forerun_round", out->struct_size, sizeof *out, error);
    return status != FORERUN_OK ? status : fr_loop_step(&engine->loop, out, error);
}

void forerun_cancel(forerun_engine *engine) {
    if (engine != NULL)
        fr_loop_cancel(&engine->loop);
}
