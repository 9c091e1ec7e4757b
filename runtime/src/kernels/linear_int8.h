/* y = x w^T with int8 weights by output and int8 activations by row: exact integers, so that every path gives the same
 * bits and a row never feels its neighbours.
 *
 * Of each row x[k] of a run, alone:
 *   m = max |x|                            compared as integers, so that NaN and infinity are the largest
 *   scale = m / 127, inverse = 127 / m     float32; m < 2^-100: scale = inverse = 0; m not finite: scale = NaN
 *   a[k] = x[k] * inverse rounded to the nearest, ties to even: in [-127, 127]; all 0 where inverse is not used
 *   y[n] = (float)(sum over k of a[k] * w[n][k]) * (scale * weight_scale[n])
 * The sum is an exact int32. A row that is zero gives zeros; one that holds a NaN or an infinity gives NaNs.
 *
 * What stands before and after a product in a transformer can be part of it (float_steps.h says what it computes):
 *   norm     x is the RMS-normalized row, before all of the above
 *   addend   y[n] += addend[n], a residual stream or a bias
 *   gated    blocks of 16 outputs hold gates and values in turn: y[16 j + i] = silu(block 2j) * (block 2j + 1)
 *
 * Weights lie in blocks of 16 outputs by 64 inputs, 1 KB each: uint8 [ceil(N/16)][ceil(K/64)][16][16][4], the code plus
 * 128, the innermost four along K; what is beyond N or K is 128. Sixteen outputs by four inputs are one
 * 512-bit vector of VPDPBUSD, and a block is one tile of the matrix units. */
#ifndef FORERUN_LINEAR_INT8_H
#define FORERUN_LINEAR_INT8_H

#include "float_steps.h"

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

enum {
    FR_INT8_OUTPUTS = 16,  /* of a block */
    FR_INT8_INPUTS = 64,   /* of a block */
    FR_INT8_BLOCK = 1024,  /* bytes of a block */
    FR_INT8_MAX_ROWS = 16, /* of one call of multiply, on any path */
    FR_INT8_MAX_K = 131072 /* 128 * 127 * K must fit an int32 */
};

/* Some rows after quantization, their codes interleaved so that one pass over the weights reads one stream of them. */
typedef struct fr_int8_rows {
    size_t count;
    const int8_t *codes; /* [ceil(K/64) * 16][count][4] */
    const float *scales; /* [count] */
    const int32_t *sums; /* [count], of the codes */
} fr_int8_rows;

/* Where the products of one block column go: y[row * stride + n] for n < outputs. */
typedef struct fr_int8_out {
    float *y;
    size_t stride;
    const float *weight_scales; /* [outputs] */
    size_t outputs;             /* 1..16 */
} fr_int8_out;

/* One way to compute it. All give the same bits. */
typedef struct fr_int8_path {
    const char *name;
    int (*usable)(void);
    size_t max_rows; /* of one call of multiply */
    const fr_float_steps *steps;
    /* The largest of the k values as bits without the sign. */
    uint32_t (*peak)(const float *x, size_t k);
    /* Writes ceil(k/64)*64 codes, four at a time, `stride` bytes apart, zeros beyond k; returns their sum. */
    int32_t (*encode)(const float *x, size_t k, float inverse, int8_t *codes, size_t stride);
    /* `weights` are the blocks of 16 outputs. */
    void (*multiply)(const uint8_t *weights, size_t blocks, const fr_int8_rows *rows, const fr_int8_out *out);
} fr_int8_path;

/* The paths that this processor has, fastest first; the last one needs nothing. */
enum { FR_INT8_MAX_PATHS = 8 };
size_t fr_int8_paths(const fr_int8_path *out[FR_INT8_MAX_PATHS]);

/* One product. Fill the first part, call fr_linear_int8_begin, then fr_linear_int8_part for each part, in any order and
 * by any threads. Nothing is allocated. */
typedef struct fr_linear_int8 {
    const fr_int8_path *path;
    const float *x;             /* [rows][k] */
    const uint8_t *weights;     /* fr_int8_packed(n, k) bytes */
    const float *weight_scales; /* [n] */
    float *y;                   /* [rows][n], gated: [rows][n / 2] */
    size_t rows, n, k;
    const float *norm;    /* [k], or NULL */
    float epsilon;        /* of the norm */
    const float *addend;  /* [rows][addend_stride], or NULL; not with gated */
    size_t addend_stride; /* 0: one row for all */
    int gated;            /* n is a multiple of 32 */
    void *scratch;        /* fr_linear_int8_scratch bytes */
    /* Ours: */
    float *normalized; /* [rows][k] */
    int8_t *codes;
    float *scales;
    int32_t *sums;
    size_t groups, parts, columns_per_part;
    atomic_size_t next_row, rows_done;
} fr_linear_int8;

size_t fr_int8_packed(size_t n, size_t k);
size_t fr_linear_int8_scratch(const fr_linear_int8 *it);

/* Sets up and returns the number of parts. */
size_t fr_linear_int8_begin(fr_linear_int8 *it);

/* Computes one part; whoever comes first quantizes the rows. Waits for other threads' rows at most. */
void fr_linear_int8_part(fr_linear_int8 *it, size_t part);

extern const fr_int8_path fr_int8_avx512, fr_int8_avxvnni, fr_int8_avx2, fr_int8_neon, fr_int8_portable;

#endif
