/* What can be wrong with the library behind the CUDA backend: a callback that refuses, graphs that are others. */
#include "cuda_fixture.h"

static void passes_on_what_the_library_says(void) {
    make();
    graphs.refuse_tensor = "next_position";
    CHECK(refused() == FORERUN_BACKEND_ERROR);
    CHECK(strcmp(error.message, "engines/table/round.engine, 5 tokens, binding next_position: the engine has no tensor "
                                "next_position") == 0);
    make();
    graphs.refuse_tensor = "cache.out";
    graphs.silent = true;
    CHECK(refused() == FORERUN_BACKEND_ERROR);
    CHECK_HAS(error.message, "binding cache.out: the library refused and did not say why");
    make();
    graphs.refuse_enqueue = 1;
    CHECK(refused() == FORERUN_BACKEND_ERROR);
    CHECK_HAS(error.message, "round.engine, 5 tokens, running it once before its capture: call 1 was refused");
    make();
    graphs.refuse_enqueue = 2;
    CHECK(refused() == FORERUN_BACKEND_ERROR);
    CHECK_HAS(error.message, "round.engine, 5 tokens, capturing it: call 2 was refused");
    open_engine();
    graphs.refuse_enqueue = 3;
    CHECK(start(FORERUN_PLAIN) == FORERUN_BACKEND_ERROR);
    CHECK_HAS(error.message, "engines/table/plain.engine, 1 tokens, running it once");
    CHECK_INT(graphs.n_rebound, 0);
    generates(FORERUN_PLAIN);
    CHECK_INT(graphs.n_rebound, 5 + 3 + 2);
    close_engine();
}

static void a_library_may_allocate_before_its_capture_only(void) {
    CUresult cuMemFree_v2(CUdeviceptr);
    make();
    graphs.allocate_in_enqueue = 1;
    REQUIRE(cuda_engine_open(&engine, &graphs, &error) == FORERUN_OK);
    generates(FORERUN_SPECULATIVE);
    CHECK_INT(cuMemFree_v2(graphs.allocated), CUDA_SUCCESS);
    close_engine();
    make();
    graphs.allocate_in_enqueue = 2;
    CHECK(refused() == FORERUN_BACKEND_ERROR);
    CHECK_HAS(error.message, "engines/table/round.engine, 5 tokens, cannot be captured as one CUDA graph: its library "
                             "allocated, waited or used another stream");
    CHECK_HAS(error.message, "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED (901)");
    make();
    graphs.allocate_in_enqueue = graphs.refuse_enqueue = 2; /* and it notices */
    CHECK(refused() == FORERUN_BACKEND_ERROR);
    CHECK_HAS(error.message, "cannot be captured as one CUDA graph");
    CHECK_HAS(error.message, "call 2 was refused");
}

/* The interface in the manifest is checked before anything of the library is called. */
static void refuses_another_interface(void) {
    make();
    graphs.graphs[FR_ROUND].outputs[2].name = "next";
    CHECK(refused() == FORERUN_BUNDLE_ERROR);
    CHECK_HAS(error.message, "engines/table/round.engine: expected the output \"next_tokens\" as int64 [1, 5]");
    CHECK_INT(graphs.n_bindings, 0);
    make();
    graphs.graphs[FR_PLAIN].outputs[2].shape[1] = 2;
    CHECK(refused() == FORERUN_BUNDLE_ERROR);
    CHECK_HAS(error.message, "engines/table/plain.engine: expected the output \"next_tokens\" as int64 [1, 1]");
    make();
    graphs.graphs[FR_PLAIN].inputs[4].dtype = FR_FLOAT16;
    CHECK(refused() == FORERUN_BUNDLE_ERROR);
    CHECK_HAS(error.message, "expected the input \"uniform\" as float32");
    make();
    graphs.graphs[FR_PLAIN].n_inputs = 6;
    CHECK(refused() == FORERUN_BUNDLE_ERROR);
    CHECK_HAS(error.message, "found 9: it has some that this runtime does not know");
    make();
    graphs.graphs[FR_PLAIN].states[0].tensor.dtype = FR_FLOAT32;
    CHECK(refused() == FORERUN_BUNDLE_ERROR);
    CHECK_HAS(error.message, "plain.engine: expected the state \"cache\" to be one of the round graph's");
    make();
    graphs.model.prefill_chunk = CAPACITY + 1;
    graphs.model.cache_rows = CAPACITY + K - 1;
    CHECK(refused() == FORERUN_BUNDLE_ERROR);
    CHECK_HAS(error.message, "a prefill run and a block after it write 68 rows, its caches have 67. Build");
    make();
    graphs.model.prefill_chunk = CAPACITY + 1; /* no prompt is longer than the capacity */
    CHECK(refused() == FORERUN_OK);
}

static void does_not_trust_the_graph(void) {
    forerun_round round;
    open_engine();
    graphs.skip = 1;
    REQUIRE(start(FORERUN_SPECULATIVE) == FORERUN_OK);
    CHECK(step(&round) == FORERUN_BACKEND_ERROR);
    CHECK_HAS(error.message, "round.engine: the round ended at position 6, expected 5: the bundle's graph is wrong.");
    const fr_run unknown = {FR_ROUND, FORERUN_DECODE, 3};
    CHECK(engine.backend->operations->run(engine.backend, unknown, &error) == FORERUN_INVALID_STATE);
    CHECK_HAS(error.message, "was not prepared for 3 tokens");
    close_engine();
}

static void confidence_is_one_without_a_head(void) {
    forerun_round round;
    make();
    graphs.graphs[FR_ROUND].n_outputs = 5;
    REQUIRE(cuda_engine_open(&engine, &graphs, &error) == FORERUN_OK);
    REQUIRE(start(FORERUN_SPECULATIVE) == FORERUN_OK);
    for (int i = 0; i < 6; i++)
        REQUIRE(step(&round) == FORERUN_OK);
    REQUIRE(round.n_draft_tokens == K);
    for (size_t i = 0; i < K; i++)
        CHECK(round.draft_confidence[i] == 1.0f);
    close_engine();
}

static int no_bind(void *user, forerun_graph graph, int64_t width, const char *name, uint64_t address) {
    (void)user, (void)graph, (void)width, (void)name, (void)address;
    return 0;
}

static void checks_its_arguments(void) {
    forerun_engine *none = NULL;
    const forerun_graphs good = callbacks(&graphs);
    CHECK(forerun_open_graphs("/nonexistent", NULL, NULL, &none, &error) == FORERUN_INVALID_ARGUMENT);
    CHECK_HAS(error.message, "graphs must not be NULL");
    forerun_graphs bad = good;
    bad.struct_size = 8;
    CHECK(forerun_open_graphs("/nonexistent", NULL, &bad, &none, &error) == FORERUN_INVALID_ARGUMENT);
    CHECK_HAS(error.message, "forerun_graphs.struct_size must be");
    bad = good;
    bad.engine = NULL;
    CHECK(forerun_open_graphs("/nonexistent", NULL, &bad, &none, &error) == FORERUN_INVALID_ARGUMENT);
    CHECK_HAS(error.message, "graphs.engine must not be NULL");
    bad = (forerun_graphs){.struct_size = sizeof bad, .engine = "x"};
    CHECK(forerun_open_graphs("/nonexistent", NULL, &bad, &none, &error) == FORERUN_INVALID_ARGUMENT);
    CHECK_HAS(error.message, "graphs.bind must not be NULL");
    bad.bind = no_bind;
    CHECK(forerun_open_graphs("/nonexistent", NULL, &bad, &none, &error) == FORERUN_INVALID_ARGUMENT);
    CHECK_HAS(error.message, "graphs.enqueue must not be NULL");
    bad.enqueue = table_enqueue;
    CHECK(forerun_open_graphs("/nonexistent", NULL, &bad, &none, &error) == FORERUN_INVALID_ARGUMENT);
    CHECK_HAS(error.message, "graphs.message must not be NULL");
    CHECK(forerun_open_graphs(NULL, NULL, &good, &none, &error) == FORERUN_INVALID_ARGUMENT);
    CHECK(forerun_open_graphs("/nonexistent", NULL, &good, NULL, &error) == FORERUN_INVALID_ARGUMENT);
    CHECK(forerun_open_graphs("/nonexistent", NULL, &good, &none, &error) == FORERUN_FILE_ERROR);
    CHECK_HAS(error.message, "/nonexistent/manifest.json");
    CHECK(none == NULL);
}

int main(void) {
    passes_on_what_the_library_says();
    a_library_may_allocate_before_its_capture_only();
    refuses_another_interface();
    does_not_trust_the_graph();
    confidence_is_one_without_a_head();
    checks_its_arguments();
    return check_failures != 0;
}
