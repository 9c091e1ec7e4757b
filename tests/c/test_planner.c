/* The plan of a round against all plans, the order in which sampling decides, and when speculation pauses. */
#include "planner.h"
#include "tables.h"

#include <string.h>

static forerun_error error;

static float uniform_of(uint64_t *state) {
    float value;
    forerun_uniforms(5, (*state)++, 1, &value);
    return value;
}

/* Costs that rise and fall at random: every plan is tried, so none is better. */
static void plans_what_pays_most(void) {
    uint64_t state = 0;
    for (int trial = 0; trial < 2000; trial++) {
        float survival[K], cost[K + 1];
        float product = 1.0f;
        for (int i = 0; i < K; i++)
            survival[i] = product *= uniform_of(&state);
        for (int i = 0; i <= K; i++)
            cost[i] = 0.5f + uniform_of(&state);
        size_t found = forerun_plan(survival, cost, K);
        REQUIRE(found <= K);
        double best = 0, tokens = 1, at_found = 0;
        for (size_t n = 0; n <= K; n++) {
            tokens += n > 0 ? (double)survival[n - 1] : 0;
            best = fmax(best, tokens / (double)cost[n]);
            at_found = n == found ? tokens / (double)cost[n] : at_found;
        }
        CHECK(at_found == best);
    }
}

/* A staircase on which going up step by step would stop at once: 1.9 / 1.95 < 1, but 3.71 / 1.95 > 1. */
static void climbs_over_a_step(void) {
    const float survival[] = {0.9f, 0.81f, 0.73f, 0.66f}, flat[] = {1, 1, 1, 1, 1};
    const float stairs[] = {1.0f, 1.95f, 1.95f, 1.95f, 4.5f}, steep[] = {1, 2, 3, 4, 5}, none[] = {0, 0, 0, 0};
    CHECK_INT(forerun_plan(survival, stairs, 4), 3);
    CHECK_INT(forerun_plan(survival, stairs, 1), 0);
    CHECK_INT(forerun_plan(survival, steep, 4), 0);
    CHECK_INT(forerun_plan(survival, flat, 4), 4); /* a flat table verifies everything */
    CHECK_INT(forerun_plan(none, flat, 4), 0);     /* the smallest of equals */
    CHECK_INT(forerun_plan(survival, flat, 0), 0);
}

static fr_planner planner_of(fr_arena *arena, bool confident, float plain, const float *round) {
    static int64_t widths[] = {2, 3, K + 1};
    const fr_model model = {.draft_len = K, .prefill_chunk = 16, .verify_widths = widths, .n_verify_widths = 3};
    fr_planner planner;
    REQUIRE(fr_planner_open(&planner, arena, &model, confident, &error) == FORERUN_OK);
    fr_planner_costs(&planner, &model, plain, round);
    fr_planner_begin(&planner);
    return planner;
}

static void a_round_costs_what_its_width_does(void) {
    fr_arena arena = {0};
    const float round[] = {2, 3, 5}, expected[] = {2, 2, 3, 5, 5};
    const fr_planner planner = planner_of(&arena, true, 1, round);
    CHECK(memcmp(planner.round, expected, sizeof expected) == 0);
    CHECK(planner.either[0] == 1.0f && memcmp(planner.either + 1, expected + 1, K * sizeof(float)) == 0);
    fr_arena_free(&arena);
}

/* Whether draft i is verified in sampling must not change with a confidence behind i, in greedy decoding it may. */
static void sampling_decides_in_order(void) {
    fr_arena arena = {0};
    const float round[] = {1.0f, 1.2f, 1.6f};
    fr_planner planner = planner_of(&arena, true, 1, round);
    uint64_t state = 0;
    size_t differs = 0;
    for (int trial = 0; trial < 2000; trial++) {
        float one[K], other[K];
        size_t same = (size_t)(uniform_of(&state) * K);
        for (size_t i = 0; i < K; i++) {
            one[i] = 0.5f + 0.5f * uniform_of(&state);
            other[i] = i <= same ? one[i] : 0.5f + 0.5f * uniform_of(&state);
        }
        size_t a = fr_planner_drafts(&planner, one, K, true), b = fr_planner_drafts(&planner, other, K, true);
        CHECK((a > same) == (b > same));
        CHECK(a > same || a == b);
        a = fr_planner_drafts(&planner, one, K, false);
        b = fr_planner_drafts(&planner, other, K, false);
        differs += (a > same) != (b > same);
        CHECK(fr_planner_drafts(&planner, one, 2, false) <= 2 && fr_planner_drafts(&planner, one, 2, true) <= 2);
    }
    CHECK(differs > 20);
    fr_arena_free(&arena);
}

/* A drafter without a head: its ones are no confidence; what was kept says how much to verify. */
static void rates_stand_in_for_confidence(void) {
    fr_arena arena = {0};
    const float round[] = {1.0f, 1.2f, 1.5f}, ones[K] = {1, 1, 1, 1};
    fr_planner planner = planner_of(&arena, false, 0.9f, round);
    CHECK_INT(fr_planner_drafts(&planner, ones, K, false), K);
    for (int i = 0; i < 20; i++)
        fr_planner_learn(&planner, ones, K, 1); /* the second is never kept */
    CHECK_INT(fr_planner_drafts(&planner, ones, K, false), 1);
    CHECK_INT(fr_planner_drafts(&planner, ones, K, true), 1);
    fr_planner_begin(&planner);
    CHECK_INT(fr_planner_drafts(&planner, ones, K, true), K);
    fr_arena_free(&arena);
}

/* A head that doubts what turns out well is believed less and less. */
static void confidence_is_calibrated(void) {
    fr_arena arena = {0};
    const float round[] = {1.0f, 1.3f, 1.9f}, doubt[K] = {0.3f, 0.3f, 0.3f, 0.3f};
    fr_planner planner = planner_of(&arena, true, 1, round);
    CHECK_INT(fr_planner_drafts(&planner, doubt, K, false), 1);
    for (int i = 0; i < 30; i++)
        fr_planner_learn(&planner, doubt, K, K);
    CHECK_INT(fr_planner_drafts(&planner, doubt, K, false), K);
    CHECK(planner.shift > 1.0f && planner.shift <= 4.0f);
    fr_arena_free(&arena);
}

static fr_planner lookup_planner(fr_arena *arena, const float round[4]) {
    static int64_t widths[] = {2, 3, K + 1, 9};
    const fr_model model = {
        .draft_len = K, .lookup_len = 8, .prefill_chunk = 16, .verify_widths = widths, .n_verify_widths = 4};
    fr_planner planner;
    REQUIRE(fr_planner_open(&planner, arena, &model, true, &error) == FORERUN_OK);
    fr_planner_costs(&planner, &model, 1, round);
    fr_planner_begin(&planner);
    return planner;
}

/* Short and long matches have rates of their own, the drafter's stay as they are, and a step that does not pay is not
 * climbed. */
static void looked_up_tokens_have_their_own_rates(void) {
    fr_arena arena = {0};
    const float round[] = {1.0f, 1.1f, 1.2f, 2.0f};
    fr_planner planner = lookup_planner(&arena, round);
    CHECK(planner.round[8] == 2.0f && planner.round[K] == 1.2f && planner.either[0] == 1.0f);
    fr_plan young = fr_planner_lookup(&planner, 4, 8), sure = fr_planner_lookup(&planner, 32, 8);
    CHECK(young.n_draft == 4 && sure.n_draft == 8 && sure.rate > young.rate);
    CHECK(fr_planner_lookup(&planner, 32, 3).n_draft == 3 && fr_planner_lookup(&planner, 32, 0).n_draft == 0);
    double drafts = fr_planner_rate(&planner, NULL, K, true);
    for (int i = 0; i < 20; i++)
        fr_planner_learn_lookup(&planner, 15, 8, 1);
    CHECK(fr_planner_lookup(&planner, 16, 8).rate == sure.rate);
    CHECK(fr_planner_lookup(&planner, 15, 8).rate < young.rate && fr_planner_lookup(&planner, 15, 1).rate > 1.9);
    for (int i = 0; i < 20; i++)
        fr_planner_learn_lookup(&planner, 16, 8, 0);
    CHECK(fr_planner_lookup(&planner, 16, 8).rate < drafts);
    CHECK(fr_planner_lookup(&planner, 16, 8).rate > 1.0); /* the prior stays, so that it is tried again */
    CHECK(fr_planner_rate(&planner, NULL, K, true) == drafts && planner.left == 0);
    fr_planner_begin(&planner);
    CHECK(fr_planner_lookup(&planner, 16, 8).rate == sure.rate);
    CHECK(fr_planner_plain_rate(&planner) == 1.0);
    fr_arena_free(&arena);
}

/* What the drafter's tokens promise: by their confidences in greedy decoding, by earlier rounds alone in sampling. */
static void the_drafters_rate_in_sampling_does_not_look_at_its_draft(void) {
    fr_arena arena = {0};
    const float round[] = {1.0f, 1.1f, 1.2f, 2.0f}, sure[K] = {0.9f, 0.9f, 0.9f, 0.9f}, doubt[K] = {0.1f, 0.1f, 0.1f};
    fr_planner planner = lookup_planner(&arena, round);
    CHECK(fr_planner_rate(&planner, sure, K, true) == fr_planner_rate(&planner, doubt, K, true));
    CHECK(fr_planner_rate(&planner, sure, K, false) > fr_planner_rate(&planner, doubt, K, false));
    double before = fr_planner_rate(&planner, sure, K, true);
    fr_planner_learn(&planner, sure, K, 0);
    CHECK(fr_planner_rate(&planner, sure, K, true) < before);
    CHECK(fr_planner_rate(&planner, sure, 0, true) == 1.0 / 1.0);
    fr_arena_free(&arena);
}

/* Rounds that keep nothing until a pause begins. */
static size_t failing_rounds(fr_planner *planner, const float confidence[K]) {
    size_t count = 0;
    for (; planner->left == 0 && count < 100; count++)
        fr_planner_learn(planner, confidence, K, 0);
    return count;
}

static size_t plain_rounds(fr_planner *planner) {
    size_t count = 0;
    while (fr_planner_pauses(planner))
        count++;
    return count;
}

/* Pauses double while probes fail, read whole chunks from there on, and begin small again once speculation has paid. */
static void pauses_grow_while_it_does_not_pay(void) {
    fr_arena arena = {0};
    const float round[] = {1.3f, 1.3f, 1.3f}, sure[K] = {0.9f, 0.9f, 0.9f, 0.9f};
    fr_planner planner = planner_of(&arena, true, 1, round);
    static const size_t expected[] = {31, 63, 127, 255}; /* two rounds are an eighth of 20.8 plain ones */
    for (size_t i = 0; i < 4; i++) {
        size_t rounds = failing_rounds(&planner, sure); /* the first needs to unlearn more */
        CHECK(rounds >= 1 && rounds <= (i == 0 ? 8 : 3));
        CHECK_INT(plain_rounds(&planner), expected[i]);
        fr_planner_resume(&planner);
    }
    for (int i = 0; i < 40; i++) {
        fr_planner_learn(&planner, sure, K, K);
        plain_rounds(&planner);
    }
    CHECK_INT(planner.pause, 0);
    const float dear[] = {9, 9, 9}; /* more than a whole draft is worth: it begins with a pause */
    planner = planner_of(&arena, true, 1, dear);
    CHECK_INT(plain_rounds(&planner), 255);
    static const size_t widths[] = {0, 8, 16, 20, 40, 80};
    for (size_t i = 0; i + 1 < sizeof widths / sizeof widths[0]; i++)
        CHECK_INT(fr_planner_next_width(widths[i], 20), widths[i + 1]);
    CHECK_INT(fr_planner_next_width(0, 3), 3);
    fr_arena_free(&arena);
}

int main(void) {
    plans_what_pays_most();
    climbs_over_a_step();
    a_round_costs_what_its_width_does();
    sampling_decides_in_order();
    rates_stand_in_for_confidence();
    confidence_is_calibrated();
    looked_up_tokens_have_their_own_rates();
    the_drafters_rate_in_sampling_does_not_look_at_its_draft();
    pauses_grow_while_it_does_not_pay();
    return check_failures != 0;
}
