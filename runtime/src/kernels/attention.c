#include "attention.h"

#include <math.h>
#include <string.h>

static size_t smaller(size_t a, size_t b) {
    return a < b ? a : b;
}

static size_t larger(size_t a, size_t b) {
    return a > b ? a : b;
}

size_t fr_attention_paths(const fr_attention_path *out[FR_ATTENTION_MAX_PATHS]) {
    static const fr_attention_path *const all[] = {
#if defined(__x86_64__)
        &fr_attention_avx512,
        &fr_attention_avx2,
#endif
        &fr_attention_portable,
    };
    size_t count = 0;
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        if (all[i]->usable())
            out[count++] = all[i];
    return count;
}

/* The query rows that share a key-value head: number r is head r % group of token r / group. */
static size_t group_of(const fr_attention *it) {
    return it->heads / it->kv_heads;
}

static size_t blocks_of(const fr_attention *it) {
    return (it->rows * group_of(it) + FR_ATTENTION_ROWS - 1) / FR_ATTENTION_ROWS;
}

size_t fr_attention_writes(const fr_attention *it) {
    return blocks_of(it) == 1 ? 0 : it->kv_heads;
}

size_t fr_attention_parts(const fr_attention *it) {
    return blocks_of(it) * it->kv_heads;
}

/* A head in a new row: `index` counts those of q, then of k, then of v. */
static const float *head_of(const fr_attention *it, size_t row, size_t index) {
    return it->qkv + (row * (it->heads + 2 * it->kv_heads) + index) * it->dim;
}

/* Prepares a head of q or k of the token at `position`. */
static void prepare(const fr_attention *it, size_t position, const float *norm, float factor, const float *x,
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

static void copy_around(const fr_attention *it, const float *before, float *cache) {
    if (before == cache)
        return;
    size_t end = it->position + it->rows;
    memcpy(cache, before, (it->position - it->context_rows) * it->dim * sizeof(float));
    memcpy(cache + end * it->dim, before + end * it->dim, (it->capacity - end) * it->dim * sizeof(float));
}

static void write_row(const fr_attention *it, size_t kv_head, size_t position, const float *k, const float *v) {
    size_t at = (kv_head * it->capacity + position) * it->dim;
    prepare(it, position, it->k_norm, 1.0f, k, it->k_cache + at);
    memcpy(it->v_cache + at, v, it->dim * sizeof(float));
}

void fr_attention_write(const fr_attention *it, size_t part) {
    size_t start = part * it->capacity * it->dim;
    copy_around(it, it->k_before + start, it->k_cache + start);
    copy_around(it, it->v_before + start, it->v_cache + start);
    for (size_t row = 0; row < it->context_rows; row++) {
        size_t at = (row * it->kv_heads + part) * it->dim;
        write_row(it, part, it->position - it->context_rows + row, it->context_k + at, it->context_v + at);
    }
    for (size_t row = 0; row < it->rows; row++)
        write_row(it, part, it->position + row, head_of(it, row, it->heads + part),
                  head_of(it, row, it->heads + it->kv_heads + part));
}

/* The keys that a token sees: from..to-1. */
static size_t first_key(const fr_attention *it, size_t token) {
    size_t end = it->position + token + 1;
    return it->window > 0 && end > it->window ? end - it->window : 0;
}

static size_t last_key(const fr_attention *it, size_t token) {
    return it->position + (it->causal ? token + 1 : it->rows);
}

/* The query rows of one part and their state, rows[] in the order of r. */
typedef struct part_rows {
    size_t first, count; /* of r */
    fr_attention_row rows[FR_ATTENTION_ROWS];
    float q[FR_ATTENTION_ROWS * FR_ATTENTION_MAX_DIM], acc[FR_ATTENTION_ROWS * FR_ATTENTION_MAX_DIM];
} part_rows;

/* The cache row where the block begins that this thread will probably read next: of the same head, then of the next. */
static size_t next_block(const fr_attention *it, size_t head, size_t start, size_t end) {
    if (start + FR_ATTENTION_KEYS < end)
        return head * it->capacity + start + FR_ATTENTION_KEYS;
    return (head + 1 < it->kv_heads ? head + 1 : head) * it->capacity;
}

/* One block of keys that begins at key `start`; `end` is where the last row's keys end. */
static void attend_block(const fr_attention *it, part_rows *mine, size_t head, size_t start, size_t end) {
    float turned[FR_ATTENTION_KEYS * FR_ATTENTION_MAX_DIM], scores[FR_ATTENTION_ROWS * FR_ATTENTION_KEYS];
    size_t group = group_of(it), keys = smaller(FR_ATTENTION_KEYS, end - start), dim = it->dim;
    size_t first = mine->count, after = 0; /* the rows that see something of it: one run of them */
    for (size_t i = 0; i < mine->count; i++) {
        size_t token = (mine->first + i) / group;
        size_t from = larger(first_key(it, token), start), to = smaller(last_key(it, token), start + keys);
        if (from >= to)
            continue;
        mine->rows[i].from = from - start, mine->rows[i].to = to - start;
        first = smaller(first, i), after = i + 1;
    }
    if (first >= after)
        return;
    size_t at = (head * it->capacity + start) * dim, count = after - first;
    float *acc = mine->acc + first * dim;
    size_t next = next_block(it, head, start, end) * dim;
    const fr_attention_values values = {it->v_cache + at, it->v_cache + next, dim};
    it->path->turn_keys(it->k_cache + at, keys, dim, turned);
    it->path->score(mine->q + first * dim, count, dim, turned, keys, it->k_cache + next, scores);
    for (size_t i = 0; i < count; i++)
        it->path->weigh(scores + i * FR_ATTENTION_KEYS, &mine->rows[first + i], it->softcap, acc + i * dim, dim);
    it->path->add(scores, mine->rows + first, count, &values, acc);
}

void fr_attention_attend(const fr_attention *it, size_t part) {
    size_t blocks = blocks_of(it), head = part / blocks, group = group_of(it), dim = it->dim;
    part_rows mine;
    mine.first = part % blocks * FR_ATTENTION_ROWS;
    mine.count = smaller(FR_ATTENTION_ROWS, it->rows * group - mine.first);
    if (blocks == 1)
        fr_attention_write(it, head);
    for (size_t i = 0; i < mine.count; i++) {
        size_t token = (mine.first + i) / group, index = head * group + (mine.first + i) % group;
        prepare(it, it->position + token, it->q_norm, it->scale, head_of(it, token, index), mine.q + i * dim);
        mine.rows[i] = (fr_attention_row){.largest = -INFINITY};
        memset(mine.acc + i * dim, 0, dim * sizeof(float));
    }
    size_t end = last_key(it, (mine.first + mine.count - 1) / group);
    size_t start = first_key(it, mine.first / group) / FR_ATTENTION_KEYS * FR_ATTENTION_KEYS;
    for (; start < end; start += FR_ATTENTION_KEYS)
        attend_block(it, &mine, head, start, end);
    for (size_t i = 0; i < mine.count; i++) {
        size_t r = mine.first + i;
        float *out = it->out + (r / group * it->heads + head * group + r % group) * dim;
        for (size_t d = 0; d < dim; d++)
            out[d] = mine.acc[i * dim + d] / mine.rows[i].sum;
    }
}
