/* Products of random numbers with int8 and int4 weights, and the definition that the kernels are compared with. */
#ifndef FORERUN_LINEAR_PRODUCT_H
#define FORERUN_LINEAR_PRODUCT_H

#include "check.h"
#include "kernels/linear_paths.h"

#include <math.h>

/* What a weight can be: groups of 0 inputs are int8, others int4. */
static const size_t GROUP_SIZES[] = {0, 32, 64, 128};
enum { N_GROUP_SIZES = 4 };

typedef struct product {
    size_t rows, n, k, group_size, groups;
    float *x, *weight_scales; /* [n][groups] */
    int8_t *w;                /* [n][k] */
    uint8_t *packed;          /* as the kernels want it */
    uint16_t *packed_scales;  /* int4: bfloat16 [ceil(n/16)][groups][16] */
} product;

/* Exactly as long as asked for, so that the sanitizer sees a read beyond the end. */
static inline void *take(size_t count, size_t size) {
    void *found = calloc(count > 0 ? count : 1, size);
    REQUIRE(found != NULL);
    return found;
}

static inline float random_float(uint64_t *random) {
    return (float)((double)(next_random(random) >> 40) / (double)(1u << 23) - 1.0);
}

static inline const fr_linear_format *format_of(size_t group_size) {
    return group_size == 0 ? &fr_linear_int8 : &fr_linear_int4;
}

static inline void pack_int8(const product *it) {
    size_t blocks = (it->k + 63) / 64, padded = (it->n + 15) / 16 * 16;
    for (size_t n = 0; n < padded; n++)
        for (size_t k = 0; k < blocks * 64; k++) {
            size_t place = (((n / 16 * blocks + k / 64) * 16 + k % 64 / 4) * 16 + n % 16) * 4 + k % 4;
            it->packed[place] = n < it->n && k < it->k ? (uint8_t)(it->w[n * it->k + k] + 128) : 128;
        }
}

static inline void pack_int4(const product *it) {
    size_t blocks = (it->k + 63) / 64, padded = (it->n + 15) / 16 * 16;
    memset(it->packed, 0, fr_linear_packed(&fr_linear_int4, it->n, it->k));
    for (size_t n = 0; n < padded; n++)
        for (size_t k = 0; k < blocks * 64; k++) {
            size_t place = (((n / 16 * blocks + k / 64) * 8 + k % 32 / 4) * 16 + n % 16) * 4 + k % 4;
            unsigned code = n < it->n && k < it->k ? (unsigned)(it->w[n * it->k + k] + 8) : 8;
            it->packed[place] = (uint8_t)(it->packed[place] | code << (k % 64 < 32 ? 0 : 4));
        }
    for (size_t n = 0; n < it->n; n++)
        for (size_t group = 0; group < it->groups; group++) {
            uint32_t bits;
            memcpy(&bits, it->weight_scales + n * it->groups + group, sizeof bits);
            it->packed_scales[(n / 16 * it->groups + group) * 16 + n % 16] = (uint16_t)(bits >> 16);
        }
}

static inline void pack(const product *it) {
    if (it->group_size == 0)
        pack_int8(it);
    else
        pack_int4(it);
}

static inline product make(size_t rows, size_t n, size_t k, size_t group_size) {
    product it = {.rows = rows, .n = n, .k = k, .group_size = group_size};
    it.groups = group_size == 0 ? 1 : (k + group_size - 1) / group_size;
    it.x = take(rows * k, sizeof(float));
    it.weight_scales = take(n * it.groups, sizeof(float));
    it.w = take(n * k, 1);
    it.packed = take(fr_linear_packed(format_of(group_size), n, k), 1);
    it.packed_scales = take((n + 15) / 16 * 16 * it.groups, sizeof(uint16_t));
    return it;
}

/* Scales of int4 have bfloat16's seven bits after the point, and either sign. */
static inline void fill(product *it, uint64_t *random) {
    for (size_t i = 0; i < it->rows * it->k; i++)
        it->x[i] = random_float(random);
    for (size_t i = 0; i < it->n * it->groups; i++) {
        float scale = random_float(random);
        it->weight_scales[i] = it->group_size == 0 ? 0.01f + fabsf(scale) : ldexpf(truncf(scale * 128.0f), -7);
    }
    for (size_t i = 0; i < it->n * it->k; i++)
        it->w[i] = (int8_t)(it->group_size == 0 ? (int)(next_random(random) % 256) - 128
                                                : (int)(next_random(random) % 16) - 8);
    pack(it);
}

static inline void release(product *it) {
    free(it->x);
    free(it->weight_scales);
    free(it->w);
    free(it->packed);
    free(it->packed_scales);
}

/* One row of x as codes, in the order of the header's words; returns its scale. */
static inline float round_row(const float *x, size_t k, int8_t *a) {
    float largest = 0.0f;
    int finite = 1;
    for (size_t i = 0; i < k; i++) {
        float value = fabsf(x[i]);
        finite = finite && isfinite(value);
        largest = value > largest ? value : largest;
    }
    const int used = finite && largest >= 0x1p-100f;
    const float inverse = 127.0f / largest;
    for (size_t i = 0; i < k; i++) /* nearbyint: the default rounding mode, ties to even */
        a[i] = used ? (int8_t)nearbyintf(x[i] * inverse) : 0;
    return !finite ? NAN : used ? largest / 127.0f : 0.0f;
}

/* One output of one row. */
static inline float output_of(const product *it, const int8_t *a, float scale, size_t n) {
    const size_t size = it->group_size == 0 ? it->k : it->group_size;
    const float *weight_scale = it->weight_scales + n * it->groups;
    float total = 0.0f;
    for (size_t group = 0; group < it->groups; group++) {
        int64_t sum = 0;
        for (size_t k = group * size; k < it->k && k < (group + 1) * size; k++)
            sum += (int64_t)a[k] * it->w[n * it->k + k];
        CHECK(sum >= INT32_MIN && sum <= INT32_MAX);
        if (it->group_size == 0)
            return (float)(int32_t)sum * (scale * weight_scale[0]);
        total = total + (float)(int32_t)sum * weight_scale[group];
    }
    return total * scale;
}

/* The definition in the header. */
static inline float *reference(const product *it) {
    float *y = take(it->rows * it->n, sizeof(float));
    int8_t *a = take(it->k, 1);
    for (size_t row = 0; row < it->rows; row++) {
        float scale = round_row(it->x + row * it->k, it->k, a);
        for (size_t n = 0; n < it->n; n++)
            y[row * it->n + n] = output_of(it, a, scale, n);
    }
    free(a);
    return y;
}

static inline int same(const float *a, const float *b, size_t count) {
    for (size_t i = 0; i < count; i++)
        if (!(isnan(a[i]) && isnan(b[i])) && memcmp(a + i, b + i, sizeof(float)) != 0)
            return 0;
    return 1;
}

static inline fr_linear begin(const product *it, const fr_linear_path *path, float *y) {
    return (fr_linear){.path = path,
                       .x = it->x,
                       .weights = it->packed,
                       .weight_scales = it->group_size == 0 ? (const void *)it->weight_scales : it->packed_scales,
                       .y = y,
                       .rows = it->rows,
                       .n = it->n,
                       .k = it->k,
                       .group_size = it->group_size};
}

/* The scratch is just as long as asked for. The order of the parts must not matter, nor that one is computed again. */
static inline void run(fr_linear *job) {
    job->scratch = take(fr_linear_scratch(job), 1);
    const size_t parts = fr_linear_begin(job);
    for (size_t part = parts; part > 0; part--)
        fr_linear_part(job, part - 1);
    for (size_t part = 0; part < parts; part++)
        fr_linear_part(job, part);
    free(job->scratch);
}

#endif
