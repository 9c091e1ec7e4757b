/* Graphs and engines of a manifest. */
#include "manifest_graph.h"

#include <stdio.h>
#include <string.h>

static const struct {
    const char *name;
    size_t bytes;
} DTYPES[] = {[FR_INT64] = {"int64", 8},
              [FR_FLOAT32] = {"float32", 4},
              [FR_FLOAT16] = {"float16", 2},
              [FR_BFLOAT16] = {"bfloat16", 2},
              [FR_INT8] = {"int8", 1}};

size_t fr_dtype_bytes(fr_dtype dtype) {
    return DTYPES[dtype].bytes;
}

size_t fr_tensor_bytes(const fr_tensor *tensor) {
    size_t bytes = fr_dtype_bytes(tensor->dtype);
    for (size_t i = 0; i < tensor->rank; i++)
        bytes *= (size_t)tensor->shape[i];
    return bytes;
}

bool fr_graph_gives(const fr_graph *graph, const char *output) {
    for (size_t i = 0; i < graph->n_outputs; i++)
        if (strcmp(graph->outputs[i].name, output) == 0)
            return true;
    return false;
}

static bool read_dtype(const char *name, fr_dtype *out) {
    for (size_t i = 0; i < sizeof DTYPES / sizeof DTYPES[0]; i++)
        if (strcmp(name, DTYPES[i].name) == 0) {
            *out = (fr_dtype)i;
            return true;
        }
    return false;
}

static void read_tensor(fr_fields *in, const fr_json *value, fr_tensor *out) {
    out->name = fr_field_string(in, value, "name");
    const char *dtype = fr_field_string(in, value, "dtype");
    if (!read_dtype(dtype, &out->dtype))
        fr_field_wrong(in, "dtype", "int64, float32, float16, bfloat16 or int8", fr_json_get(value, "dtype"));
    const fr_json *shape = fr_field_container(in, value, "shape", FR_JSON_ARRAY);
    if (shape == NULL)
        return;
    if (shape->count > FR_MAX_RANK) {
        fr_field_wrong(in, "shape", "at most 8 dimensions", shape);
        return;
    }
    int64_t elements = 1;
    for (const fr_json *dim = shape->first; dim != NULL; dim = dim->next) {
        bool dynamic = dim->kind == FR_JSON_STRING;
        if (!dynamic &&
            (dim->kind != FR_JSON_INTEGER || dim->integer < 1 || dim->integer > (INT64_C(1) << 44) / elements)) {
            fr_field_wrong(in, "shape", "sizes of at least 1, or names, and less than 2^44 elements", dim);
            return;
        }
        elements *= dynamic ? 1 : dim->integer;
        out->shape[out->rank++] = dynamic ? -1 : dim->integer;
    }
}

static fr_tensor *read_tensors(fr_fields *in, const fr_json *graph, const char *name, size_t *count) {
    const fr_json *list = fr_field_container(in, graph, name, FR_JSON_ARRAY);
    if (list == NULL)
        return NULL;
    fr_tensor *tensors = fr_field_take(in, list->count, sizeof *tensors);
    for (const fr_json *item = list->first; item != NULL && in->status == FORERUN_OK; item = item->next)
        read_tensor(in, item, &tensors[(*count)++]);
    return tensors;
}

/* `section` is where `graphs` stands; in messages of its fields the graph's name follows. */
static void read_graph(fr_fields *in, const fr_json *graphs, const char *section, const char *name, int64_t cache_rows,
                       fr_graph *out) {
    in->section = section;
    const fr_json *graph = fr_field_container(in, graphs, name, FR_JSON_OBJECT);
    char *place = fr_field_take(in, strlen(section) + strlen(name) + 2, 1);
    if (graph == NULL || place == NULL)
        return;
    sprintf(place, "%s.%s", section, name);
    in->section = place;
    out->file = fr_field_string(in, graph, "file");
    out->inputs = read_tensors(in, graph, "inputs", &out->n_inputs);
    out->outputs = read_tensors(in, graph, "outputs", &out->n_outputs);
    const fr_json *list = fr_field_container(in, graph, "states", FR_JSON_ARRAY);
    if (list == NULL || (out->states = fr_field_take(in, list->count, sizeof *out->states)) == NULL)
        return;
    for (const fr_json *item = list->first; item != NULL && in->status == FORERUN_OK; item = item->next) {
        fr_state *state = &out->states[out->n_states++];
        read_tensor(in, item, &state->tensor);
        state->output = fr_field_string(in, item, "output");
        for (size_t i = 0; i < state->tensor.rank; i++)
            if (state->tensor.shape[i] < 0)
                fr_field_wrong(in, "states", "fixed shapes", item);
        /* A cache, or its scales, with fewer rows than the loop counts on would be written beyond its end. */
        bool is_cache = state->tensor.rank >= 3 && strcmp(state->tensor.name, "draft_probs") != 0;
        if (is_cache && state->tensor.shape[2] < cache_rows)
            fr_field_wrong(in, "states", "caches of model.cache_rows rows", fr_json_get(item, "name"));
    }
}

void fr_field_graphs(fr_fields *in, const fr_json *graphs, const char *section, int64_t cache_rows, fr_graph *round,
                     fr_graph *plain) {
    read_graph(in, graphs, section, "round", cache_rows, round);
    read_graph(in, graphs, section, "plain", cache_rows, plain);
}

/* FOLDER/NAME.engine in the arena; NULL without memory, which is recorded. */
static const char *plan_path(fr_fields *in, const char *folder, const char *name) {
    size_t size = strlen(folder) + strlen(name) + sizeof "/.engine";
    char *path = fr_field_take(in, size, 1);
    if (path != NULL)
        snprintf(path, size, "%s/%s.engine", folder, name);
    return path;
}

static void read_capabilities(fr_fields *in, const fr_json *built, fr_engine *out) {
    const fr_json *list = fr_field_container(in, built, "compute_capability", FR_JSON_ARRAY);
    if (list == NULL || (out->capabilities = fr_field_take(in, list->count, sizeof *out->capabilities)) == NULL)
        return;
    for (const fr_json *item = list->first; item != NULL; item = item->next) {
        if (item->kind != FR_JSON_STRING)
            fr_field_wrong(in, "compute_capability", "texts such as 8.9", item);
        out->capabilities[out->n_capabilities++] = item->kind == FR_JSON_STRING ? item->text : "";
    }
}

static void read_built(fr_fields *in, const fr_json *built, fr_engine *out) {
    in->section = "engines.built";
    out->folder = fr_field_string(in, built, "folder");
    out->library = fr_field_string(in, built, "library");
    read_capabilities(in, built, out);
    out->round_plan = plan_path(in, out->folder, "round");
    out->plain_plan = plan_path(in, out->folder, "plain");
}

/* How many engines an entry has; 0 for one that is not as expected, which is recorded. */
static size_t count_built(fr_fields *in, const fr_json *entry) {
    const fr_json *built = fr_field_container(in, entry, "built", FR_JSON_ARRAY);
    return built != NULL ? built->count : 0;
}

void fr_field_engines(fr_fields *in, const fr_json *root, fr_manifest *out) {
    in->section = "manifest";
    const fr_json *list = fr_field_container(in, root, "engines", FR_JSON_ARRAY);
    size_t count = 0;
    in->section = "engines";
    for (const fr_json *entry = list != NULL ? list->first : NULL; entry != NULL; entry = entry->next)
        count += count_built(in, entry);
    if (count == 0 || (out->engines = fr_field_take(in, count, sizeof *out->engines)) == NULL)
        return;
    for (const fr_json *entry = list->first; entry != NULL && in->status == FORERUN_OK; entry = entry->next) {
        fr_engine engine = {0};
        in->section = "engines";
        engine.backend = fr_field_string(in, entry, "backend");
        const fr_json *built = fr_field_container(in, entry, "built", FR_JSON_ARRAY);
        if (built == NULL || built->count == 0)
            continue;
        const fr_json *graphs = fr_field_container(in, entry, "graphs", FR_JSON_OBJECT);
        fr_field_graphs(in, graphs, "engines.graphs", out->model.cache_rows, &engine.round, &engine.plain);
        for (const fr_json *item = built->first; item != NULL && in->status == FORERUN_OK; item = item->next) {
            out->engines[out->n_engines] = engine;
            read_built(in, item, &out->engines[out->n_engines++]);
        }
    }
}
