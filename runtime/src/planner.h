/* How many draft tokens a round verifies, whose, and when none pays: from the chances that they are kept, and what
 * rounds cost.
 *
 * Lossless: greedy decoding gives the same tokens whatever is verified. In sampling, whether draft i is verified may
 * depend on what was known before its token was drawn, and on nothing else. Those are its own confidence, which a
 * drafter computes from the tokens before it, and earlier rounds. So a sampling round decides slot by slot, in order,
 * with rates of earlier rounds in the place of the confidences behind; tests/contract enumerates this rule. Tokens that
 * are looked up follow from the text: how many are verified may depend on the text and on earlier rounds, and so may
 * whether they take the place of the drafter's, but not on what it has drawn.
 *
 * Reproducible: nothing here reads a clock. */
#ifndef FORERUN_PLANNER_H
#define FORERUN_PLANNER_H

#include "arena.h"
#include "manifest.h"

#include <stdbool.h>

/* A number of draft tokens, and what a round that verifies them promises. */
typedef struct fr_plan {
    size_t n_draft;
    double rate; /* expected tokens for its cost */
} fr_plan;

/* What became of looked-up tokens in this generation, slot by slot as for the drafter's. */
typedef struct fr_lookup_rates {
    float *kept, *tested; /* [L] */
} fr_lookup_rates;

typedef struct fr_planner {
    size_t draft_len, verify_len;
    bool confident;             /* the drafter has a confidence head */
    size_t chunk;               /* prefill_chunk: most tokens that one run reads */
    float plain, *round;        /* cost of a plain round; [M + 1] of a round that verifies so many */
    float *either;              /* [K + 1] the same, but plain decoding where nothing is verified */
    float shift;                /* added to the log odds of a confidence */
    float *kept, *tested;       /* [K] recent drafts that were kept, of those tested, when all before were kept */
    float won, spent;           /* recent tokens, and their cost */
    float *chance, *survival;   /* [M] scratch */
    fr_lookup_rates lookup[2];  /* after a short match with the text before, and after a long one */
    size_t pause, left, paying; /* length of the last pause in plain rounds, what is left of it; rounds since */
} fr_planner;

/* Takes its buffers. */
forerun_status fr_planner_open(fr_planner *self, fr_arena *arena, const fr_model *model, bool confident,
                               forerun_error *error);

/* Costs in any unit: of a plain round, and of one of each of the model's verify_widths. */
void fr_planner_costs(fr_planner *self, const fr_model *model, float plain, const float *round);

/* Forgets the generation before. */
void fr_planner_begin(fr_planner *self);

/* The draft tokens to verify, 0 .. `most`, of a draft with this confidence [K]. */
size_t fr_planner_drafts(fr_planner *self, const float *confidence, size_t most, bool sampling);

/* What the drafter's draft promises, to be compared with a looked-up one. In sampling it is what such drafts promised
 * before, not what this one does. */
double fr_planner_rate(fr_planner *self, const float *confidence, size_t most, bool sampling);

/* The same of plain decoding. */
double fr_planner_plain_rate(const fr_planner *self);

/* The looked-up tokens to verify, 0 .. `most`, after a match of `common` tokens. */
fr_plan fr_planner_lookup(fr_planner *self, size_t common, size_t most);

/* What became of looked-up tokens that a round verified. */
void fr_planner_learn_lookup(fr_planner *self, size_t common, size_t n_drafted, size_t n_accepted);

/* What became of the drafter's `n_drafted` tokens that a round verified; begins a pause where speculation does not pay.
 */
void fr_planner_learn(fr_planner *self, const float *confidence, size_t n_drafted, size_t n_accepted);

/* Takes a plain round of a pause; false once there is none left. */
bool fr_planner_pauses(fr_planner *self);

/* After a pause: speculation is tried again, and old rounds count half. */
void fr_planner_resume(fr_planner *self);

/* The tokens that are read after a pause, which a backend has to prepare: the next after `before` (0: the first), or 0
 * where there is no other. A whole chunk is among them. */
size_t fr_planner_next_width(size_t before, size_t chunk);

#endif
