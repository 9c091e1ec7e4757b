/* Table models for the tests of the loop. */
#ifndef FORERUN_TABLES_H
#define FORERUN_TABLES_H

#include "check.h"
#include "forerun.h"

#include <math.h>

enum { V = 8, K = 4, CAPACITY = 64, CHUNK = 5 };

/* Target: mostly the successor (t + 1) % V. Drafter: the same but for the tokens in `wrong`. */
static inline forerun_table successor_table(float target[V * V], float draft[V * V], unsigned wrong) {
    for (int row = 0; row < V; row++)
        for (int column = 0; column < V; column++) {
            int successor = (row + 1) % V, other = (row + 3) % V;
            target[row * V + column] = column == successor ? 3.0f : 0.1f * (float)((row * 5 + column * 3) % 7);
            draft[row * V + column] = column == ((wrong >> row & 1u) ? other : successor) ? 2.5f : 0.1f * (float)column;
        }
    return (forerun_table){.struct_size = sizeof(forerun_table),
                           .vocab_size = V,
                           .draft_len = K,
                           .capacity = CAPACITY,
                           .prefill_chunk = CHUNK,
                           .target_logits = target,
                           .draft_logits = draft};
}

static inline forerun_engine *open_table(const forerun_table *table) {
    forerun_engine *engine = NULL;
    forerun_error error;
    if (forerun_open_table(table, &engine, &error) != FORERUN_OK) {
        printf("%s\n", error.message);
        exit(2);
    }
    return engine;
}

static inline forerun_request request_for(int64_t max_new_tokens, float temperature, forerun_decoding decoding) {
    return (forerun_request){.struct_size = sizeof(forerun_request),
                             .max_new_tokens = max_new_tokens,
                             .temperature = temperature,
                             .seed = 11,
                             .decoding = decoding};
}

/* What a whole generation gave. */
typedef struct result {
    int64_t tokens[CAPACITY];
    size_t n_tokens, n_rounds, n_prefill, n_drafted, n_accepted, n_plain, n_narrow, n_wide, n_read;
    forerun_finish finish;
} result;

/* Rounds of the target alone, rounds narrower and wider than draft_len + 1, and rounds that read what plain ones left
 * out. */
static inline void count_kind(result *out, const forerun_round *round) {
    if (round->phase == FORERUN_PREFILL)
        return;
    out->n_plain += round->graph == FORERUN_GRAPH_PLAIN;
    out->n_narrow += round->graph == FORERUN_GRAPH_ROUND && round->width < K + 1;
    out->n_wide += round->width > K + 1;
    out->n_read += round->graph == FORERUN_GRAPH_ROUND && round->n_drafted == 0;
}

static inline result generate(forerun_engine *engine, const int64_t *prompt, size_t n_prompt, forerun_request request) {
    result out = {0};
    forerun_error error;
    forerun_round round = {.struct_size = sizeof round};
    REQUIRE(forerun_start(engine, prompt, n_prompt, &request, &error) == FORERUN_OK);
    do {
        if (forerun_step(engine, &round, &error) != FORERUN_OK) {
            printf("%s\n", error.message);
            exit(2);
        }
        REQUIRE(out.n_tokens + round.n_committed <= CAPACITY);
        memcpy(out.tokens + out.n_tokens, round.committed, round.n_committed * sizeof(int64_t));
        out.n_tokens += round.n_committed;
        out.n_prefill += round.phase == FORERUN_PREFILL;
        out.n_rounds += round.phase == FORERUN_DECODE;
        out.n_drafted += round.n_drafted;
        out.n_accepted += round.n_accepted;
        count_kind(&out, &round);
        CHECK(round.n_accepted <= round.n_drafted && round.n_accepted <= round.n_committed);
        CHECK(round.session_ns >= 0 && round.loop_ns >= 0);
    } while (round.finish == FORERUN_RUNNING);
    out.finish = round.finish;
    return out;
}

#endif
