/* One engine, one of whose parts fails. */
#ifndef FORERUN_CUDA_FIXTURE_H
#define FORERUN_CUDA_FIXTURE_H

#include "cuda_engine.h"

static float target[V * V], draft[V * V];
static const int64_t PROMPT[12] = {3, 1, 4, 1, 5, 2, 6, 5, 3, 5, 0, 7};
static forerun_error error;
static table_graphs graphs;
static cuda_engine engine;

static inline void make(void) {
    forerun_table table = successor_table(target, draft, 0x5A);
    fake_cuda_reset(13000, 1);
    table_graphs_make(&graphs, &table);
}

static inline void open_engine(void) {
    make();
    REQUIRE(cuda_engine_open(&engine, &graphs, &error) == FORERUN_OK);
    fake_cuda_forget();
}

static inline void close_engine(void) {
    cuda_engine_close(&engine);
    table_graphs_close(&graphs);
    CHECK_INT(fake_cuda_live(), 0);
    CHECK(fake_cuda_mistake()[0] == '\0');
}

/* Opens once more; everything that was taken until the failure is free again. */
static inline forerun_status refused(void) {
    error.message[0] = '\0';
    forerun_status status = cuda_engine_open(&engine, &graphs, &error);
    close_engine();
    return status;
}

static inline forerun_status start(forerun_decoding decoding) {
    const forerun_request request = request_for(20, 0.0f, decoding);
    return fr_loop_start(&engine.loop, PROMPT, 12, &request, &error);
}

static inline forerun_status step(forerun_round *round) {
    *round = (forerun_round){.struct_size = sizeof *round};
    return fr_loop_step(&engine.loop, round, &error);
}

/* The tokens of a greedy generation are the successors of the prompt's last. */
static inline void generates(forerun_decoding decoding) {
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

#endif
