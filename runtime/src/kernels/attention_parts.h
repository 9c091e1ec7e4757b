/* What the files of the attention share: where rows and heads lie, and the state of the query rows of one part. */
#ifndef FORERUN_ATTENTION_PARTS_H
#define FORERUN_ATTENTION_PARTS_H

#include "attention.h"

static inline size_t fr_smaller(size_t a, size_t b) {
    return a < b ? a : b;
}

static inline size_t fr_larger(size_t a, size_t b) {
    return a > b ? a : b;
}

/* The query rows that share a key-value head: number r is head r % group of token r / group. */
static inline size_t fr_attention_group(const fr_attention *it) {
    return it->heads / it->kv_heads;
}

/* The rows of the run that are no nodes of a tree. */
static inline size_t fr_attention_trunk(const fr_attention *it) {
    return it->rows - it->nodes;
}

/* How many nodes stand above a token that is one, itself too; written to `path` [nodes], nearest to the trunk first. */
size_t fr_attention_ancestors(const fr_attention *it, size_t token, size_t *path);

size_t fr_attention_node_position(const fr_attention *it, size_t token);

/* The position of a token in the text. */
static inline size_t fr_attention_position(const fr_attention *it, size_t token) {
    return token < fr_attention_trunk(it) ? it->position + token : fr_attention_node_position(it, token);
}

/* The first key that the token at `position` sees. */
static inline size_t fr_attention_first_key(const fr_attention *it, size_t position) {
    return it->window > 0 && position + 1 > it->window ? position + 1 - it->window : 0;
}

/* A head in a new row: `index` counts those of q, then of k, then of v. */
static inline const float *fr_attention_head(const fr_attention *it, size_t row, size_t index) {
    return it->qkv + (row * (it->heads + 2 * it->kv_heads) + index) * it->dim;
}

/* The query rows of one part and their state, in the order of r. A vector of 64 bytes lies in one line; where there is
 * one value for each row, as much is readable behind the last row as a vector may hold. */
typedef struct fr_attention_part {
    size_t first, count; /* of r */
    _Alignas(64) float largest[FR_ATTENTION_KEYS];
    float sum[FR_ATTENTION_KEYS];
    int32_t from[FR_ATTENTION_KEYS], to[FR_ATTENTION_KEYS];
    int32_t sums[FR_ATTENTION_KEYS]; /* of the codes */
    float scales[FR_ATTENTION_KEYS]; /* of the codes */
    _Alignas(64) float q[FR_ATTENTION_ROWS * FR_ATTENTION_MAX_DIM];
    _Alignas(64) float acc[FR_ATTENTION_ROWS * FR_ATTENTION_MAX_DIM];
    _Alignas(64) int8_t codes[FR_ATTENTION_ROWS * FR_ATTENTION_MAX_DIM]; /* of q, where caches are int8 */
    _Alignas(64) int32_t turned[FR_ATTENTION_MAX_DIM / 4 * FR_ATTENTION_KEYS];
} fr_attention_part;

/* The state of the rows from number i of the part on. */
static inline fr_attention_rows fr_attention_rows_of(fr_attention_part *mine, size_t i) {
    return (fr_attention_rows){mine->largest + i, mine->sum + i, mine->from + i, mine->to + i};
}

/* Keys or values: the cache rows at..at+count-1 of all heads' rows. */
typedef struct fr_attention_span {
    size_t at, count;
} fr_attention_span;

void fr_attention_take_queries(const fr_attention *it, fr_attention_part *mine, size_t head);

/* The scores [count][64] of the part's rows from number `first` on by keys. */
void fr_attention_score(const fr_attention *it, const fr_attention_part *mine, size_t first, size_t count,
                        fr_attention_span keys, fr_attention_ahead next, float *scores);

/* Where a run's nodes begin to matter: the start of the block of keys that holds the first node. */
static inline size_t fr_attention_tail(const fr_attention *it) {
    return (it->position + fr_attention_trunk(it)) / FR_ATTENTION_KEYS * FR_ATTENTION_KEYS;
}

/* All keys from fr_attention_tail on, for a run with nodes. */
void fr_attention_attend_tail(const fr_attention *it, fr_attention_part *mine, size_t head);

#endif
