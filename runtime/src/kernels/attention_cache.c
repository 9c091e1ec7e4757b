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

void fr_attention_prepare(const fr_attention *it, size_t position, const float *norm, float factor, const float *x,
                          float *y) {
    size_t at = position * it->half;
    const fr_attention_turn turn = {.norm = norm,
                                    .epsilon = it->epsilon,
                                    .cos = it->cos != NULL ? it->cos + at : NULL,
                                    .sin = it->cos != NULL ? it->sin + at : NULL,
                                    .half = it->half,
                                    .factor = factor};
    it->path->prepare(&turn, it->dim, x, y);
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

/* `at` counts the rows of all heads. */
static void write_row(const fr_attention *it, size_t at, size_t position, const float *k, const float *v) {
    if (it->k.scales == NULL) {
        fr_attention_prepare(it, position, it->k_norm, 1.0f, k, (float *)it->k.rows + at * it->dim);
        memcpy((float *)it->v.rows + at * it->dim, v, it->dim * sizeof(float));
        return;
    }
    int32_t sum;
    float key[FR_ATTENTION_MAX_DIM];
    fr_attention_prepare(it, position, it->k_norm, 1.0f, k, key);
    it->k.scales[at] = it->path->encode(key, it->dim, (int8_t *)it->k.rows + at * it->dim, &sum);
    it->v.scales[at] = it->path->encode(v, it->dim, (int8_t *)it->v.rows + at * it->dim, &sum);
}

void fr_attention_write(const fr_attention *it, size_t part) {
    const size_t start = part * it->capacity + it->position;
    copy_around(it, &it->k, part);
    copy_around(it, &it->v, part);
    for (size_t row = 0; row < it->context_rows; row++) {
        size_t at = (row * it->kv_heads + part) * it->dim, before = it->context_rows - row;
        write_row(it, start - before, it->position - before, it->context_k + at, it->context_v + at);
    }
    for (size_t row = 0; row < it->rows; row++)
        write_row(it, start + row, fr_attention_position(it, row), fr_attention_head(it, row, it->heads + part),
                  fr_attention_head(it, row, it->heads + it->kv_heads + part));
}

void fr_attention_take_query(const fr_attention *it, fr_attention_part *mine, size_t i, size_t head) {
    const size_t group = fr_attention_group(it), token = (mine->first + i) / group, dim = it->dim;
    const float *x = fr_attention_head(it, token, head * group + (mine->first + i) % group);
    const size_t position = fr_attention_position(it, token);
    float *q = mine->q + i * dim;
    int8_t *codes = mine->codes + i * dim;
    if (it->k.scales == NULL) {
        fr_attention_prepare(it, position, it->q_norm, it->scale, x, q);
        return;
    }
    fr_attention_prepare(it, position, it->q_norm, 1.0f, x, q);
    mine->scales[i] = it->path->encode(q, dim, codes, &mine->sums[i]) * it->scale;
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
