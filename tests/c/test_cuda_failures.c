/* What can fail in the CUDA backend: each call of the driver, at any time. */
#include "cuda_fixture.h"

#include <pthread.h>

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

int main(void) {
    every_call_of_opening_may_fail(1, 0);
    every_call_of_opening_may_fail(CUDA_ERROR_OUT_OF_MEMORY, 0);
    every_call_of_opening_may_fail(CUDA_ERROR_ILLEGAL_ADDRESS, 1);
    every_call_of_starting_may_fail(FORERUN_PLAIN);
    every_call_of_starting_may_fail(FORERUN_SPECULATIVE);
    says_what_had_no_memory();
    a_round_that_fails_ends_its_generation();
    a_lost_device_stays_lost();
    a_round_may_run_on_another_thread();
    return check_failures != 0;
}
