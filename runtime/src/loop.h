/* One generation, round by round, over any backend. */
#ifndef FORERUN_LOOP_H
#define FORERUN_LOOP_H

#include "backend.h"
#include "lookup.h"
#include "planner.h"

#include <stdatomic.h>
#include <stdbool.h>

typedef struct fr_loop {
    fr_backend *backend;
    const fr_model *model;
    forerun_request request; /* draft_len resolved; 0 in plain decoding */
    int64_t *tokens;         /* [capacity] the prompt, then what was committed */
    int64_t n_prompt;
    int64_t *committed; /* [M + 1] what the last round reported */
    int64_t *draft;     /* [K] the draft that the next round verifies */
    float *confidence;  /* [K] */
    fr_lookup lookup;   /* of `tokens` */
    int64_t *found;     /* [L] what was looked up for the next round */
    size_t common;      /* tokens that the text has in common with the place where it was found */
    int64_t position;   /* tokens in the target's cache */
    int64_t drafted;    /* tokens in the drafter's cache: less than `position` after plain rounds */
    int64_t read_to;    /* tokens up to here are read in chunks: the prompt; after a pause, all that there are */
    int64_t n_new;      /* tokens committed so far */
    uint64_t round;     /* of the random stream: prefill is 0, decoding counts from 1 */
    fr_planner planner;
    bool has_costs; /* of rounds: without them nothing is planned */
    bool planned;   /* this generation */
    bool looks_up;  /* this generation */
    bool looked_up; /* this round verifies what was found in place of the draft */
    bool running;
    atomic_bool cancelled;
} fr_loop;

/* Takes the loop's buffers. */
forerun_status fr_loop_open(fr_loop *self, fr_arena *arena, fr_backend *backend, const fr_model *model,
                            forerun_error *error);

/* From the next start on; `costs` may be NULL, and was checked. */
void fr_loop_costs(fr_loop *self, const forerun_costs *costs);

forerun_status fr_loop_start(fr_loop *self, const int64_t *prompt, size_t n_prompt, const forerun_request *request,
                             forerun_error *error);

forerun_status fr_loop_step(fr_loop *self, forerun_round *out, forerun_error *error);

void fr_loop_cancel(fr_loop *self);

#endif
