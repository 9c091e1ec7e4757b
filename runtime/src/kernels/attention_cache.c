/* The rows of the caches: how they are made, written and read. */
#include "attention_parts.h"

#include <string.h>

size_t fr_attention_count_nodes(const int64_t *parents, size_t rows) {
    size_t chain = 0;
    while (chain < rows && parents[chain] == (int64_t)chain - 1)
        chain++;
    size_t trunk = chain;
    for (size_t row = chain; row < rows; row++)
        trunk = parents[row] + 1 < (int64_t)trunk ? (size_t)(parents[row] + 1) : trunk;
    return rows - trunk;
}

size_t fr_attention_ancestors(const fr_attention *it, size_t token, size_t *path) {
    const int64_t trunk = (int64_t)fr_attention_trunk(it);
    size_t count = 0;
    for (int64_t at = (int64_t)token; at >= trunk; at = it->parents[at])
        path[count++] = (size_t)at;
    for (size_t i = 0; i < count / 2; i++) {
        size_t last = path[i];
        path[i] = path[count - 1 - i], path[count - 1 - i] = last;
    }
    return count;
}

size_t fr_attention_node_position(const fr_attention *it, size_t token) {
    size_t path[FR_ATTENTION_NODES];
    return it->position + fr_attention_trunk(it) + fr_attention_ancestors(it, token, path) - 1;
}

static fr_attention_turn turn_of(const fr_attention *it, const float *x, size_t position, const float *norm,
                                 float factor) {
    const size_t at = position * it->half;
    return (fr_attention_turn){.x = x,
                               .norm = norm,
                               .epsilon = it->epsilon,
                               .cos = it->cos != NULL ? it->cos + at : NULL,
                               .sin = it->cos != NULL ? it->sin + at : NULL,
                               .half = it->half,
                               .factor = factor};
}

/* Copies the rows of one head that the run does not write; `size` is that of a row. */
static void copy_rows(const fr_attention *it, const void *before, void *rows, size_t head, size_t size) {
    if (before == rows)
        return;
    const char *from = (const char *)before + head * it->capacity * size;
    char *to = (char *)rows + head * it->capacity * size;
    size_t end = it->position + it->rows;
    memcpy(to, from, (it->position - it->context_rows) * size);
    memcpy(to + end * size, from + end * size, (it->capacity - end) * size);
}

static void copy_around(const fr_attention *it, const fr_attention_cache *cache, size_t head) {
    size_t element = cache->scales != NULL ? sizeof(int8_t) : sizeof(float);
    copy_rows(it, cache->before, cache->rows, head, it->dim * element);
    if (cache->scales != NULL)
        copy_rows(it, cache->scales_before, cache->scales, head, sizeof(float));
}

/* Rows of one head that go to the caches together. */
typedef struct new_rows {
    fr_attention_turn k[FR_ATTENTION_HEADS];
    const float *v[FR_ATTENTION_HEADS];
    size_t count;
} new_rows;

/* To the rows from `at` on, which counts those of all heads; forgets them. */
static void write_rows(const fr_attention *it, size_t at, new_rows *rows) {
    const size_t dim = it->dim, count = rows->count;
    rows->count = 0;
    if (it->k.scales == NULL) {
        it->path->prepare(rows->k, count, dim, (float *)it->k.rows + at * dim);
        for (size_t i = 0; i < count; i++)
            memcpy((float *)it->v.rows + (at + i) * dim, rows->v[i], dim * sizeof(float));
        return;
    }
    float keys[FR_ATTENTION_HEADS * FR_ATTENTION_MAX_DIM];
    const float *k[FR_ATTENTION_HEADS];
    int32_t sums[FR_ATTENTION_HEADS]; /* which only those of a query are for */
    for (size_t i = 0; i < count; i++)
        k[i] = keys + i * dim;
    it->path->prepare(rows->k, count, dim, keys);
    it->path->encode(k, count, dim, (int8_t *)it->k.rows + at * dim, it->k.scales + at, sums);
    it->path->encode(rows->v, count, dim, (int8_t *)it->v.rows + at * dim, it->v.scales + at, sums);
}

void fr_attention_write(const fr_attention *it, size_t part) {
    const size_t start = part * it->capacity + it->position;
    new_rows some = {.count = 0};
    copy_around(it, &it->k, part);
    copy_around(it, &it->v, part);
    for (size_t row = 0; row < it->context_rows; row++) {
        const size_t at = (row * it->kv_heads + part) * it->dim, before = it->context_rows - row;
        some.k[some.count] = turn_of(it, it->context_k + at, it->position - before, it->k_norm, 1.0f);
        some.v[some.count++] = it->context_v + at;
        if (some.count == FR_ATTENTION_HEADS || before == 1)
            write_rows(it, start - before + 1 - some.count, &some);
    }
    for (size_t row = 0; row < it->rows; row++) {
        const float *k = fr_attention_head(it, row, it->heads + part);
        some.k[some.count] = turn_of(it, k, fr_attention_position(it, row), it->k_norm, 1.0f);
        some.v[some.count++] = k + it->kv_heads * it->dim;
        if (some.count == FR_ATTENTION_HEADS || row + 1 == it->rows)
            write_rows(it, start + row + 1 - some.count, &some);
    }
}

/* Query rows number i..i+count-1 of the part, at most FR_ATTENTION_HEADS. */
static void take_some(const fr_attention *it, fr_attention_part *mine, size_t i, size_t count, size_t head) {
    const size_t group = fr_attention_group(it), dim = it->dim;
    const int coded = it->k.scales != NULL;
    float *q = mine->q + i * dim;
    fr_attention_turn turns[FR_ATTENTION_HEADS];
    const float *rows[FR_ATTENTION_HEADS];
    for (size_t r = 0; r < count; r++) {
        const size_t token = (mine->first + i + r) / group;
        const float *x = fr_attention_head(it, token, head * group + (mine->first + i + r) % group);
        turns[r] = turn_of(it, x, fr_attention_position(it, token), it->q_norm, coded ? 1.0f : it->scale);
        rows[r] = q + r * dim;
    }
    it->path->prepare(turns, count, dim, q);
    if (!coded)
        return;
    it->path->encode(rows, count, dim, mine->codes + i * dim, mine->scales + i, mine->sums + i);
    for (size_t r = 0; r < count; r++)
        mine->scales[i + r] *= it->scale;
}

void fr_attention_take_queries(const fr_attention *it, fr_attention_part *mine, size_t head) {
    for (size_t i = 0; i < mine->count; i += FR_ATTENTION_HEADS)
        take_some(it, mine, i, fr_smaller(FR_ATTENTION_HEADS, mine->count - i), head);
}

void fr_attention_score(const fr_attention *it, const fr_attention_part *mine, size_t first, size_t count,
                        fr_attention_span keys, fr_attention_ahead next, float *scores) {
    const size_t dim = it->dim, from = first * dim, at = keys.at * dim;
    if (it->k.scales == NULL) {
        it->path->score(mine->q + from, count, dim, (const float *)it->k.rows + at, keys.count, next, scores);
        return;
    }
    const fr_attention_query q = {mine->codes + from, mine->sums + first, mine->scales + first, NULL};
    it->path->score_codes(&q, count, dim, (const int8_t *)it->k.rows + at, it->k.scales + keys.at, keys.count, next,
                          scores);
}
