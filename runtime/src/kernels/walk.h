/* The greedy walk through a drafter's block with a recurrent Markov head (DSpark), all its slots in one.
 *
 *   state = 0; token = anchor; for each slot:
 *   z = joint [state, table[token], hidden[slot]] + bias, in thirds; keep = sigmoid(z[0]), out = tanh(z[2])
 *   state = keep * state + (1 - keep) * tanh(z[1])
 *   token = tokens[slot] = the first of the largest of (output out + logits[slot])
 *
 * Each product is one of linear.h and each step one of float_steps.h, so that the tokens are those that they give one
 * by one. A slot is so little work that threads which meet in a thread pool between its parts do nothing else. */
#ifndef FORERUN_WALK_H
#define FORERUN_WALK_H

#include "linear.h"

struct fr_walk_slot;

/* One walk. Fill the first part, call fr_walk_begin, then fr_walk_seat on as many threads as there are, at least one.
 * Nothing is allocated. */
typedef struct fr_walk {
    /* Of one row, without x, y and scratch; output without an addend. */
    fr_linear joint;     /* from state_size + rank + width to 3 state_size, its addend the bias */
    fr_linear output;    /* from state_size to as many as there are logits of a slot */
    const float *table;  /* [at least n of output][rank] */
    const float *hidden; /* [slots][width] */
    const float *logits; /* [slots][n of output] */
    int64_t anchor;      /* a row of the table */
    int64_t *tokens;     /* [slots] */
    size_t slots, state_size, rank, width;
    void *scratch; /* fr_walk_scratch bytes */
    /* Ours: */
    struct fr_walk_slot *steps; /* [slots] */
    float *x;                   /* what joint reads: state, row of the table, hidden row */
    float *z, *next, *out;      /* [3 state_size], [state_size], [state_size] */
    float *scores;              /* [n of output] */
    int64_t *best;              /* [parts of output]: the first of the largest scores of each */
} fr_walk;

size_t fr_walk_scratch(const fr_walk *it);

/* Sets up and returns how many threads find work at most. */
size_t fr_walk_begin(fr_walk *it);

/* Works on the walk until it is done. A seat that comes when all is done returns at once. */
void fr_walk_seat(fr_walk *it);

#endif
