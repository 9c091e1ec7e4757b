/* How many draft tokens a round verifies, and when none pays: from the chances that they are kept, and what rounds
 * cost.
 *
 * Lossless: greedy decoding gives the same tokens whatever is verified. In sampling, whether draft i is verified may
 * depend on what was known before its token was drawn, and on nothing else. Those are its own confidence, which a
 * drafter computes from the tokens before it, and earlier rounds. So a sampling round decides slot by slot, in order,
 * with rates of earlier rounds in the place of the confidences behind; tests/contract enumerates this rule.
 *
 * Reproducible: nothing here reads a clock. */
#ifndef FORERUN_PLANNER_H
#define FORERUN_PLANNER_H

#include "arena.h"
#include "manifest.h"

#include <stdbool.h>

typedef struct fr_planner {
    size_t draft_len;
    bool confident;             /* the drafter has a confidence head */
    size_t chunk;               /* prefill_chunk: most tokens that one run reads */
    float plain, *round;        /* cost of a plain round; [K + 1] of a round that verifies so many */
    float *either;              /* [K + 1] the same, but plain decoding where nothing is verified */
    float shift;                /* added to the log odds of a confidence */
    float *kept, *tested;       /* [K] recent drafts that were kept, of those tested, when all before were kept */
    float won, spent;           /* recent tokens, and their cost */
    float *chance, *survival;   /* [K] scratch */
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

/* What became of the `n_drafted` tokens that a round verified; begins a pause where speculation does not pay. */
void fr_planner_learn(fr_planner *self, const float *confidence, size_t n_drafted, size_t n_accepted);

/* Takes a plain round of a pause; false once there is none left. */
bool fr_planner_pauses(fr_planner *self);

/* After a pause: speculation is tried again, and old rounds count half. */
void fr_planner_resume(fr_planner *self);

/* The tokens that are read after a pause, which a backend has to prepare: the next after `before` (0: the first), or 0
 * where there is no other. A whole chunk is among them. */
size_t fr_planner_next_width(size_t before, size_t chunk);

#endif
