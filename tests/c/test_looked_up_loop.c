/* Generations over the table model in which prompt lookup takes the drafter's place. */
#include "tables.h"

enum { L = 7 };

static float target[V * V], draft[V * V];
static const int64_t PROMPT[12] = {3, 1, 4, 1, 5, 2, 6, 5, 3, 5, 0, 7};
static forerun_error error;

static forerun_table lookup_table(unsigned wrong, int64_t lookup_len, int64_t match) {
    forerun_table table = successor_table(target, draft, wrong);
    table.lookup_len = lookup_len;
    table.lookup_match = match;
    return table;
}

/* What a generation did, beside its tokens. */
typedef struct looked {
    result all;
    size_t rounds, accepted;
} looked;

static looked generate_looked(forerun_engine *engine, const int64_t *prompt, size_t n_prompt, forerun_request request) {
    looked out = {.rounds = 0};
    forerun_round round = {.struct_size = sizeof round};
    REQUIRE(forerun_start(engine, prompt, n_prompt, &request, &error) == FORERUN_OK);
    do {
        if (forerun_step(engine, &round, &error) != FORERUN_OK) {
            printf("%s\n", error.message);
            exit(2);
        }
        REQUIRE(out.all.n_tokens + round.n_committed <= CAPACITY);
        memcpy(out.all.tokens + out.all.n_tokens, round.committed, round.n_committed * sizeof(int64_t));
        out.all.n_tokens += round.n_committed;
        out.all.n_rounds += round.phase == FORERUN_DECODE;
        count_kind(&out.all, &round);
        CHECK(!round.looked_up || (round.phase == FORERUN_DECODE && round.n_drafted > 0));
        CHECK(round.n_drafted < round.width || round.phase == FORERUN_PREFILL);
        out.rounds += round.looked_up != 0;
        out.accepted += round.looked_up ? round.n_accepted : 0;
    } while (round.finish == FORERUN_RUNNING);
    out.all.finish = round.finish;
    return out;
}

/* Whoever drafts, and however wrong the drafter is: the same tokens, and the text's loop is found in few rounds. */
static void greedy_is_the_same_with_and_without(void) {
    size_t fired = 0, wide = 0;
    for (unsigned wrong = 0; wrong < 256; wrong += 17)
        for (int64_t length = 1; length <= 9; length += 2)
            for (int64_t match = 1; match <= 3; match++)
                for (size_t n_prompt = 1; n_prompt <= 12; n_prompt += 3) {
                    forerun_table table = lookup_table(wrong, length, match);
                    forerun_engine *engine = open_table(&table);
                    forerun_request request = request_for(1000, 0.0f, FORERUN_PLAIN);
                    looked plain = generate_looked(engine, PROMPT, n_prompt, request);
                    request.decoding = FORERUN_PADDED;
                    looked padded = generate_looked(engine, PROMPT, n_prompt, request);
                    request.decoding = FORERUN_SPECULATIVE;
                    looked found = generate_looked(engine, PROMPT, n_prompt, request);
                    request.drafter_only = 1;
                    looked without = generate_looked(engine, PROMPT, n_prompt, request);
                    CHECK(memcmp(found.all.tokens, plain.all.tokens, sizeof plain.all.tokens) == 0);
                    CHECK(memcmp(without.all.tokens, plain.all.tokens, sizeof plain.all.tokens) == 0);
                    CHECK_INT(found.all.n_tokens, CAPACITY - n_prompt);
                    CHECK_INT(found.all.finish, FORERUN_CAPACITY);
                    CHECK(plain.rounds + padded.rounds + without.rounds == 0 && padded.all.n_wide == 0);
                    fired += found.rounds;
                    wide += found.all.n_wide;
                    forerun_close(engine);
                }
    CHECK(fired > 1000 && wide > 300);
}

static void a_loop_is_accepted_whole(void) {
    forerun_table table = lookup_table(0xFF, L, 4); /* the drafter is never right */
    forerun_engine *engine = open_table(&table);
    forerun_facts facts = {.struct_size = sizeof facts};
    REQUIRE(forerun_describe(engine, &facts, &error) == FORERUN_OK);
    CHECK(facts.lookup_len == L && facts.lookup_match == 4 && facts.n_verify_widths == 2);
    CHECK(facts.verify_widths[0] == K + 1 && facts.verify_widths[1] == L + 1);
    const int64_t loop[] = {0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3};
    looked found = generate_looked(engine, loop, 12, request_for(1 + 4 * (L + 1), 0.0f, FORERUN_SPECULATIVE));
    CHECK(found.rounds == 4 && found.all.n_rounds == 4 && found.accepted == 4 * L && found.all.n_wide == 4);
    found = generate_looked(engine, loop, 12, request_for(1 + K + 1, 0.0f, FORERUN_SPECULATIVE));
    CHECK(found.rounds == 1 && found.accepted == K && found.all.n_wide == 0); /* as narrow as what is left allows */
    forerun_request few = request_for(1 + L + 1, 0.0f, FORERUN_SPECULATIVE);
    few.draft_len = 1; /* limits the drafter's tokens only */
    CHECK_INT(generate_looked(engine, loop, 12, few).accepted, L);
    forerun_close(engine);
}

/* Speculation off is as wide as it is asked to be, so that it can be measured and compared at every width. */
static void padded_rounds_have_every_width(void) {
    forerun_table table = lookup_table(0, L, 4);
    forerun_engine *engine = open_table(&table);
    forerun_request request = request_for(9, 0.0f, FORERUN_PADDED);
    CHECK_INT(generate_looked(engine, PROMPT, 4, request).all.n_wide, 0);
    request.draft_len = L;
    looked found = generate_looked(engine, PROMPT, 4, request);
    CHECK(found.all.n_rounds == 8 && found.all.n_wide == 8 && found.all.n_drafted == 0 && found.rounds == 0);
    request.draft_len = L + 1;
    CHECK(forerun_start(engine, PROMPT, 4, &request, &error) == FORERUN_INVALID_ARGUMENT);
    CHECK_HAS(error.message, "draft_len must be 1 .. 7 for this bundle (0 = 4), found 8");
    forerun_close(engine);
}

/* An end token within what was looked up ends the generation there. */
static void stops_inside_what_was_looked_up(void) {
    const int64_t end = 6, loop[] = {0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3};
    forerun_table table = lookup_table(0xFF, L, 2);
    table.eos_token_ids = &end;
    table.n_eos_token_ids = 1;
    forerun_engine *engine = open_table(&table);
    looked found = generate_looked(engine, loop, 12, request_for(30, 0.0f, FORERUN_SPECULATIVE));
    CHECK(found.rounds == 1 && found.all.n_tokens == 3 && found.all.tokens[2] == end);
    CHECK_INT(found.all.finish, FORERUN_STOP);
    forerun_close(engine);
}

/* Costs per plain round and per width: looking up pays, or does not; plain rounds are cheap, or dear. */
static const float COSTS[][5] = {{1, 1, 1, 1, 1},          {1, 1, 1.2f, 1.4f, 1.6f}, {1, 1, 1, 1, 20},
                                 {0.3f, 1, 1, 1, 1},       {0.05f, 1, 1, 1, 1},      {1, 1, 9, 9, 9},
                                 {0.4f, 1, 1.1f, 1.2f, 2}, {0.8f, 3, 3, 3, 3}};

static forerun_engine *open_planned(unsigned wrong, int64_t match, const float costs[5]) {
    static const int64_t widths[] = {2, 3, K + 1, L + 1};
    forerun_table table = lookup_table(wrong, L, match);
    table.verify_widths = widths;
    table.n_verify_widths = 4;
    forerun_engine *engine = open_table(&table);
    const forerun_costs all = {sizeof all, costs[0], costs + 1, 4};
    REQUIRE(forerun_set_costs(engine, &all, &error) == FORERUN_OK);
    return engine;
}

static void greedy_does_not_depend_on_the_plan(void) {
    size_t fired = 0, plain_rounds = 0, reads = 0, paused = 0;
    for (unsigned wrong = 0; wrong < 256; wrong += 51)
        for (size_t i = 0; i < sizeof COSTS / sizeof COSTS[0]; i++)
            for (size_t n_prompt = 1; n_prompt <= 12; n_prompt++) {
                forerun_engine *engine = open_planned(wrong, 2, COSTS[i]);
                forerun_request request = request_for(1000, 0.0f, FORERUN_PLAIN);
                looked plain = generate_looked(engine, PROMPT, n_prompt, request);
                request.decoding = FORERUN_SPECULATIVE;
                looked found = generate_looked(engine, PROMPT, n_prompt, request);
                CHECK(memcmp(found.all.tokens, plain.all.tokens, sizeof plain.all.tokens) == 0);
                CHECK_INT(found.all.n_tokens, CAPACITY - n_prompt);
                fired += found.rounds;
                plain_rounds += found.all.n_plain;
                reads += found.all.n_read;
                paused += found.all.n_plain > 0 && found.rounds > 0;
                forerun_close(engine);
            }
    CHECK(fired > 1000 && plain_rounds > 300 && reads > 10 && paused > 50);
}

/* After a pause in which looked-up rounds ran too the drafter has read everything: the caches are right. */
static void a_pause_is_read_again(void) {
    for (size_t n_prompt = 1; n_prompt <= 12; n_prompt++) {
        forerun_engine *engine = open_planned(0xFF, 3, COSTS[6]);
        looked found = generate_looked(engine, PROMPT, n_prompt, request_for(1000, 0.0f, FORERUN_SPECULATIVE));
        CHECK(found.rounds > 0);
        forerun_state_info state = {.struct_size = sizeof state};
        REQUIRE(forerun_state(engine, 0, &state, &error) == FORERUN_OK);
        CHECK(state.bytes == (CAPACITY + L + 1) * sizeof(int64_t));
        const int64_t *cache = state.input_address;
        CHECK(memcmp(cache, PROMPT, n_prompt * sizeof PROMPT[0]) == 0);
        CHECK(memcmp(cache + n_prompt, found.all.tokens, (found.all.n_tokens - 1) * sizeof(int64_t)) == 0);
        forerun_close(engine);
    }
}

static void sampling_is_reproducible_by_its_seed(void) {
    size_t fired = 0;
    for (size_t i = 0; i < sizeof COSTS / sizeof COSTS[0]; i++) {
        forerun_engine *engine = open_planned(0x0F, 2, COSTS[i]);
        forerun_request request = request_for(50, 0.7f, FORERUN_SPECULATIVE);
        looked first = generate_looked(engine, PROMPT, 12, request);
        generate_looked(engine, PROMPT, 3, request_for(7, 0.0f, FORERUN_SPECULATIVE)); /* leaves nothing behind */
        looked again = generate_looked(engine, PROMPT, 12, request);
        CHECK(memcmp(&first, &again, sizeof first) == 0);
        fired += first.rounds;
        forerun_close(engine);
    }
    CHECK(fired > 10);
}

/* The law of three tokens after a prompt that was looked up, against the table's own: chi-square over 20,000
 * generations, p > 0.001; the seeds are fixed, so it never flickers. */
static void sampling_follows_the_target(void) {
    enum { N = 20000 };
    static size_t count[V][V][V];
    static const int64_t loop[] = {3, 1, 2, 5, 3, 1, 2, 5, 3};
    size_t fired = 0, cells = 0;
    forerun_engine *engine = open_planned(0x5A, 2, COSTS[1]);
    forerun_request request = request_for(4, 1.3f, FORERUN_SPECULATIVE);
    for (request.seed = 0; request.seed < N; request.seed++) {
        looked found = generate_looked(engine, loop, 9, request);
        count[found.all.tokens[1]][found.all.tokens[2]][found.all.tokens[3]] += found.all.tokens[0] == 1;
        fired += found.rounds;
    }
    forerun_close(engine);
    float p[V][V];
    for (int i = 0; i < V; i++)
        forerun_softmax(target + i * V, V, 1.3f, p[i]);
    double chi = 0, rest_count = 0, rest_expected = 0, first = N * (double)p[3][1];
    for (int a = 0; a < V; a++)
        for (int b = 0; b < V; b++)
            for (int c = 0; c < V; c++) {
                double expected = first * (double)p[1][a] * (double)p[a][b] * (double)p[b][c];
                double found = (double)count[a][b][c];
                rest_count += expected < 10 ? found : 0;
                rest_expected += expected < 10 ? expected : 0;
                chi += expected < 10 ? 0 : pow(found - expected, 2) / expected;
                cells += expected >= 10;
            }
    chi += pow(rest_count - rest_expected, 2) / rest_expected;
    double d = (double)cells + 1; /* how often the first token is 1 is free as well */

    CHECK(cells > 20 && fired > N / 20);
    CHECK((cbrt(chi / d) - (1 - 2 / (9 * d))) / sqrt(2 / (9 * d)) < 3.09);
}

static void refuses_what_cannot_be(void) {
    static const int64_t bad[][2] = {{-1, 0}, {64, 1}, {4, 0}, {4, 17}, {0, 1}};
    forerun_engine *engine = NULL;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        forerun_table table = lookup_table(0, bad[i][0], bad[i][1]);
        CHECK(forerun_open_table(&table, &engine, &error) == FORERUN_INVALID_ARGUMENT);
        CHECK_HAS(error.message, "lookup_len 0 .. 63, and with it lookup_match 1 .. 16");
    }
    static const int64_t widths[][2] = {{2, L + 1}, {K + 1, L}, {K + 1, L + 2}};
    for (size_t i = 0; i < 3; i++) {
        forerun_table table = lookup_table(0, L, 2);
        table.verify_widths = widths[i];
        table.n_verify_widths = 2;
        CHECK(forerun_open_table(&table, &engine, &error) == FORERUN_INVALID_ARGUMENT);
        CHECK_HAS(error.message, "verify_widths must ascend from 2 or more, with draft_len + 1 = 5 among them");
    }
    forerun_table table = lookup_table(0, L, 2);
    engine = open_table(&table);
    forerun_request request = request_for(1, 0.0f, FORERUN_SPECULATIVE);
    request.drafter_only = 2;
    CHECK(forerun_start(engine, PROMPT, 1, &request, &error) == FORERUN_INVALID_ARGUMENT);
    CHECK_HAS(error.message, "drafter_only must be 0 or 1, found 2");
    forerun_close(engine);
}

int main(void) {
    greedy_is_the_same_with_and_without();
    a_loop_is_accepted_whole();
    padded_rounds_have_every_width();
    stops_inside_what_was_looked_up();
    greedy_does_not_depend_on_the_plan();
    a_pause_is_read_again();
    sampling_is_reproducible_by_its_seed();
    sampling_follows_the_target();
    refuses_what_cannot_be();
    return check_failures != 0;
}
