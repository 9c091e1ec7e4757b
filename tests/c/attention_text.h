/* What tests of the attention share: new rows over a cache, and the definition in double. */
#ifndef FORERUN_ATTENTION_TEXT_H
#define FORERUN_ATTENTION_TEXT_H

#include "check.h"
#include "kernels/attention.h"

#include <math.h>

/* Of an output near 1: float32 sums over at most 256 dims and some hundred keys. */
static const double TOLERANCE = 5e-6;

typedef struct text {
    fr_attention shape; /* without path and results */
    float *qkv, *context_k, *context_v, *q_norm, *k_norm, *cos, *sin, *k, *v;
} text;

/* Exactly as long as asked for, so that the sanitizer sees a read beyond the end. */
static inline float *take(size_t count) {
    float *found = malloc((count > 0 ? count : 1) * sizeof(float));
    REQUIRE(found != NULL);
    return found;
}

static inline float *take_random(size_t count, uint64_t *random) {
    float *found = take(count);
    for (size_t i = 0; i < count; i++)
        found[i] = (float)((double)(next_random(random) >> 40) / (double)(1u << 23) - 1.0);
    return found;
}

static inline float *copy_of(const float *from, size_t count) {
    float *found = take(count);
    memcpy(found, from, count * sizeof(float));
    return found;
}

static inline size_t width_of(const fr_attention *it) {
    return (it->heads + 2 * it->kv_heads) * it->dim;
}

static inline size_t cache_of(const fr_attention *it) {
    return it->kv_heads * it->capacity * it->dim;
}

/* Cache rows that were never written hold NaNs: a read of one must show. */
static inline text make(fr_attention shape, int norms, uint64_t *random) {
    text it = {.shape = shape};
    it.qkv = take_random(shape.rows * width_of(&shape), random);
    it.context_k = take_random(shape.context_rows * shape.kv_heads * shape.dim, random);
    it.context_v = take_random(shape.context_rows * shape.kv_heads * shape.dim, random);
    it.k = take_random(cache_of(&shape), random);
    it.v = take_random(cache_of(&shape), random);
    for (size_t i = 0; i < cache_of(&shape); i++)
        if (i / shape.dim % shape.capacity >= shape.position - shape.context_rows)
            it.k[i] = it.v[i] = NAN;
    if (norms) {
        it.q_norm = take_random(shape.dim, random);
        it.k_norm = take_random(shape.dim, random);
    }
    if (shape.half > 0) {
        size_t count = (shape.position + shape.rows) * shape.half;
        it.cos = take(count);
        it.sin = take(count);
        for (size_t i = 0; i < count; i++) {
            double angle = (double)(i / shape.half) * pow(100.0, -(double)(i % shape.half) / (double)shape.half);
            it.cos[i] = (float)cos(angle), it.sin[i] = (float)sin(angle);
        }
    }
    it.shape.context_k = it.context_k, it.shape.context_v = it.context_v;
    it.shape.qkv = it.qkv, it.shape.q_norm = it.q_norm, it.shape.k_norm = it.k_norm;
    it.shape.cos = it.cos, it.shape.sin = it.sin;
    it.shape.epsilon = 1e-6f;
    return it;
}

static inline void release(text *it) {
    float *const all[] = {it->qkv, it->context_k, it->context_v, it->q_norm, it->k_norm,
                          it->cos, it->sin,       it->k,         it->v};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        free(all[i]);
}

/* The parts last to first: the order must not matter. */
static inline void run_parts(const fr_attention *it) {
    for (size_t part = fr_attention_writes(it); part > 0; part--)
        fr_attention_write(it, part - 1);
    for (size_t part = fr_attention_parts(it); part > 0; part--)
        fr_attention_attend(it, part - 1);
}

/* In place. */
static inline void run(fr_attention it, const fr_attention_path *path, float *k, float *v, float *out) {
    it.path = path, it.k_before = it.k_cache = k, it.v_before = it.v_cache = v, it.out = out;
    run_parts(&it);
}

/* One head of q or k of the token at `position` in double. */
static inline void turn(const fr_attention *it, const float *x, size_t position, const float *norm, double *y) {
    double squares = 0.0;
    for (size_t d = 0; d < it->dim; d++)
        squares += (double)x[d] * x[d];
    double inverse = 1.0 / sqrt(squares / (double)it->dim + (double)it->epsilon);
    for (size_t d = 0; d < it->dim; d++)
        y[d] = norm != NULL ? x[d] * inverse * norm[d] : x[d];
    for (size_t i = 0; i < it->half; i++) {
        double a = y[i], b = y[i + it->half];
        double c = it->cos[position * it->half + i], s = it->sin[position * it->half + i];
        y[i] = a * c - b * s;
        y[i + it->half] = a * s + b * c;
    }
}

static inline int sees(const fr_attention *it, size_t token, size_t key) {
    size_t at = it->position + token;
    return (!it->causal || key <= at) && (it->window == 0 || key + it->window > at);
}

/* out [heads * dim] of one token, from caches that are written already. */
static inline void reference(const fr_attention *it, const float *k, const float *v, size_t token, double *out) {
    size_t end = it->position + it->rows;
    double *scores = calloc(end, sizeof(double)), q[FR_ATTENTION_MAX_DIM];
    REQUIRE(scores != NULL);
    for (size_t head = 0; head < it->heads; head++) {
        size_t start = head / (it->heads / it->kv_heads) * it->capacity * it->dim;
        turn(it, it->qkv + token * width_of(it) + head * it->dim, it->position + token, it->q_norm, q);
        double largest = -INFINITY, sum = 0.0;
        for (size_t j = 0; j < end; j++) {
            scores[j] = 0.0;
            for (size_t d = 0; d < it->dim; d++)
                scores[j] += q[d] * (double)k[start + j * it->dim + d];
            scores[j] *= (double)it->scale;
            if (it->softcap > 0.0f)
                scores[j] = (double)it->softcap * tanh(scores[j] / (double)it->softcap);
            if (sees(it, token, j))
                largest = fmax(largest, scores[j]);
        }
        memset(out + head * it->dim, 0, it->dim * sizeof(double));
        for (size_t j = 0; j < end; j++) {
            double weight = sees(it, token, j) ? exp(scores[j] - largest) : 0.0;
            sum += weight;
            for (size_t d = 0; d < it->dim; d++)
                out[head * it->dim + d] += weight > 0.0 ? weight * (double)v[start + j * it->dim + d] : 0.0;
        }
        for (size_t d = 0; d < it->dim; d++)
            out[head * it->dim + d] /= sum;
    }
    free(scores);
}

/* The rows written are what the definition says; all others keep their bits. */
static inline double cache_error(const text *it, const float *k, const float *v) {
    const fr_attention *s = &it->shape;
    size_t start = s->position - s->context_rows;
    double worst = 0.0, expected[FR_ATTENTION_MAX_DIM];
    for (size_t i = 0; i < s->kv_heads * s->capacity; i++) {
        size_t row = i % s->capacity, head = i / s->capacity, at = i * s->dim;
        if (row < start || row >= s->position + s->rows) {
            CHECK(memcmp(k + at, it->k + at, s->dim * sizeof(float)) == 0);
            CHECK(memcmp(v + at, it->v + at, s->dim * sizeof(float)) == 0);
            continue;
        }
        size_t from = ((row - start) * s->kv_heads + head) * s->dim;
        const float *new_k = s->context_k + from, *new_v = s->context_v + from;
        if (row >= s->position) {
            new_k = s->qkv + (row - s->position) * width_of(s) + (s->heads + head) * s->dim;
            new_v = new_k + s->kv_heads * s->dim;
        }
        CHECK(memcmp(v + at, new_v, s->dim * sizeof(float)) == 0);
        turn(s, new_k, row, s->k_norm, expected);
        for (size_t d = 0; d < s->dim; d++)
            worst = fmax(worst, fabs((double)k[at + d] - expected[d]));
    }
    return worst;
}

/* All paths against the definition; those with fused multiply and add must agree in every bit. */
static inline void check_paths(const text *it, const char *what) {
    const fr_attention_path *paths[FR_ATTENTION_MAX_PATHS];
    size_t n_paths = fr_attention_paths(paths), size = it->shape.rows * it->shape.heads * it->shape.dim;
    double *expected = calloc(it->shape.heads * it->shape.dim, sizeof(double));
    float *first = NULL;
    REQUIRE(expected != NULL);
    for (size_t p = 0; p < n_paths; p++) {
        float *k = copy_of(it->k, cache_of(&it->shape)), *v = copy_of(it->v, cache_of(&it->shape)), *out = take(size);
        run(it->shape, paths[p], k, v, out);
        double worst = cache_error(it, k, v);
        for (size_t token = 0; token < it->shape.rows; token++) {
            size_t width = it->shape.heads * it->shape.dim;
            reference(&it->shape, k, v, token, expected);
            for (size_t i = 0; i < width; i++) {
                double error = fabs((double)out[token * width + i] - expected[i]);
                worst = error <= worst ? worst : error; /* a NaN stays */
            }
        }
        if (!(worst <= TOLERANCE)) {
            check_failures++;
            printf("%s: path %s: dim %zu, rows %zu, heads %zu/%zu, position %zu: error %g\n", what, paths[p]->name,
                   it->shape.dim, it->shape.rows, it->shape.heads, it->shape.kv_heads, it->shape.position, worst);
        }
        if (p > 0 && p + 1 < n_paths)
            CHECK(memcmp(first, out, size * sizeof(float)) == 0);
        free(k);
        free(v);
        if (p == 0)
            first = out;
        else
            free(out);
    }
    free(first);
    free(expected);
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
