/* What can fail in the CUDA backend: each call of the driver, each callback of the library, a graph that is another. */
#include "table_graphs.h"

#include <pthread.h>

static float target[V * V], draft[V * V];
static const int64_t PROMPT[12] = {3, 1, 4, 1, 5, 2, 6, 5, 3, 5, 0, 7};
static forerun_error error;
static table_graphs graphs;
static cuda_engine engine;

static void make(void) {
    forerun_table table = successor_table(target, draft, 0x5A);
    fake_cuda_reset(13000, 1);
    table_graphs_make(&graphs, &table);
}

static void open_engine(void) {
    make();
    REQUIRE(cuda_engine_open(&engine, &graphs, &error) == FORERUN_OK);
    fake_cuda_forget();
}

static void close_engine(void) {
    cuda_engine_close(&engine);
    table_graphs_close(&graphs);
    CHECK_INT(fake_cuda_live(), 0);
    CHECK(fake_cuda_mistake()[0] == '\0');
}

/* Opens once more; everything that was taken until the failure is free again. */
static forerun_status refused(void) {
    error.message[0] = '\0';
    forerun_status status = cuda_engine_open(&engine, &graphs, &error);
    close_engine();
    return status;
}

static forerun_status start(forerun_decoding decoding) {
    const forerun_request request = request_for(20, 0.0f, decoding);
    return fr_loop_start(&engine.loop, PROMPT, 12, &request, &error);
}

static forerun_status step(forerun_round *round) {
    *round = (forerun_round){.struct_size = sizeof *round};
    return fr_loop_step(&engine.loop, round, &error);
}

/* The tokens of a greedy generation are the successors of the prompt's last. */
static void generates(forerun_decoding decoding) {
    forerun_round round;
    int64_t last = PROMPT[11], count = 0;
    REQUIRE(start(decoding) == FORERUN_OK);
    do {
        REQUIRE(step(&round) == FORERUN_OK);
        for (size_t i = 0; i < round.n_committed; i++, count++) {
            CHECK_INT(round.committed[i], (last + 1) % V);
            last = round.committed[i];
        }
    } while (round.finish == FORERUN_RUNNING);
    CHECK_INT(count, 20);
}

/* The calls of a log, one by one: name, without a size, and how often it came before. */
typedef struct call {
    char name[64];
    size_t nth;
} call;

static size_t calls_of(const char *log, call *out, size_t most) {
    size_t count = 0;
    for (const char *at = log; *at != '\0'; at += strcspn(at, " "), at += *at == ' ') {
        call it = {.nth = 1};
        snprintf(it.name, sizeof it.name, "%.*s", (int)strcspn(at, " :"), at);
        if (strcmp(it.name, "kernel") == 0)
            continue;
        REQUIRE(count < most);
        for (size_t i = 0; i < count; i++)
            it.nth += strcmp(out[i].name, it.name) == 0;
        out[count++] = it;
    }
    return count;
}

/* Nothing depends on these: what they free is forgotten either way. */
static bool may_fail(const call *it) {
    return strcmp(it->name, "cuGraphDestroy") == 0;
}

static void every_call_of_opening_may_fail(int code, int for_good) {
    static call calls[128];
    make();
    fake_cuda_forget();
    REQUIRE(cuda_engine_open(&engine, &graphs, &error) == FORERUN_OK);
    size_t count = calls_of(fake_cuda_log(), calls, 128);
    close_engine();
    CHECK(count > 30);
    for (size_t i = 0; i < count; i++) {
        make();
        fake_cuda_fail(calls[i].name, calls[i].nth, code, for_good);
        forerun_status status = refused();
        if (may_fail(&calls[i]))
            continue;
        CHECK(status == FORERUN_BACKEND_ERROR || (code == CUDA_ERROR_OUT_OF_MEMORY && status == FORERUN_OUT_OF_MEMORY));
        CHECK(strlen(error.message) > 30);
        if (status == FORERUN_OK || check_failures > 0)
            printf("when %s failed for the %zuth time: %s\n", calls[i].name, calls[i].nth, error.message);
    }
}

/* A generation that could not start leaves an engine that can. */
static void every_call_of_starting_may_fail(forerun_decoding decoding) {
    static call calls[64];
    open_engine();
    REQUIRE(start(decoding) == FORERUN_OK);
    size_t count = calls_of(fake_cuda_log(), calls, 64);
    close_engine();
    CHECK(count > 8);
    for (size_t i = 0; i < count; i++) {
        open_engine();
        fake_cuda_fail(calls[i].name, calls[i].nth, 1, 0);
        if (!may_fail(&calls[i]))
            CHECK(start(decoding) == FORERUN_BACKEND_ERROR);
        generates(decoding);
        generates(FORERUN_SPECULATIVE);
        close_engine();
    }
}

static void says_what_had_no_memory(void) {
    static const char *const what[] = {
        "no memory for the inputs of a round of 1792 bytes: 4096 of 8192 are left",
        "no memory for the results of a round of 1536 bytes",
        "no memory for state cache of 552 bytes: 4096 of 8192 are left. End other programs on it, or build the bundle "
        "with a smaller capacity.",
        "no memory for state draft_probs of 128 bytes",
    };
    for (size_t i = 0; i < 4; i++) {
        make();
        fake_cuda_fail("cuMemAlloc_v2", i + 1, CUDA_ERROR_OUT_OF_MEMORY, 0);
        CHECK(refused() == FORERUN_OUT_OF_MEMORY);
        CHECK_HAS(error.message, what[i]);
        CHECK_HAS(error.message, "Fake GPU 0 has ");
    }
    make();
    fake_cuda_fail("cuMemHostAlloc", 2, CUDA_ERROR_OUT_OF_MEMORY, 0);
    CHECK(refused() == FORERUN_OUT_OF_MEMORY);
    CHECK_HAS(error.message, "No pinned host memory for the results of a round of 1536 bytes");
}

static void a_round_that_fails_ends_its_generation(void) {
    static const char *const calls[] = {"cuGraphLaunch", "cuStreamSynchronize"};
    static const char *const doing[] = {"Fake GPU 0, launching a round: an error", "Fake GPU 0, waiting for a round: "};
    for (int i = 0; i < 2; i++) {
        forerun_round round;
        open_engine();
        REQUIRE(start(FORERUN_SPECULATIVE) == FORERUN_OK && step(&round) == FORERUN_OK);
        fake_cuda_fail(calls[i], 4, 701, 0);
        for (int j = 0; j < 3; j++)
            REQUIRE(step(&round) == FORERUN_OK);
        CHECK(step(&round) == FORERUN_BACKEND_ERROR);
        CHECK_HAS(error.message, doing[i]);
        CHECK(strstr(error.message, "lost") == NULL);
        CHECK(step(&round) == FORERUN_INVALID_STATE);
        generates(FORERUN_SPECULATIVE);
        close_engine();
    }
}

static void a_lost_device_stays_lost(void) {
    static const char *const calls[] = {"cuGraphLaunch", "cuStreamSynchronize"};
    for (int i = 0; i < 2; i++) {
        forerun_round round;
        open_engine();
        REQUIRE(start(FORERUN_SPECULATIVE) == FORERUN_OK && step(&round) == FORERUN_OK);
        fake_cuda_fail(calls[i], 1, CUDA_ERROR_ILLEGAL_ADDRESS, 1);
        CHECK(step(&round) == FORERUN_BACKEND_ERROR);
        CHECK_HAS(error.message, "a round: CUDA_ERROR_ILLEGAL_ADDRESS (700): in the driver's words. The device is lost "
                                 "to this engine: close it and open it again");
        CHECK(step(&round) == FORERUN_INVALID_STATE);
        for (int decoding = 0; decoding < 3; decoding++) {
            fake_cuda_forget();
            CHECK(start((forerun_decoding)decoding) == FORERUN_BACKEND_ERROR);
            CHECK_HAS(error.message, "Fake GPU 0 was lost earlier with CUDA error 700");
            CHECK_HAS(error.message, "open it again");
            CHECK(fake_cuda_log()[0] == '\0');
        }
        close_engine(); /* the driver refuses everything, and is asked to free everything */
    }
}

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

static void *step_elsewhere(void *out) {
    forerun_round round;
    *(forerun_status *)out = step(&round);
    return NULL;
}

static void *close_elsewhere(void *unused) {
    cuda_engine_close(&engine);
    return unused;
}

/* A thread on which our context is not current gets it, once. */
static void a_round_may_run_on_another_thread(void) {
    forerun_round round;
    forerun_status status = FORERUN_INVALID_STATE;
    pthread_t thread;
    open_engine();
    REQUIRE(start(FORERUN_SPECULATIVE) == FORERUN_OK && step(&round) == FORERUN_OK);
    fake_cuda_forget();
    REQUIRE(pthread_create(&thread, NULL, step_elsewhere, &status) == 0 && pthread_join(thread, NULL) == 0);
    CHECK(status == FORERUN_OK);
    CHECK(strcmp(fake_cuda_log(), "cuGraphLaunch cuCtxSetCurrent cuGraphLaunch cuStreamSynchronize") == 0);
    CHECK(step(&round) == FORERUN_OK);
    fake_cuda_fail("cuGraphLaunch", 1, CUDA_ERROR_INVALID_HANDLE, 0); /* the context of another device is current */
    CHECK(step(&round) == FORERUN_OK);
    fake_cuda_forget();
    REQUIRE(pthread_create(&thread, NULL, close_elsewhere, NULL) == 0 && pthread_join(thread, NULL) == 0);
    CHECK(strncmp(fake_cuda_log(), "cuCtxSetCurrent cuStreamSynchronize cuGraphExecDestroy ", 55) == 0);
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
    every_call_of_opening_may_fail(1, 0);
    every_call_of_opening_may_fail(CUDA_ERROR_OUT_OF_MEMORY, 0);
    every_call_of_opening_may_fail(CUDA_ERROR_ILLEGAL_ADDRESS, 1);
    every_call_of_starting_may_fail(FORERUN_PLAIN);
    every_call_of_starting_may_fail(FORERUN_SPECULATIVE);
    says_what_had_no_memory();
    a_round_that_fails_ends_its_generation();
    a_lost_device_stays_lost();
    passes_on_what_the_library_says();
    a_library_may_allocate_before_its_capture_only();
    refuses_another_interface();
    does_not_trust_the_graph();
    confidence_is_one_without_a_head();
    a_round_may_run_on_another_thread();
    checks_its_arguments();
    return check_failures != 0;
}
