#include "planner.h"

#include <math.h>
#include <string.h>

/* Evidence fades by a tenth with each new observation: about the last ten count. */
static const float FADE = 0.9f;
/* Before anything is known a draft is thought good, so that it is tried, with the weight of four observations; a slot
 * is thought as good as the one before it, with the weight of two. */
static const float PRIOR = 0.85f, PRIOR_WEIGHT = 4.0f, SLOT_WEIGHT = 2.0f;
/* What each looked-up slot is worth on code where a repetition begins, and in the middle of one (as many tokens are as
 * before): with the same weight, but it does not fade. */
static const float LOOKUP_PRIOR[2] = {0.9f, 0.98f};
enum { LONG_MATCH = 16 };
/* A step of 0.1 a tested draft follows a text within some rounds; larger ones made sampled acceptance less likely. */
static const float STEP = 0.1f, MOST_SHIFT = 4.0f;
static const float LEAST_CONFIDENCE = 0.01f;
static const float PROBE_SHARE = 0.125f;
/* A pause reads at least 8 tokens after it; so many rounds that pay end the growth of pauses. */
enum { FIRST_READ = 8, MOST_PAUSE = 1 << 30, PAYING_ROUNDS = 8 };

/* The count `first` .. n with the most expected tokens for its cost; the smallest of equals. */
static fr_plan best_plan(const float *survival, const float *cost, size_t first, size_t n) {
    fr_plan best = {first, -1.0};
    double tokens = 1.0;
    for (size_t i = 0; i <= n; i++) {
        if (i > 0)
            tokens += (double)survival[i - 1];
        double rate = tokens / (double)cost[i];
        if (i >= first && rate > best.rate)
            best = (fr_plan){i, rate};
    }
    return best;
}

size_t forerun_plan(const float *survival, const float *cost, size_t n_draft) {
    return best_plan(survival, cost, 0, n_draft).n_draft;
}

forerun_status fr_planner_open(fr_planner *self, fr_arena *arena, const fr_model *model, bool confident,
                               forerun_error *error) {
    fr_lookup_rates *lookup = self->lookup;
    float **arrays[] = {&self->round,    &self->either,   &self->kept,     &self->tested,     &self->chance,
                        &self->survival, &lookup[0].kept, &lookup[1].kept, &lookup[0].tested, &lookup[1].tested};
    *self = (fr_planner){.draft_len = (size_t)model->draft_len,
                         .verify_len = (size_t)fr_verify_len(model),
                         .confident = confident,
                         .chunk = (size_t)model->prefill_chunk};
    for (size_t i = 0; i < sizeof arrays / sizeof arrays[0]; i++)
        if ((*arrays[i] = fr_arena_take(arena, self->verify_len + 1, sizeof(float))) == NULL)
            return fr_fail(error, FORERUN_OUT_OF_MEMORY, "No memory to plan rounds.");
    return FORERUN_OK;
}

void fr_planner_costs(fr_planner *self, const fr_model *model, float plain, const float *round) {
    size_t width = 0; /* its index */
    for (size_t n = 0; n <= self->verify_len; n++) {
        while ((size_t)model->verify_widths[width] <= n)
            width++;
        self->round[n] = self->either[n] = round[width];
    }
    self->plain = self->either[0] = plain;
}

static float log_odds(float confidence) {
    float p = fminf(fmaxf(confidence, LEAST_CONFIDENCE), 1.0f - LEAST_CONFIDENCE);
    return logf(p / (1.0f - p));
}

/* The confidence as it has turned out in this generation. */
static float calibrated(const fr_planner *self, float confidence) {
    return 1.0f / (1.0f + expf(-(log_odds(confidence) + self->shift)));
}

/* chance[i] = the rate at which draft i was kept if those before were; a slot that was hardly tested has the rate of
 * the one before. */
static void use_rates(fr_planner *self) {
    self->chance[0] = self->kept[0] / self->tested[0];
    for (size_t i = 1; i < self->draft_len; i++)
        self->chance[i] = (SLOT_WEIGHT * self->chance[i - 1] + self->kept[i]) / (SLOT_WEIGHT + self->tested[i]);
}

/* Of the first `n`. */
static const float *survival(fr_planner *self, size_t n) {
    float product = 1.0f;
    for (size_t i = 0; i < n; i++)
        self->survival[i] = product *= self->chance[i];
    return self->survival;
}

/* What the drafter's draft promises, by its confidences where these may be used, else by earlier rounds. */
static fr_plan draft_plan(fr_planner *self, const float *confidence, size_t most, bool sampling) {
    use_rates(self);
    for (size_t i = 0; self->confident && !sampling && i < most; i++)
        self->chance[i] = calibrated(self, confidence[i]);
    return best_plan(survival(self, most), self->round, 0, most);
}

size_t fr_planner_drafts(fr_planner *self, const float *confidence, size_t most, bool sampling) {
    if (!self->confident || !sampling)
        return draft_plan(self, confidence, most, sampling).n_draft;
    use_rates(self);
    for (size_t i = 0; i < most; i++) {
        self->chance[i] = calibrated(self, confidence[i]);
        if (best_plan(survival(self, most), self->round, i, most).n_draft == i)
            return i;
    }
    return most;
}

double fr_planner_rate(fr_planner *self, const float *confidence, size_t most, bool sampling) {
    return draft_plan(self, confidence, most, sampling).rate;
}

double fr_planner_plain_rate(const fr_planner *self) {
    return 1.0 / (double)self->plain;
}

fr_plan fr_planner_lookup(fr_planner *self, size_t common, size_t most) {
    const bool is_long = common >= LONG_MATCH;
    const fr_lookup_rates *rates = &self->lookup[is_long];
    for (size_t i = 0; i < most; i++)
        self->chance[i] = (LOOKUP_PRIOR[is_long] * PRIOR_WEIGHT + rates->kept[i]) / (PRIOR_WEIGHT + rates->tested[i]);
    return best_plan(survival(self, most), self->round, 0, most);
}

/* Whether speculation is worth its time: at the best fixed plan, or as it is done. */
static bool pays(fr_planner *self) {
    use_rates(self);
    return best_plan(survival(self, self->draft_len), self->either, 0, self->draft_len).n_draft > 0 ||
           (self->spent > 0.0f && self->won * self->plain >= self->spent);
}

/* Another try costs about two rounds, one that reads and one that verifies. The first pause is so long that they are
 * a small share of it; the others grow. */
static void begin_pause(fr_planner *self) {
    float least = 2.0f * self->round[self->draft_len] / (PROBE_SHARE * self->plain);
    do
        self->pause = fr_planner_next_width(self->pause, self->chunk);
    while ((float)self->pause < least && self->pause < MOST_PAUSE);
    self->left = self->pause - 1; /* the token after the last plain round is read too */
    self->paying = 0;
}

void fr_planner_begin(fr_planner *self) {
    self->shift = self->won = self->spent = 0.0f;
    self->pause = self->left = self->paying = 0;
    memset(self->kept, 0, self->draft_len * sizeof(float));
    memset(self->tested, 0, self->draft_len * sizeof(float));
    for (int i = 0; i < 2; i++) {
        memset(self->lookup[i].kept, 0, self->verify_len * sizeof(float));
        memset(self->lookup[i].tested, 0, self->verify_len * sizeof(float));
    }
    self->kept[0] = PRIOR * PRIOR_WEIGHT;
    self->tested[0] = PRIOR_WEIGHT;
    if (!pays(self)) /* not even a good draft would */
        begin_pause(self);
}

/* Draft `slot` was tested: it is the first that was not kept, or one before it. */
static void count(float *kept, float *tested, size_t slot, size_t n_accepted) {
    kept[slot] = FADE * kept[slot] + (slot < n_accepted ? 1.0f : 0.0f);
    tested[slot] = FADE * tested[slot] + 1.0f;
}

void fr_planner_learn_lookup(fr_planner *self, size_t common, size_t n_drafted, size_t n_accepted) {
    const fr_lookup_rates *rates = &self->lookup[common >= LONG_MATCH];
    for (size_t i = 0; i < n_drafted && i <= n_accepted; i++)
        count(rates->kept, rates->tested, i, n_accepted);
}

void fr_planner_learn(fr_planner *self, const float *confidence, size_t n_drafted, size_t n_accepted) {
    for (size_t i = 0; i < n_drafted && i <= n_accepted; i++) {
        float kept = i < n_accepted ? 1.0f : 0.0f;
        count(self->kept, self->tested, i, n_accepted);
        self->shift += STEP * (kept - calibrated(self, confidence[i]));
        self->shift = fminf(fmaxf(self->shift, -MOST_SHIFT), MOST_SHIFT);
    }
    self->won = FADE * self->won + 1.0f + (float)n_accepted;
    self->spent = FADE * self->spent + self->round[n_drafted];
    if (!pays(self))
        begin_pause(self);
    else if (++self->paying >= PAYING_ROUNDS)
        self->pause = 0;
}

bool fr_planner_pauses(fr_planner *self) {
    if (self->left == 0)
        return false;
    self->left--;
    return true;
}

void fr_planner_resume(fr_planner *self) {
    for (size_t i = 0; i < self->draft_len; i++) {
        self->kept[i] *= 0.5f;
        self->tested[i] *= 0.5f;
    }
    self->won *= 0.5f;
    self->spent *= 0.5f;
}

size_t fr_planner_next_width(size_t before, size_t chunk) {
    if (before >= chunk)
        return before < MOST_PAUSE ? 2 * before : before;
    size_t next = before == 0 ? FIRST_READ : 2 * before;
    return next < chunk ? next : chunk;
}
