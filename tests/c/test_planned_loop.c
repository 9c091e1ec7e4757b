/* Planned generations over the table model: the same tokens, fewer rows, and plain rounds where nothing pays. */
#include "tables.h"

static float target[V * V], draft[V * V];
static const int64_t PROMPT[12] = {3, 1, 4, 1, 5, 2, 6, 5, 3, 5, 0, 7}, WIDTHS[] = {2, 3, K + 1};
static forerun_error error;

static forerun_engine *open_planned(unsigned wrong, float plain, const float rounds[3]) {
    forerun_table table = successor_table(target, draft, wrong);
    table.verify_widths = WIDTHS;
    table.n_verify_widths = 3;
    forerun_engine *engine = open_table(&table);
    const forerun_costs costs = {sizeof costs, plain, rounds, 3};
    REQUIRE(forerun_set_costs(engine, &costs, &error) == FORERUN_OK);
    return engine;
}

/* Flat, steep and stepped costs, and a plain round that is cheap or dear. */
static const float COSTS[][4] = {
    {1, 1, 1, 1}, {1, 1.1f, 1.5f, 3}, {1, 1.5f, 3, 3}, {1, 1, 1, 9}, {0.7f, 1, 1, 1}, {0.05f, 1, 1, 1}, {1, 2, 4, 1},
};
enum { N_COSTS = sizeof COSTS / sizeof COSTS[0] };

static void greedy_tokens_do_not_depend_on_the_plan(void) {
    result all = {0};
    for (unsigned wrong = 0; wrong < 256; wrong += 51)
        for (size_t i = 0; i < N_COSTS; i++)
            for (size_t n_prompt = 1; n_prompt <= 12; n_prompt++) {
                forerun_engine *engine = open_planned(wrong, COSTS[i][0], COSTS[i] + 1);
                forerun_request request = request_for(1000, 0.0f, FORERUN_PLAIN);
                result plain = generate(engine, PROMPT, n_prompt, request);
                request.decoding = FORERUN_SPECULATIVE;
                for (request.draft_len = 0; request.draft_len <= K; request.draft_len += 2) {
                    result found = generate(engine, PROMPT, n_prompt, request);
                    CHECK_INT(found.n_tokens, CAPACITY - n_prompt);
                    CHECK(memcmp(found.tokens, plain.tokens, sizeof plain.tokens) == 0);
                    CHECK_INT(found.finish, FORERUN_CAPACITY);
                    all.n_plain += found.n_plain;
                    all.n_narrow += found.n_narrow;
                    all.n_read += found.n_read;
                }
                forerun_close(engine);
            }
    CHECK(all.n_plain > 100 && all.n_narrow > 100 && all.n_read > 100);
}

/* After plain rounds the drafter reads what it missed: a perfect drafter is perfect again, and the cache is right. */
static void a_pause_is_read_again(void) {
    const float rounds[3] = {1, 1, 1};
    forerun_engine *engine = open_planned(0xFF, 0.8f, rounds); /* never right, and plain rounds are cheap */
    result found = generate(engine, PROMPT, 3, request_for(1000, 0.0f, FORERUN_SPECULATIVE));
    CHECK(found.n_plain > 30 && found.n_read >= 1);
    forerun_state_info state = {.struct_size = sizeof state};
    REQUIRE(forerun_state(engine, 0, &state, &error) == FORERUN_OK);
    const int64_t *cache = state.input_address;
    CHECK(memcmp(cache, PROMPT, 3 * sizeof PROMPT[0]) == 0);
    CHECK(memcmp(cache + 3, found.tokens, (found.n_tokens - 1) * sizeof(int64_t)) == 0);
    forerun_close(engine);
}

static void the_plan_can_be_fixed(void) {
    const float rounds[3] = {1, 1.5f, 9};
    forerun_engine *engine = open_planned(0x5A, 0.5f, rounds);
    forerun_facts facts = {.struct_size = sizeof facts};
    REQUIRE(forerun_describe(engine, &facts, &error) == FORERUN_OK);
    CHECK(facts.has_costs == 1 && facts.n_verify_widths == 3 && facts.verify_widths[1] == 3);
    forerun_request request = request_for(30, 0.0f, FORERUN_SPECULATIVE);
    result planned = generate(engine, PROMPT, 3, request);
    request.fixed_plan = 1;
    result fixed = generate(engine, PROMPT, 3, request);
    CHECK(fixed.n_narrow == 0 && fixed.n_plain == 0 && planned.n_narrow + planned.n_plain > 0);
    CHECK(planned.n_drafted < fixed.n_drafted);
    request.fixed_plan = 0;
    REQUIRE(forerun_set_costs(engine, NULL, &error) == FORERUN_OK);
    result without = generate(engine, PROMPT, 3, request);
    CHECK(memcmp(&without, &fixed, sizeof fixed) == 0);
    REQUIRE(forerun_describe(engine, &facts, &error) == FORERUN_OK && facts.has_costs == 0);
    request.draft_len = 1; /* a fixed plan that fits a narrower round */
    result one = generate(engine, PROMPT, 3, request);
    CHECK_INT(one.n_narrow, one.n_rounds);
    forerun_close(engine);
}

static void sampling_is_reproducible_by_its_seed(void) {
    for (size_t i = 0; i < N_COSTS; i++) {
        forerun_engine *engine = open_planned(0x0F, COSTS[i][0], COSTS[i] + 1);
        forerun_request request = request_for(50, 1.0f, FORERUN_SPECULATIVE);
        result first = generate(engine, PROMPT, 12, request);
        generate(engine, PROMPT, 3, request_for(7, 0.0f, FORERUN_SPECULATIVE)); /* leaves nothing behind */
        result again = generate(engine, PROMPT, 12, request);
        CHECK(memcmp(&first, &again, sizeof first) == 0);
        forerun_close(engine);
    }
}

static void refuses_bad_costs(void) {
    const float rounds[3] = {1, 1, 1}, bad[][3] = {{0, 1, 1}, {1, -1, 1}, {1, 1, INFINITY}};
    forerun_engine *engine = open_planned(0, 1, rounds);
    forerun_costs costs = {sizeof costs, 1, rounds, 2};
    CHECK(forerun_set_costs(engine, &costs, &error) == FORERUN_INVALID_ARGUMENT);
    CHECK_HAS(error.message, "each of the 3 verify widths, found 2");
    costs.n_rounds = 3;
    for (size_t i = 0; i < 3; i++) {
        costs.rounds = bad[i];
        CHECK(forerun_set_costs(engine, &costs, &error) == FORERUN_INVALID_ARGUMENT);
        CHECK_HAS(error.message, "costs.rounds[");
    }
    costs.rounds = rounds;
    costs.plain = NAN;
    CHECK(forerun_set_costs(engine, &costs, &error) == FORERUN_INVALID_ARGUMENT);
    CHECK_HAS(error.message, "costs.plain");
    costs.struct_size = 1;
    CHECK(forerun_set_costs(engine, &costs, &error) == FORERUN_INVALID_ARGUMENT);
    CHECK(forerun_set_costs(NULL, NULL, &error) == FORERUN_INVALID_ARGUMENT);
    forerun_request request = request_for(1, 0.0f, FORERUN_SPECULATIVE);
    request.fixed_plan = 2;
    CHECK(forerun_start(engine, PROMPT, 1, &request, &error) == FORERUN_INVALID_ARGUMENT);
    CHECK_HAS(error.message, "fixed_plan must be 0 or 1, found 2");
    forerun_close(engine);
    static const int64_t widths[][2] = {{1, 5}, {5, 5}, {2, 4}, {2, 6}};
    for (size_t i = 0; i < 4; i++) {
        forerun_table table = successor_table(target, draft, 0);
        table.verify_widths = widths[i];
        table.n_verify_widths = 2;
        CHECK(forerun_open_table(&table, &engine, &error) == FORERUN_INVALID_ARGUMENT);
        CHECK_HAS(error.message, "verify_widths must ascend from 2 or more, with draft_len + 1 = 5 among them");
    }
}

int main(void) {
    greedy_tokens_do_not_depend_on_the_plan();
    a_pause_is_read_again();
    the_plan_can_be_fixed();
    sampling_is_reproducible_by_its_seed();
    refuses_bad_costs();
    return check_failures != 0;
}
