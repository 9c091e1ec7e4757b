/* What tests of the attention share: new rows over a cache of float32 or int8. */
#ifndef FORERUN_ATTENTION_TEXT_H
#define FORERUN_ATTENTION_TEXT_H

#include "check.h"
#include "kernels/attention.h"

#include <math.h>

/* Both caches; the scales NULL for float32. */
typedef struct caches {
    void *k, *v;
    float *k_scales, *v_scales;
} caches;

typedef struct text {
    fr_attention shape; /* without path, caches and results */
    float *qkv, *context_k, *context_v, *q_norm, *k_norm, *cos, *sin;
    int64_t *parents;
    caches before;
    int is_int8;
} text;

/* Exactly as long as asked for, so that the sanitizer sees a read beyond the end. */
static inline void *take_bytes(size_t count) {
    void *found = malloc(count > 0 ? count : 1);
    REQUIRE(found != NULL);
    return found;
}

static inline float *take(size_t count) {
    return take_bytes(count * sizeof(float));
}

static inline float *take_random(size_t count, uint64_t *random) {
    float *found = take(count);
    for (size_t i = 0; i < count; i++)
        found[i] = (float)((double)(next_random(random) >> 40) / (double)(1u << 23) - 1.0);
    return found;
}

static inline void *copy_bytes(const void *from, size_t count) {
    void *found = take_bytes(count);
    memcpy(found, from, count);
    return found;
}

static inline size_t width_of(const fr_attention *it) {
    return (it->heads + 2 * it->kv_heads) * it->dim;
}

/* Rows of one cache. */
static inline size_t rows_of(const fr_attention *it) {
    return it->kv_heads * it->capacity;
}

static inline size_t bytes_of(const text *it) {
    return rows_of(&it->shape) * it->shape.dim * (it->is_int8 ? sizeof(int8_t) : sizeof(float));
}

static inline caches copy_caches(const text *it) {
    caches made = {copy_bytes(it->before.k, bytes_of(it)), copy_bytes(it->before.v, bytes_of(it)), NULL, NULL};
    if (it->is_int8) {
        made.k_scales = copy_bytes(it->before.k_scales, rows_of(&it->shape) * sizeof(float));
        made.v_scales = copy_bytes(it->before.v_scales, rows_of(&it->shape) * sizeof(float));
    }
    return made;
}

static inline void free_caches(const caches *it) {
    free(it->k);
    free(it->v);
    free(it->k_scales);
    free(it->v_scales);
}

static inline int same_caches(const text *it, const caches *a, const caches *b) {
    size_t scales = rows_of(&it->shape) * sizeof(float);
    return memcmp(a->k, b->k, bytes_of(it)) == 0 && memcmp(a->v, b->v, bytes_of(it)) == 0 &&
           (!it->is_int8 ||
            (memcmp(a->k_scales, b->k_scales, scales) == 0 && memcmp(a->v_scales, b->v_scales, scales) == 0));
}

/* Cache rows that were never written hold NaNs: a read of one must show. */
static inline void make_caches(text *it, uint64_t *random) {
    const fr_attention *s = &it->shape;
    const size_t written = s->position - s->context_rows;
    void **const rows[] = {&it->before.k, &it->before.v};
    float **const scales[] = {&it->before.k_scales, &it->before.v_scales};
    for (size_t i = 0; i < 2; i++) {
        if (!it->is_int8) {
            float *made = *rows[i] = take_random(rows_of(s) * s->dim, random);
            for (size_t j = 0; j < rows_of(s) * s->dim; j++)
                made[j] = j / s->dim % s->capacity >= written ? NAN : made[j];
            continue;
        }
        int8_t *codes = *rows[i] = take_bytes(rows_of(s) * s->dim);
        for (size_t j = 0; j < rows_of(s) * s->dim; j++)
            codes[j] = (int8_t)((int)(next_random(random) % 255) - 127);
        *scales[i] = take(rows_of(s));
        for (size_t j = 0; j < rows_of(s); j++)
            (*scales[i])[j] = j % s->capacity >= written ? NAN : (float)(1 + next_random(random) % 100) / 12700.0f;
    }
}

static inline void make_tables(text *it) {
    const fr_attention *s = &it->shape;
    size_t count = (s->position + s->rows) * s->half;
    it->cos = take(count);
    it->sin = take(count);
    for (size_t i = 0; i < count; i++) {
        double angle = (double)(i / s->half) * pow(100.0, -(double)(i % s->half) / (double)s->half);
        it->cos[i] = (float)cos(angle), it->sin[i] = (float)sin(angle);
    }
}

static inline text make_in(int is_int8, fr_attention shape, int norms, uint64_t *random) {
    text it = {.shape = shape, .is_int8 = is_int8};
    it.qkv = take_random(shape.rows * width_of(&shape), random);
    it.context_k = take_random(shape.context_rows * shape.kv_heads * shape.dim, random);
    it.context_v = take_random(shape.context_rows * shape.kv_heads * shape.dim, random);
    make_caches(&it, random);
    if (norms) {
        it.q_norm = take_random(shape.dim, random);
        it.k_norm = take_random(shape.dim, random);
    }
    if (shape.half > 0)
        make_tables(&it);
    it.shape.context_k = it.context_k, it.shape.context_v = it.context_v;
    it.shape.qkv = it.qkv, it.shape.q_norm = it.q_norm, it.shape.k_norm = it.k_norm;
    it.shape.cos = it.cos, it.shape.sin = it.sin;
    it.shape.epsilon = 1e-6f;
    return it;
}

/* Over caches of float32. */
static inline text make(fr_attention shape, int norms, uint64_t *random) {
    return make_in(0, shape, norms, random);
}

static inline void release(text *it) {
    float *const all[] = {it->qkv, it->context_k, it->context_v, it->q_norm, it->k_norm, it->cos, it->sin};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        free(all[i]);
    free(it->parents);
    free_caches(&it->before);
}

/* The parts last to first: the order must not matter. */
static inline void run_parts(const fr_attention *it) {
    for (size_t part = fr_attention_writes(it); part > 0; part--)
        fr_attention_write(it, part - 1);
    for (size_t part = fr_attention_parts(it); part > 0; part--)
        fr_attention_attend(it, part - 1);
}

/* From caches to others, which may be the same. */
static inline void run_between(fr_attention it, const fr_attention_path *path, const caches *from, const caches *to,
                               float *out) {
    it.path = path, it.out = out;
    it.k = (fr_attention_cache){from->k, to->k, from->k_scales, to->k_scales};
    it.v = (fr_attention_cache){from->v, to->v, from->v_scales, to->v_scales};
    run_parts(&it);
}

static inline void run(fr_attention it, const fr_attention_path *path, const caches *in_place, float *out) {
    run_between(it, path, in_place, in_place, out);
}

static inline fr_attention plain(size_t rows, size_t group, size_t kv_heads, size_t dim, size_t position) {
    return (fr_attention){.rows = rows,
                          .heads = group * kv_heads,
                          .kv_heads = kv_heads,
                          .dim = dim,
                          .capacity = position + rows,
                          .position = position,
                          .scale = 1.0f / sqrtf((float)dim),
                          .causal = 1};
}

#endif
