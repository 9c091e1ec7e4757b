/* A row of float32 as int8 codes; linear.h says by which rule. */
#ifndef FORERUN_ROW_CODES_H
#define FORERUN_ROW_CODES_H

#include <stddef.h>
#include <stdint.h>

enum { FR_ROW_CODES_STEP = 16 /* what `padded` is a multiple of */ };

/* One way to compute them. */
typedef struct fr_row_codes {
    /* The largest of the k values as bits without the sign. */
    uint32_t (*peak)(const float *x, size_t k);
    /* Writes `padded` codes, four at a time, `stride` bytes apart, zeros beyond k; returns their sum. */
    int32_t (*encode)(const float *x, size_t k, size_t padded, float inverse, int8_t *codes, size_t stride);
    /* The same for `count` rows, 1..16, `stride` values apart, which lie four codes by four in turn: whole lines are
     * written at once. A row whose inverse is 0 gives zeros, whatever it holds. Or NULL. */
    void (*encode_rows)(const float *x, size_t stride, size_t count, size_t k, size_t padded, const float *inverses,
                        int8_t *codes, int32_t *sums);
} fr_row_codes;

extern const fr_row_codes fr_row_codes_avx512, fr_row_codes_avx2, fr_row_codes_neon, fr_row_codes_portable;

#endif
