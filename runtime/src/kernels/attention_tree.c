/* The keys of a tree's nodes, and those of the text that share a block with the first of them.
 *
 * Scores are those of the rows by all cache rows of the tail, computed together: a score has the same bits wherever its
 * key stands. Then each row puts the scores of the keys that it sees into the order of their positions, and what
 * follows does to them what it would do to a chain. */
#include "attention_parts.h"

#include <string.h>

enum {
    TAIL_BLOCKS = (FR_ATTENTION_NODES + FR_ATTENTION_KEYS - 1 + FR_ATTENTION_KEYS - 1) / FR_ATTENTION_KEYS,
    TAIL_KEYS = TAIL_BLOCKS * FR_ATTENTION_KEYS
};

/* The scores of the part's rows by the cache rows from the tail on, and which these are. */
typedef struct tail {
    float scores[TAIL_BLOCKS][FR_ATTENTION_ROWS * FR_ATTENTION_KEYS];
    fr_attention_span span;
} tail;

static void score_tail(const fr_attention *it, const fr_attention_part *mine, size_t head, size_t count, tail *out) {
    const fr_attention_ahead none = {(const char *)it->k.rows, 0};
    out->span = (fr_attention_span){head * it->capacity + fr_attention_tail(it), count};
    for (size_t key = 0; key < count; key += FR_ATTENTION_KEYS) {
        const fr_attention_span keys = {out->span.at + key, fr_smaller(FR_ATTENTION_KEYS, count - key)};
        fr_attention_score(it, mine, 0, mine->count, keys, none, out->scores[key / FR_ATTENTION_KEYS]);
    }
}

/* Adds the values of the keys from..end-1 of one row's block; rows[key] are their cache rows from the tail on, which
 * ascend. */
static void add_row(const fr_attention *it, const float *weights, int32_t from, int32_t end, const size_t *rows,
                    const float *values, float *acc) {
    for (int32_t to; from < end; from = to) {
        for (to = from + 1; to < end && rows[to] == rows[to - 1] + 1; to++)
            ;
        const fr_attention_rows some = {.from = &from, .to = &to};
        const float *now = values + (rows[from] - (size_t)from) * it->dim; /* key number `from` is value `from` there */
        it->path->add(weights, some, 1, now, it->dim, (fr_attention_ahead){(const char *)now, 0}, acc);
    }
}

/* The same of codes, which are brought into the order of the keys: their weights are rounded together. */
static void add_row_codes(const fr_attention *it, const float *weights, size_t count, const size_t *rows, size_t at,
                          float *acc) {
    int8_t values[FR_ATTENTION_KEYS * FR_ATTENTION_MAX_DIM];
    float scales[FR_ATTENTION_KEYS];
    for (size_t key = 0; key < count; key++) {
        memcpy(values + key * it->dim, (const int8_t *)it->v.rows + (at + rows[key]) * it->dim, it->dim);
        scales[key] = it->v.scales[at + rows[key]];
    }
    const fr_attention_ahead none = {(const char *)values, 0};
    it->path->add_codes(weights, 1, values, scales, count, it->dim, none, acc);
}

/* The row number i of the part, of a token with `seen` keys from the tail on, of which rows[] are the cache rows. */
static void attend_row(const fr_attention *it, fr_attention_part *mine, size_t i, const tail *from, size_t first,
                       size_t seen, const size_t *rows) {
    const fr_attention_rows row = fr_attention_rows_of(mine, i);
    float weights[FR_ATTENTION_KEYS] = {0}, *acc = mine->acc + i * it->dim;
    for (size_t start = first / FR_ATTENTION_KEYS * FR_ATTENTION_KEYS; start < seen; start += FR_ATTENTION_KEYS) {
        const size_t from_key = fr_larger(first, start) - start, to = fr_smaller(seen - start, FR_ATTENTION_KEYS);
        *row.from = (int32_t)from_key, *row.to = (int32_t)to;
        for (size_t key = from_key; key < to; key++) {
            size_t at = rows[start + key];
            weights[key] = from->scores[at / FR_ATTENTION_KEYS][i * FR_ATTENTION_KEYS + at % FR_ATTENTION_KEYS];
        }
        it->path->weigh(weights, row, 1, it->softcap, acc, it->dim);
        if (it->v.scales == NULL)
            add_row(it, weights, *row.from, *row.to, rows + start, (const float *)it->v.rows + from->span.at * it->dim,
                    acc);
        else
            add_row_codes(it, weights, to, rows + start, from->span.at, acc);
    }
}

void fr_attention_attend_tail(const fr_attention *it, fr_attention_part *mine, size_t head) {
    size_t rows[TAIL_KEYS], path[FR_ATTENTION_NODES], group = fr_attention_group(it);
    const size_t start = fr_attention_tail(it), trunk = it->position + fr_attention_trunk(it);
    const size_t last = it->position + (mine->first + mine->count - 1) / group; /* no ancestor comes after it */
    tail all;
    if (last < start)
        return;
    score_tail(it, mine, head, last + 1 - start, &all);
    for (size_t i = 0; i < mine->count; i++) {
        size_t token = (mine->first + i) / group, position = fr_attention_position(it, token);
        if (position < start)
            continue;
        if (token >= fr_attention_trunk(it))
            fr_attention_ancestors(it, token, path);
        for (size_t key = 0; key + start <= position; key++)
            rows[key] = key + start < trunk ? key : it->position + path[key + start - trunk] - start;
        size_t first = fr_larger(fr_attention_first_key(it, position), start) - start;
        attend_row(it, mine, i, &all, first, position + 1 - start, rows);
    }
}
