/* Int8 products of random numbers, and the definition that the kernels are compared with. */
#ifndef FORERUN_INT8_PRODUCT_H
#define FORERUN_INT8_PRODUCT_H

#include "check.h"
#include "kernels/linear_int8.h"

#include <math.h>

typedef struct product {
    size_t rows, n, k;
    float *x, *weight_scales;
    int8_t *w;       /* [n][k] */
    uint8_t *packed; /* as the kernels want it */
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

static inline void pack(const product *it) {
    size_t blocks = (it->k + 63) / 64, padded = (it->n + 15) / 16 * 16;
    for (size_t n = 0; n < padded; n++)
        for (size_t k = 0; k < blocks * 64; k++) {
            size_t place = (((n / 16 * blocks + k / 64) * 16 + k % 64 / 4) * 16 + n % 16) * 4 + k % 4;
            it->packed[place] = n < it->n && k < it->k ? (uint8_t)(it->w[n * it->k + k] + 128) : 128;
        }
}

static inline product make(size_t rows, size_t n, size_t k) {
    product it = {rows, n, k, NULL, NULL, NULL, NULL};
    it.x = take(rows * k, sizeof(float));
    it.weight_scales = take(n, sizeof(float));
    it.w = take(n * k, 1);
    it.packed = take(fr_int8_packed(n, k), 1);
    return it;
}

static inline void fill(product *it, uint64_t *random) {
    for (size_t i = 0; i < it->rows * it->k; i++)
        it->x[i] = random_float(random);
    for (size_t i = 0; i < it->n; i++)
        it->weight_scales[i] = 0.01f + fabsf(random_float(random));
    for (size_t i = 0; i < it->n * it->k; i++)
        it->w[i] = (int8_t)((int)(next_random(random) % 256) - 128);
    pack(it);
}

static inline void release(product *it) {
    free(it->x);
    free(it->weight_scales);
    free(it->w);
    free(it->packed);
}

/* The definition in the header, in the order of its words. */
static inline float *reference(const product *it) {
    float *y = take(it->rows * it->n, sizeof(float));
    int8_t *a = take(it->k, 1);
    for (size_t row = 0; row < it->rows; row++) {
        float largest = 0.0f;
        int finite = 1;
        for (size_t k = 0; k < it->k; k++) {
            float value = fabsf(it->x[row * it->k + k]);
            finite = finite && isfinite(value);
            largest = value > largest ? value : largest;
        }
        float scale = largest / 127.0f, inverse = 127.0f / largest;
        if (!finite)
            scale = NAN;
        else if (largest < 0x1p-100f)
            scale = 0.0f;
        for (size_t k = 0; k < it->k; k++) /* nearbyint: the default rounding mode, ties to even */
            a[k] = finite && largest >= 0x1p-100f ? (int8_t)nearbyintf(it->x[row * it->k + k] * inverse) : 0;
        for (size_t n = 0; n < it->n; n++) {
            int64_t sum = 0;
            for (size_t k = 0; k < it->k; k++)
                sum += (int64_t)a[k] * it->w[n * it->k + k];
            CHECK(sum >= INT32_MIN && sum <= INT32_MAX);
            y[row * it->n + n] = (float)(int32_t)sum * (scale * it->weight_scales[n]);
        }
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

static inline fr_linear_int8 begin(const product *it, const fr_int8_path *path, float *y) {
    return (fr_linear_int8){.path = path,
                            .x = it->x,
                            .weights = it->packed,
                            .weight_scales = it->weight_scales,
                            .y = y,
                            .rows = it->rows,
                            .n = it->n,
                            .k = it->k};
}

/* The scratch is just as long as asked for. Parts last to first: the order must not matter. */
static inline void run(fr_linear_int8 *job) {
    job->scratch = take(fr_linear_int8_scratch(job), 1);
    for (size_t part = fr_linear_int8_begin(job); part > 0; part--)
        fr_linear_int8_part(job, part - 1);
    free(job->scratch);
}

#endif
