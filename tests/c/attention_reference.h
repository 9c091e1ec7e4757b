/* The definition of the attention in double, and every path against it. */
#ifndef FORERUN_ATTENTION_REFERENCE_H
#define FORERUN_ATTENTION_REFERENCE_H

#include "attention_text.h"

/* Of an output near 1: float32 sums over at most 256 dims and some hundred keys. Over codes a weight near a half may be
 * rounded to either of two, which are 1/32767 of the largest apart. */
static const double TOLERANCE = 5e-6, TOLERANCE_INT8 = 2.0 / 32767.0;

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

/* Of a row of the run, by the whole tree. */
static inline size_t position_of(const text *it, size_t token) {
    if (it->parents == NULL)
        return it->shape.position + token;
    size_t depth = 0;
    for (int64_t at = it->parents[token]; at >= 0; at = it->parents[at])
        depth++;
    return it->shape.position + depth;
}

/* Whether a token sees the cache row `key`. */
static inline int sees(const text *it, size_t token, size_t key) {
    const fr_attention *s = &it->shape;
    size_t at = position_of(it, token), other = key < s->position ? key : position_of(it, key - s->position);
    int above = !s->causal || key <= s->position + token;
    if (it->parents != NULL && key >= s->position) {
        int64_t row = (int64_t)token;
        while (row > (int64_t)(key - s->position))
            row = it->parents[row];
        above = row == (int64_t)(key - s->position);
    }
    return above && (s->window == 0 || other + s->window > at);
}

static inline double element(const fr_attention *it, const void *rows, const float *scales, size_t at, size_t d) {
    const size_t i = at * it->dim + d;
    return scales == NULL ? (double)((const float *)rows)[i] : (double)((const int8_t *)rows)[i] * (double)scales[at];
}

/* Head `head` of q of one token as the scores take it, times `scale`. Over int8 its codes are those of the float32 row
 * that all paths agree on, since one near a half could be either of two. */
static inline void query(const text *it, size_t token, size_t head, double *q) {
    const fr_attention *s = &it->shape;
    const size_t position = position_of(it, token), at = position * s->half;
    const float *x = s->qkv + token * width_of(s) + head * s->dim;
    float row[FR_ATTENTION_MAX_DIM], peak = 0.0f;
    turn(s, x, position, s->q_norm, q);
    if (it->is_int8) {
        const fr_attention_turn turned = {x, s->q_norm, s->epsilon, s->cos + at, s->sin + at, s->half, 1.0f};
        fr_attention_portable.prepare(&turned, 1, s->dim, row);
        for (size_t d = 0; d < s->dim; d++) {
            CHECK(fabs((double)row[d] - q[d]) <= TOLERANCE);
            peak = fmaxf(peak, fabsf(row[d]));
        }
        for (size_t d = 0; d < s->dim; d++)
            q[d] = (double)nearbyintf(row[d] * (127.0f / peak)) * (double)peak / 127.0;
    }
    for (size_t d = 0; d < s->dim; d++)
        q[d] *= (double)s->scale;
}

/* Over int8: a row's weights of `count` keys as what codes stand for, 32767 for the largest of a block of 64 positions
 * after it was multiplied by the value's scale. */
static inline void round_weights(const text *it, const float *scales, size_t count, double *weights) {
    const size_t start = it->shape.position;
    for (size_t block = 0; block < count; block += FR_ATTENTION_KEYS) {
        double step = 0.0;
        for (int pass = 0; pass < 2; pass++)
            for (size_t j = 0; j < count; j++) {
                const size_t at = j < start ? j : position_of(it, j - start);
                const double scaled = weights[j] * (double)scales[j];
                if (weights[j] == 0.0 || at / FR_ATTENTION_KEYS * FR_ATTENTION_KEYS != block)
                    continue;
                if (pass == 0)
                    step = fmax(step, scaled / 32767.0);
                else
                    weights[j] = nearbyint(scaled / step) * step / (double)scales[j];
            }
    }
}

/* out [heads * dim] of one token, from caches that are written already. */
static inline void reference(const text *it, const caches *c, size_t token, double *out) {
    const fr_attention *s = &it->shape;
    size_t end = s->position + s->rows;
    double *weights = calloc(end, sizeof(double)), q[FR_ATTENTION_MAX_DIM];
    REQUIRE(weights != NULL);
    for (size_t head = 0; head < s->heads; head++) {
        const size_t start = head / (s->heads / s->kv_heads) * s->capacity;
        query(it, token, head, q);
        double largest = -INFINITY, sum = 0.0;
        for (size_t j = 0; j < end; j++) {
            weights[j] = 0.0;
            for (size_t d = 0; d < s->dim; d++)
                weights[j] += q[d] * element(s, c->k, c->k_scales, start + j, d);
            if (s->softcap > 0.0f)
                weights[j] = (double)s->softcap * tanh(weights[j] / (double)s->softcap);
            if (sees(it, token, j))
                largest = fmax(largest, weights[j]);
        }
        for (size_t j = 0; j < end; j++) {
            weights[j] = sees(it, token, j) ? exp(weights[j] - largest) : 0.0;
            sum += weights[j];
        }
        if (it->is_int8)
            round_weights(it, c->v_scales + start, end, weights);
        memset(out + head * s->dim, 0, s->dim * sizeof(double));
        for (size_t j = 0; j < end; j++)
            for (size_t d = 0; d < s->dim && weights[j] > 0.0; d++)
                out[head * s->dim + d] += weights[j] * element(s, c->v, c->v_scales, start + j, d) / sum;
    }
    free(weights);
}

/* A row as int8 against the definition in float32: exact codes for the float32 row x. */
static inline void check_codes(const float *x, size_t dim, const int8_t *codes, float scale) {
    float peak = 0.0f;
    for (size_t d = 0; d < dim; d++)
        peak = fmaxf(peak, fabsf(x[d]));
    CHECK(scale == peak / 127.0f);
    float inverse = 127.0f / peak;
    for (size_t d = 0; d < dim; d++)
        CHECK(codes[d] == (int8_t)nearbyintf(x[d] * inverse)); /* ties to even */
}

/* How far a written row lies from the definition, in units of what its type may be off. */
static inline double row_error(const text *it, const caches *c, size_t at, size_t position, const float *new_k,
                               const float *new_v) {
    const fr_attention *s = &it->shape;
    double worst = 0.0, expected[FR_ATTENTION_MAX_DIM];
    if (it->is_int8)
        check_codes(new_v, s->dim, (const int8_t *)c->v + at * s->dim, c->v_scales[at]);
    else
        CHECK(memcmp((const float *)c->v + at * s->dim, new_v, s->dim * sizeof(float)) == 0);
    turn(s, new_k, position, s->k_norm, expected);
    for (size_t d = 0; d < s->dim; d++) {
        double step = it->is_int8 ? 0.5 * (double)c->k_scales[at] : 0.0; /* codes are off by half a step at most */
        worst = fmax(worst, fabs(element(s, c->k, c->k_scales, at, d) - expected[d]) - step);
    }
    return worst;
}

/* The rows written are what the definition says; all others keep their bits. */
static inline double cache_error(const text *it, const caches *c) {
    const fr_attention *s = &it->shape;
    size_t start = s->position - s->context_rows, row_bytes = bytes_of(it) / rows_of(s);
    double worst = 0.0;
    for (size_t at = 0; at < rows_of(s); at++) {
        size_t row = at % s->capacity, head = at / s->capacity;
        if (row < start || row >= s->position + s->rows) {
            CHECK(memcmp((char *)c->k + at * row_bytes, (char *)it->before.k + at * row_bytes, row_bytes) == 0);
            CHECK(memcmp((char *)c->v + at * row_bytes, (char *)it->before.v + at * row_bytes, row_bytes) == 0);
            CHECK(!it->is_int8 || memcmp(c->k_scales + at, it->before.k_scales + at, sizeof(float)) == 0);
            CHECK(!it->is_int8 || memcmp(c->v_scales + at, it->before.v_scales + at, sizeof(float)) == 0);
        } else if (row < s->position) {
            size_t from = ((row - start) * s->kv_heads + head) * s->dim;
            worst = fmax(worst, row_error(it, c, at, row, s->context_k + from, s->context_v + from));
        } else {
            size_t token = row - s->position;
            const float *new_k = s->qkv + token * width_of(s) + (s->heads + head) * s->dim;
            worst = fmax(worst, row_error(it, c, at, position_of(it, token), new_k, new_k + s->kv_heads * s->dim));
        }
    }
    return worst;
}

/* The largest error of a run's results and of what it wrote. */
static inline double run_error(const text *it, const caches *c, const float *out) {
    const size_t width = it->shape.heads * it->shape.dim;
    double *expected = calloc(width, sizeof(double)), worst = cache_error(it, c);
    REQUIRE(expected != NULL);
    for (size_t token = 0; token < it->shape.rows; token++) {
        reference(it, c, token, expected);
        for (size_t i = 0; i < width; i++) {
            double error = fabs((double)out[token * width + i] - expected[i]);
            worst = error <= worst ? worst : error; /* a NaN stays */
        }
    }
    free(expected);
    return worst;
}

/* All paths against the definition. They must agree in every bit of the caches; those with fused multiply and add in
 * every bit of the results too. */
static inline void check_paths(const text *it, const char *what) {
    const fr_attention_path *paths[FR_ATTENTION_MAX_PATHS];
    size_t n_paths = fr_attention_paths(paths), size = it->shape.rows * it->shape.heads * it->shape.dim;
    caches kept[FR_ATTENTION_MAX_PATHS];
    float *outs[FR_ATTENTION_MAX_PATHS];
    for (size_t p = 0; p < n_paths; p++) {
        kept[p] = copy_caches(it), outs[p] = take(size);
        run(it->shape, paths[p], &kept[p], outs[p]);
        double worst = run_error(it, &kept[p], outs[p]);
        if (!(worst <= (it->is_int8 ? TOLERANCE_INT8 : TOLERANCE))) {
            check_failures++;
            printf("%s: path %s: dim %zu, rows %zu, nodes %zu, heads %zu/%zu, position %zu: error %g\n", what,
                   paths[p]->name, it->shape.dim, it->shape.rows, it->shape.nodes, it->shape.heads, it->shape.kv_heads,
                   it->shape.position, worst);
        }
        CHECK(same_caches(it, &kept[0], &kept[p]));
        CHECK(p + 1 == n_paths || memcmp(outs[0], outs[p], size * sizeof(float)) == 0);
    }
    for (size_t p = 0; p < n_paths; p++) {
        free_caches(&kept[p]);
        free(outs[p]);
    }
}

#endif
