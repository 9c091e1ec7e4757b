/* What surrounds products of rows, in float32, with the same bits on every path: sums are kept in sixteen parts
 * whatever the vectors are, and no multiply is fused with an add. */
#ifndef FORERUN_FLOAT_STEPS_H
#define FORERUN_FLOAT_STEPS_H

#include <stddef.h>

enum { FR_STEP_WIDTH = 16 /* outputs of a block column */ };

/* One way to compute them. */
typedef struct fr_float_steps {
    /* y[k] = x[k] / sqrt(mean of x^2 + epsilon) * norm[k]: RMS normalization (Zhang and Sennrich 2019). */
    void (*normalize)(const float *x, const float *norm, size_t k, float epsilon, float *y);
    /* SiLU-gate (Shazeer 2020) of rows of 16: y[row * stride + i] = g * sigmoid(g) * u, g and u [rows][16]. */
    void (*gate)(const float *gates, const float *values, size_t rows, float *y, size_t stride);
    /* y[row * stride + i] += addend[row * addend_stride + i] for i < count <= 16. */
    void (*add)(float *y, size_t stride, const float *addend, size_t addend_stride, size_t rows, size_t count);
    /* One step of a gated recurrence over `size` values, z [3][size]: keep = sigmoid(z[0]),
     * next = keep * state + (1 - keep) * tanh(z[1]), out = tanh(z[2]). No buffer may overlap another. */
    void (*recur)(const float *z, const float *state, size_t size, float *next, float *out);
} fr_float_steps;

extern const fr_float_steps fr_float_steps_avx512, fr_float_steps_avx2, fr_float_steps_portable;

#endif
