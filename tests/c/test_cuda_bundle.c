/* forerun_open_graphs on a bundle on disk that is for GPUs alone: all of the public calls, from the manifest on. */
#define _POSIX_C_SOURCE 200809L
#include "bundle_files.h"
#include "table_graphs.h"

#include <sys/stat.h>
#include <unistd.h>

static const char *const NAMES[] = {"engines/table/round.engine", "engines/table/plain.engine", "vocab.bin"};
static const char *const CONTENTS[] = {"the round", "the plain graph", "VNRF\0\0\0\0\0\0\0\0"};
static const size_t LENGTHS[] = {9, 15, 12};
static char folder[] = "/tmp/forerun-cuda-XXXXXX";
static float target[V * V], draft[V * V];
static forerun_error error;

static char *add_tensor(char *at, const fr_tensor *tensor, const char *output) {
    static const char *const dtypes[] = {"int64", "float32", "float16", "bfloat16"};
    at += sprintf(at, "{\"name\": \"%s\", \"dtype\": \"%s\", ", tensor->name, dtypes[tensor->dtype]);
    if (output != NULL)
        at += sprintf(at, "\"output\": \"%s\", ", output);
    at += sprintf(at, "\"shape\": [");
    for (size_t i = 0; i < tensor->rank; i++)
        at += tensor->shape[i] < 0 ? sprintf(at, "%s\"T\"", i > 0 ? ", " : "")
                                   : sprintf(at, "%s%d", i > 0 ? ", " : "", (int)tensor->shape[i]);
    return at + sprintf(at, "]}");
}

static char *add_graph(char *at, const fr_graph *graph) {
    at += sprintf(at, "{\"file\": \"%s\", \"inputs\": [", graph->file);
    for (size_t i = 0; i < graph->n_inputs; i++)
        at = add_tensor(at + sprintf(at, "%s", i > 0 ? ", " : ""), &graph->inputs[i], NULL);
    at += sprintf(at, "], \"outputs\": [");
    for (size_t i = 0; i < graph->n_outputs; i++)
        at = add_tensor(at + sprintf(at, "%s", i > 0 ? ", " : ""), &graph->outputs[i], NULL);
    at += sprintf(at, "], \"states\": [");
    for (size_t i = 0; i < graph->n_states; i++)
        at = add_tensor(at + sprintf(at, "%s", i > 0 ? ", " : ""), &graph->states[i].tensor, graph->states[i].output);
    return at + sprintf(at, "]}");
}

static void write_bundle(const table_graphs *graphs) {
    static char body[8192], text[8400];
    char path[256], *at = body + sprintf(body, "{\n  \"format\": 5,\n  \"files\": {");
    REQUIRE(mkdtemp(folder) != NULL);
    for (size_t i = 0; i < 2; i++) {
        snprintf(path, sizeof path, "%s/%s", folder, i == 0 ? "engines" : "engines/table");
        REQUIRE(mkdir(path, 0700) == 0);
    }
    for (size_t i = 0; i < 3; i++) {
        char hex[65];
        put_file(folder, NAMES[i], CONTENTS[i], LENGTHS[i]);
        hash_text(CONTENTS[i], LENGTHS[i], hex);
        at +=
            sprintf(at, "%s\"%s\": {\"size\": %zu, \"sha256\": \"%s\"}", i > 0 ? ", " : "", NAMES[i], LENGTHS[i], hex);
    }
    at += sprintf(at,
                  "},\n  \"model\": {\"name\": \"it\", \"target_architecture\": \"T\", \"drafter_family\": \"dspark\", "
                  "\"vocab_size\": %d, \"draft_len\": %d, \"lookup_len\": 0, \"lookup_match\": 0, \"block_size\": %d, "
                  "\"capacity\": %d, \"cache_rows\": %d, "
                  "\"prefill_chunk\": %d, \"verify_widths\": [%d], \"eos_token_ids\": [], \"bos_token_id\": null},\n  "
                  "\"graphs\": {},\n"
                  "  \"engines\": [{\"backend\": \"tensorrt-rtx\", \"graphs\": {\"round\": ",
                  V, K, K, CAPACITY, CAPACITY + K + 1, CHUNK, K + 1);
    at = add_graph(at, &graphs->graphs[FR_ROUND]);
    at = add_graph(at + sprintf(at, ", \"plain\": "), &graphs->graphs[FR_PLAIN]);
    at += sprintf(at, "}, \"built\": [{\"folder\": \"engines/table\", \"library\": \"1.7.1.116\", "
                      "\"compute_capability\": [\"8.9\"]}]}],\n");
    put_file(folder, "manifest.json", text, seal(text, body, (size_t)(at - body)));
}

static void remove_bundle(void) {
    static const char *const all[] = {
        "manifest.json", "vocab.bin", "engines/table/round.engine", "engines/table/plain.engine", "engines/table",
        "engines",       ""};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        char path[256];
        snprintf(path, sizeof path, "%s/%s", folder, all[i]);
        CHECK(remove(path) == 0);
    }
}

static void generates_as_the_table_model(const forerun_table *table, table_graphs *graphs) {
    const int64_t prompt[12] = {3, 1, 4, 1, 5, 2, 6, 5, 3, 5, 0, 7};
    forerun_graphs library = callbacks(graphs);
    forerun_engine *engine = NULL, *expected = open_table(table);
    REQUIRE(forerun_open_graphs(folder, NULL, &library, &engine, &error) == FORERUN_OK);
    memset(&library, 0xEE, sizeof library); /* the struct may go */
    for (int decoding = 0; decoding < 3; decoding++)
        for (int hot = 0; hot < 2; hot++) {
            const forerun_request request = request_for(30, hot ? 0.8f : 0.0f, (forerun_decoding)decoding);
            result found = generate(engine, prompt, 12, request), wanted = generate(expected, prompt, 12, request);
            CHECK(memcmp(&found, &wanted, sizeof found) == 0);
        }
    forerun_facts facts = {.struct_size = sizeof facts};
    CHECK(forerun_describe(engine, &facts, &error) == FORERUN_OK);
    CHECK(strcmp(facts.backend, "table") == 0 && strcmp(facts.backend_version, "1.2") == 0);
    CHECK(facts.prefill_chunk == CHUNK && facts.n_states == 2 && facts.threads == 1);
    forerun_close(expected);
    forerun_close(engine);
}

static void refuses_what_the_bundle_has_not(table_graphs *graphs) {
    forerun_engine *none = NULL;
    forerun_graphs library = callbacks(graphs);
    library.engine = "engines/tensorrt-rtx-sm120";
    CHECK(forerun_open_graphs(folder, NULL, &library, &none, &error) == FORERUN_INVALID_ARGUMENT);
    CHECK_HAS(error.message, "has no engine \"engines/tensorrt-rtx-sm120\": found \"engines/table\". Choose one");
    library = callbacks(graphs);
    library.device = 1;
    CHECK(forerun_open_graphs(folder, NULL, &library, &none, &error) == FORERUN_INVALID_ARGUMENT);
    CHECK_HAS(error.message, "GPU 1 does not exist; this process sees 1");
    library = callbacks(graphs);
    library.cuda_library = "/nonexistent/libcuda.so.1";
    CHECK(forerun_open_graphs(folder, NULL, &library, &none, &error) == FORERUN_BACKEND_ERROR);
    CHECK_HAS(error.message, "/nonexistent/libcuda.so.1");
    const forerun_options options = {.struct_size = 1};
    CHECK(forerun_open_graphs(folder, &options, &library, &none, &error) == FORERUN_INVALID_ARGUMENT);
    put_file(folder, NAMES[0], "the rounD", 9); /* damaged: before the library is asked for anything */
    library = callbacks(graphs);
    size_t bindings = graphs->n_bindings;
    CHECK(forerun_open_graphs(folder, NULL, &library, &none, &error) == FORERUN_BUNDLE_ERROR);
    CHECK_HAS(error.message, "engines/table/round.engine");
    CHECK_INT(graphs->n_bindings, bindings);
    CHECK(none == NULL);
}

int main(void) {
    const forerun_table table = successor_table(target, draft, 0x5A);
    table_graphs graphs;
    table_graphs_make(&graphs, &table);
    write_bundle(&graphs);
    generates_as_the_table_model(&table, &graphs);
    refuses_what_the_bundle_has_not(&graphs);
    table_graphs_close(&graphs);
    remove_bundle();
    CHECK_INT(fake_cuda_live(), 0);
    CHECK(fake_cuda_mistake()[0] == '\0');
    return check_failures != 0;
}
