/* The loop over the table model, whose every token is known beforehand. */
#include "tables.h"

static float target[V * V], draft[V * V];
static const int64_t PROMPT[12] = {3, 1, 4, 1, 5, 2, 6, 5, 3, 5, 0, 7};

/* The oracle: greedy decoding one token after the other, from the table itself. */
static void check_greedy(const result *found, const int64_t *prompt, size_t n_prompt) {
    int64_t last = prompt[n_prompt - 1];
    for (size_t i = 0; i < found->n_tokens; i++) {
        int64_t best = 0;
        for (int64_t j = 1; j < V; j++)
            if (target[last * V + j] > target[last * V + best])
                best = j;
        CHECK_INT(found->tokens[i], best);
        last = best;
    }
}

static void greedy_is_the_same_in_every_decoding(void) {
    for (unsigned wrong = 0; wrong < 256; wrong += 17)
        for (size_t n_prompt = 1; n_prompt <= 12; n_prompt++) {
            forerun_table table = successor_table(target, draft, wrong);
            forerun_engine *engine = open_table(&table);
            for (int decoding = 0; decoding < 3; decoding++) {
                forerun_request request = request_for(30, 0.0f, (forerun_decoding)decoding);
                for (request.draft_len = 0; request.draft_len <= K; request.draft_len++) {
                    result found = generate(engine, PROMPT, n_prompt, request);
                    CHECK_INT(found.n_tokens, 30);
                    CHECK_INT(found.finish, FORERUN_LENGTH);
                    CHECK_INT(found.n_prefill, (n_prompt + CHUNK - 1) / CHUNK);
                    check_greedy(&found, PROMPT, n_prompt);
                    if (decoding != FORERUN_SPECULATIVE)
                        CHECK(found.n_rounds == 29 && found.n_drafted == 0);
                }
            }
            forerun_close(engine);
        }
}

static void counts_what_was_accepted(void) {
    forerun_table table = successor_table(target, draft, 0); /* a perfect drafter */
    forerun_engine *engine = open_table(&table);
    result found = generate(engine, PROMPT, 1, request_for(1 + 5 * (K + 1), 0.0f, FORERUN_SPECULATIVE));
    CHECK_INT(found.n_rounds, 5); /* K accepted and one own token, each */
    CHECK_INT(found.n_accepted, 5 * K);
    forerun_request narrow = request_for(1 + 5 * 3, 0.0f, FORERUN_SPECULATIVE);
    narrow.draft_len = 2;
    found = generate(engine, PROMPT, 1, narrow);
    CHECK_INT(found.n_rounds, 5);
    CHECK_INT(found.n_drafted, 10);
    forerun_close(engine);
    table = successor_table(target, draft, 0xFF); /* a drafter that is never right */
    engine = open_table(&table);
    found = generate(engine, PROMPT, 1, request_for(11, 0.0f, FORERUN_SPECULATIVE));
    CHECK_INT(found.n_rounds, 10);
    CHECK_INT(found.n_accepted, 0);
    forerun_close(engine);
    table = successor_table(target, draft, 1u << 2); /* wrong after token 2 only */
    engine = open_table(&table);
    const int64_t zero = 0; /* prefill gives 1; then 2 is accepted, what is drafted after 2 is not */
    forerun_request request = request_for(20, 0.0f, FORERUN_SPECULATIVE);
    forerun_round round = {.struct_size = sizeof round};
    REQUIRE(forerun_start(engine, &zero, 1, &request, NULL) == FORERUN_OK);
    REQUIRE(forerun_step(engine, &round, NULL) == FORERUN_OK && forerun_step(engine, &round, NULL) == FORERUN_OK);
    CHECK_INT(round.n_accepted, 1);
    CHECK_INT(round.n_committed, 2);
    CHECK_INT(round.n_draft_tokens, K);
    CHECK(round.committed[0] == 2 && round.committed[1] == 3 && round.draft_tokens[0] == 4);
    CHECK(round.draft_confidence[0] == 1.0f);
    forerun_close(engine);
}

static void never_exceeds_max_new_tokens(void) {
    for (unsigned wrong = 0; wrong < 256; wrong += 51) {
        forerun_table table = successor_table(target, draft, wrong);
        forerun_engine *engine = open_table(&table);
        for (int64_t most = 1; most <= 20; most++) {
            result found = generate(engine, PROMPT, 4, request_for(most, 0.0f, FORERUN_SPECULATIVE));
            CHECK_INT(found.n_tokens, most);
            CHECK_INT(found.finish, FORERUN_LENGTH);
        }
        forerun_close(engine);
    }
}

static void stops_at_an_end_token_inside_a_block(void) {
    for (int64_t end = 0; end < V; end++) {
        forerun_table table = successor_table(target, draft, 0);
        table.eos_token_ids = &end;
        table.n_eos_token_ids = 1;
        forerun_engine *engine = open_table(&table);
        const int64_t zero = 0;
        result found = generate(engine, &zero, 1, request_for(40, 0.0f, FORERUN_SPECULATIVE));
        CHECK_INT(found.finish, FORERUN_STOP);
        CHECK_INT(found.n_tokens, end == 0 ? V : end); /* 1, 2, .. end */
        CHECK_INT(found.tokens[found.n_tokens - 1], end);
        forerun_close(engine);
    }
}

/* At every prompt length the context is filled exactly, and the cache never gets a row too many (the table model and
 * the sanitizer would see it). */
static void fills_the_context_and_no_more(void) {
    int64_t prompt[CAPACITY];
    for (int i = 0; i < CAPACITY; i++)
        prompt[i] = i % V;
    for (unsigned wrong = 0; wrong < 256; wrong += 85)
        for (size_t n = 1; n < CAPACITY; n++)
            for (int decoding = 0; decoding < 3; decoding++) {
                forerun_table table = successor_table(target, draft, wrong);
                forerun_engine *engine = open_table(&table);
                result found = generate(engine, prompt, n, request_for(1000, 0.0f, (forerun_decoding)decoding));
                CHECK_INT(found.n_tokens, CAPACITY - n);
                CHECK_INT(found.finish, FORERUN_CAPACITY);
                check_greedy(&found, prompt, n);
                forerun_close(engine);
            }
}

/* After a generation the cache holds exactly the tokens of prompt and answer: rejected rows were overwritten. */
static void leaves_the_right_cache(void) {
    forerun_table table = successor_table(target, draft, 0x5A);
    forerun_engine *engine = open_table(&table);
    result found = generate(engine, PROMPT, 12, request_for(25, 0.9f, FORERUN_SPECULATIVE));
    forerun_state_info state = {.struct_size = sizeof state};
    REQUIRE(forerun_state(engine, 0, &state, NULL) == FORERUN_OK);
    CHECK(state.input_address == state.output_address && state.bytes == (CAPACITY + K + 1) * sizeof(int64_t));
    const int64_t *cache = state.input_address;
    CHECK(memcmp(cache, PROMPT, sizeof PROMPT) == 0);
    CHECK(memcmp(cache + 12, found.tokens, (found.n_tokens - 1) * sizeof(int64_t)) == 0);
    CHECK(forerun_state(engine, 2, &state, NULL) == FORERUN_INVALID_ARGUMENT);
    forerun_close(engine);
}

static void sampling_is_reproducible_by_its_seed(void) {
    forerun_table table = successor_table(target, draft, 0x0F);
    forerun_engine *engine = open_table(&table);
    forerun_request request = request_for(40, 1.0f, FORERUN_SPECULATIVE);
    result first = generate(engine, PROMPT, 12, request);
    generate(engine, PROMPT, 3, request_for(7, 0.5f, FORERUN_PLAIN)); /* something else in between */
    result again = generate(engine, PROMPT, 12, request);
    CHECK(memcmp(first.tokens, again.tokens, sizeof first.tokens) == 0);
    request.seed++;
    again = generate(engine, PROMPT, 12, request);
    CHECK(memcmp(first.tokens, again.tokens, sizeof first.tokens) != 0);
    CHECK(first.n_accepted > 0 && first.n_accepted < first.n_drafted);
    /* Plain and padded decoding use the same uniform for the own token. */
    first = generate(engine, PROMPT, 12, request_for(40, 1.0f, FORERUN_PLAIN));
    again = generate(engine, PROMPT, 12, request_for(40, 1.0f, FORERUN_PADDED));
    CHECK(memcmp(first.tokens, again.tokens, sizeof first.tokens) == 0);
    forerun_close(engine);
}

/* The law of two consecutive tokens of speculative sampling, against the table's own probabilities: chi-square over
 * 20,000 generations, p > 0.001; the seeds are fixed, so it never flickers. */
static void sampling_follows_the_target(void) {
    enum { N = 20000 };
    static size_t count[V][V][V];
    forerun_table table = successor_table(target, draft, 0x5A);
    forerun_engine *engine = open_table(&table);
    forerun_request request = request_for(3, 1.3f, FORERUN_SPECULATIVE);
    for (request.seed = 0; request.seed < N; request.seed++) {
        result found = generate(engine, PROMPT, 1, request);
        count[found.tokens[0]][found.tokens[1]][found.tokens[2]]++;
    }
    forerun_close(engine);
    float p[V][V];
    for (int i = 0; i < V; i++)
        forerun_softmax(target + i * V, V, 1.3f, p[i]);
    double chi = 0;
    int cells = 0;
    double rest_count = N, rest_expected = N;
    for (int a = 0; a < V; a++)
        for (int b = 0; b < V; b++)
            for (int c = 0; c < V; c++) {
                double expected = N * (double)p[PROMPT[0]][a] * (double)p[a][b] * (double)p[b][c];
                if (expected < 10)
                    continue; /* pooled below */
                chi += pow((double)count[a][b][c] - expected, 2) / expected;
                rest_count -= (double)count[a][b][c];
                rest_expected -= expected;
                cells++;
            }
    chi += pow(rest_count - rest_expected, 2) / rest_expected;
    /* Wilson-Hilferty: the cube root of chi / degrees is nearly normal; 3.09 is p = 0.001. */
    double d = cells;
    CHECK(cells > 100);
    CHECK((cbrt(chi / d) - (1 - 2 / (9 * d))) / sqrt(2 / (9 * d)) < 3.09);
}

static void can_be_cancelled(void) {
    forerun_table table = successor_table(target, draft, 0);
    forerun_engine *engine = open_table(&table);
    forerun_request request = request_for(40, 0.0f, FORERUN_SPECULATIVE);
    forerun_round round = {.struct_size = sizeof round};
    forerun_error error;
    REQUIRE(forerun_start(engine, PROMPT, 3, &request, &error) == FORERUN_OK);
    REQUIRE(forerun_step(engine, &round, &error) == FORERUN_OK && round.finish == FORERUN_RUNNING);
    forerun_cancel(engine);
    REQUIRE(forerun_step(engine, &round, &error) == FORERUN_OK);
    CHECK_INT(round.finish, FORERUN_CANCELLED);
    CHECK_INT(round.n_committed, 0);
    CHECK(forerun_step(engine, &round, &error) == FORERUN_INVALID_STATE);
    CHECK_HAS(error.message, "forerun_start");
    result found = generate(engine, PROMPT, 3, request); /* the flag does not outlive its generation */
    CHECK_INT(found.n_tokens, 40);
    forerun_cancel(NULL);
    forerun_close(engine);
}

int main(void) {
    greedy_is_the_same_in_every_decoding();
    counts_what_was_accepted();
    never_exceeds_max_new_tokens();
    stops_at_an_end_token_inside_a_block();
    fills_the_context_and_no_more();
    leaves_the_right_cache();
    sampling_is_reproducible_by_its_seed();
    sampling_follows_the_target();
    can_be_cancelled();
    return check_failures != 0;
}
