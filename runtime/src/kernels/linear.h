/* y = x w^T with weights of 8 or 4 bits and int8 activations by row: exact integers, so that every path gives the same
 * bits and a row never feels its neighbours.
 *
 * Of each row x[k] of a run, alone:
 *   m = max |x|                            compared as integers, so that NaN and infinity are the largest
 *   scale = m / 127, inverse = 127 / m     float32; m < 2^-100: scale = inverse = 0; m not finite: scale = NaN
 *   a[k] = x[k] * inverse rounded to the nearest, ties to even: in [-127, 127]; all 0 where inverse is not used
 * int8, one scale an output:
 *   y[n] = (float)(sum over k of a[k] * w[n][k]) * (scale * weight_scale[n])
 * int4, a scale for each group of 32, 64 or 128 inputs, the last of which may be short; f = 0, then group after group
 *   f = f + (float)(sum over k of the group of a[k] * w[n][k]) * weight_scale[n][group]      three float32 roundings
 *   y[n] = f * scale
 * A sum of codes is an exact int32. A row that is zero gives zeros; one that holds a NaN or an infinity gives NaNs.
 *
 * What stands before and after a product in a transformer can be part of it (float_steps.h says what it computes):
 *   norm     x is the RMS-normalized row, before all of the above
 *   addend   y[n] += addend[n], a residual stream or a bias
 *   gated    blocks of 16 outputs hold gates and values in turn: y[16 j + i] = silu(block 2j) * (block 2j + 1)
 *
 * Weights lie in blocks of 16 outputs by 64 inputs, [ceil(N/16)][ceil(K/64)], each code plus its format's zero; what is
 * beyond N or K is that zero.
 *   int8  1 KB: uint8 [16][16][4], zero 128, the innermost four along K. Sixteen outputs by four inputs are one
 *         512-bit vector of VPDPBUSD, and a block is one tile of the matrix units.
 *   int4  512 bytes: uint8 [8][16][4], zero 8. Byte [r][n][j] holds input 4r + j in its low half and input 32 + 4r + j
 * in its high half, so that the halves of a 512-bit vector's bytes are two such vectors. Scales: int8 float32 [N]; int4
 * bfloat16 [ceil(N/16)][groups][16], 0 beyond N. */
#ifndef FORERUN_LINEAR_H
#define FORERUN_LINEAR_H

#include "float_steps.h"
#include "pieces.h"
#include "row_codes.h"

#include <stddef.h>
#include <stdint.h>

enum {
    FR_LINEAR_OUTPUTS = 16,   /* of a block */
    FR_LINEAR_INPUTS = 64,    /* of a block */
    FR_LINEAR_MAX_ROWS = 16,  /* of one call of multiply, on any path */
    FR_LINEAR_MAX_K = 131072, /* 128 * 127 * K must fit an int32 */
    FR_LINEAR_MAX_PATHS = 8
};

typedef struct fr_linear_format {
    size_t block_bytes;
    size_t scale_bytes; /* of one scale */
    int32_t zero;       /* what a stored code is too large */
} fr_linear_format;

extern const fr_linear_format fr_linear_int8, fr_linear_int4;

/* Some rows after quantization. */
typedef struct fr_linear_rows {
    size_t count;
    const int8_t *codes; /* [ceil(K/64) * 16][count][4]: one pass over the weights reads one stream of them */
    const float *scales; /* [count] */
    const int32_t
        *offsets; /* [groups][count]: -zero * (sum of a group's codes), so that stored codes can be multiplied */
} fr_linear_rows;

/* The weights of 16 outputs. */
typedef struct fr_linear_column {
    const uint8_t *weights; /* [blocks] */
    const void *scales;     /* int8: float32 [outputs]; int4: bfloat16 [groups][16] */
    size_t blocks, outputs; /* outputs: 1..16 */
    size_t groups, group_size;
} fr_linear_column;

/* One way to compute products of a format. All give the same bits. */
typedef struct fr_linear_path {
    const char *name;
    int (*usable)(void);
    const fr_linear_format *format;
    size_t max_rows; /* of one call of multiply */
    size_t min_rows; /* of a product: one of fewer takes the path `fewer` */
    const struct fr_linear_path *fewer;
    int row_major; /* how the codes of several rows lie */
    /* Around the calls of multiply of one part, by its thread; or NULL. `rows` is the most of one call. */
    void (*enter)(size_t rows, size_t group_size);
    void (*leave)(void);
    const fr_float_steps *steps;
    const fr_row_codes *codes;
    /* Writes y[row * stride + n] for n < outputs. */
    void (*multiply)(const fr_linear_column *column, const fr_linear_rows *rows, float *y, size_t stride);
} fr_linear_path;

/* The paths that this processor has for a format, fastest first; the last one needs nothing. */
size_t fr_linear_paths(const fr_linear_format *format, const fr_linear_path *out[FR_LINEAR_MAX_PATHS]);

/* One product. Fill the first part, call fr_linear_begin, then fr_linear_part for each part, in any order and by any
 * threads. Nothing is allocated. */
typedef struct fr_linear {
    const fr_linear_path *path;
    const float *x;            /* [rows][k] */
    const uint8_t *weights;    /* fr_linear_packed(format, n, k) bytes */
    const void *weight_scales; /* of the path's format */
    float *y;                  /* [rows][n], gated: [rows][n / 2] */
    size_t rows, n, k;
    size_t group_size;    /* 32, 64 or 128; int8: 0, all of k */
    const float *norm;    /* [k], or NULL */
    float epsilon;        /* of the norm */
    const float *addend;  /* [rows][addend_stride], or NULL; not with gated */
    size_t addend_stride; /* 0: one row for all */
    int gated;            /* n is a multiple of 32 */
    void *scratch;        /* fr_linear_scratch bytes */
    /* Ours: */
    float *normalized; /* [rows][k] */
    int8_t *codes;
    float *scales, *inverses; /* [rows]; an inverse is 0 where it is not used */
    int32_t *offsets;
    size_t groups;  /* of inputs */
    size_t batches; /* of rows: as many as one call of multiply takes */
    size_t chunks;  /* of inputs, of each batch: what one thread encodes */
    size_t parts, columns_per_part;
    fr_pieces measured, encoded; /* of rows, of all batches' chunks */
} fr_linear;

size_t fr_linear_packed(const fr_linear_format *format, size_t n, size_t k);
size_t fr_linear_groups(size_t k, size_t group_size);
size_t fr_linear_scratch(const fr_linear *it);

/* Sets up and returns the number of parts. */
size_t fr_linear_begin(fr_linear *it);

/* Fetches the first weights of a part. */
void fr_linear_fetch(const fr_linear *it, size_t part);

/* Computes one part; whoever comes first quantizes the rows. Waits for other threads' rows at most. */
void fr_linear_part(fr_linear *it, size_t part);

#endif
