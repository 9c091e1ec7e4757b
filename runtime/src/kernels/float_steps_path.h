/* The steps of one path; included by the files of the paths, which define before LANES and TARGET as vectors.h says. */
#include "float_steps.h"

#define MADD(a, b, c) ((a) * (b) + (c)) /* in two roundings: fused ones would differ between processors */
#include "vectors.h"

#include <math.h>

TARGET static void normalize(const float *x, const float *norm, size_t k, float epsilon, float *y) {
    vec parts[PARTS / LANES] = {{0}};
    size_t whole = k / PARTS * PARTS;
    float rest[PARTS] = {0};
    memcpy(rest, x + whole, (k - whole) * sizeof(float));
    for (size_t i = 0; i <= whole; i += PARTS)
        for (size_t part = 0; part < PARTS / LANES; part++) {
            vec v = load((i < whole ? x + i : rest) + part * LANES);
            parts[part] += v * v;
        }
    const float inverse = 1.0f / sqrtf(total(parts) / (float)k + epsilon);
    for (size_t i = 0; i < whole; i += LANES)
        store(y + i, load(x + i) * inverse * load(norm + i));
    for (size_t i = whole; i < k; i++)
        y[i] = x[i] * inverse * norm[i];
}

TARGET static void gate(const float *gates, const float *values, size_t rows, float *y, size_t stride) {
    const ints sign = (ints)all(-0.0f);
    for (size_t row = 0; row < rows; row++)
        for (size_t i = 0; i < FR_STEP_WIDTH; i += LANES) {
            vec g = load(gates + row * FR_STEP_WIDTH + i), u = load(values + row * FR_STEP_WIDTH + i);
            vec e = exponential((vec)((ints)g | sign)); /* of -|g|: nothing overflows */
            vec sigmoid = choose(g < all(0.0f), e, all(1.0f)) / (1.0f + e);
            store(y + row * stride + i, g * sigmoid * u);
        }
}

TARGET static void add(float *y, size_t stride, const float *addend, size_t addend_stride, size_t rows, size_t count) {
    for (size_t row = 0; row < rows; row++, y += stride, addend += addend_stride) {
        if (count == FR_STEP_WIDTH)
            for (size_t i = 0; i < FR_STEP_WIDTH; i += LANES)
                store(y + i, load(y + i) + load(addend + i));
        else
            for (size_t i = 0; i < count; i++)
                y[i] += addend[i];
    }
}
