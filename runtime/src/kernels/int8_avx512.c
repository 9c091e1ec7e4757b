/* AVX-512 with VNNI: up to sixteen rows in one pass over the weights, which then costs what reading them costs. */
#include "constant_rows.h"
#include "linear_paths.h"
#include "processor.h"

#if defined(__x86_64__)

#define TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")))
#define INLINE static inline __attribute__((always_inline)) TARGET
#include "vnni_avx512.h"

enum {
    MAX_ROWS = FR_LINEAR_MAX_ROWS,
    AHEAD = 8192 /* bytes, so that memory is read on while sixteen rows are multiplied; 4096 costs them 15 % */
};

INLINE __mmask16 first(size_t count) {
    return (__mmask16)(count >= 16 ? 0xFFFFu : (1u << count) - 1u);
}

/* `count` and `chains` are constants where this is inlined: the sums then stay in registers. Few rows are spread over
 * several sums each, so that a sum is not waited for. */
INLINE void rows_of(const fr_linear_column *column, const fr_linear_rows *rows, float *y, size_t stride, size_t count,
                    size_t chains) {
    __m512i sums[4][MAX_ROWS];
#pragma GCC unroll 16
    for (size_t row = 0; row < count; row++) {
        sums[0][row] = _mm512_set1_epi32(rows->offsets[row]);
#pragma GCC unroll 4
        for (size_t chain = 1; chain < chains; chain++)
            sums[chain][row] = _mm512_setzero_si512();
    }
    const uint8_t *w = column->weights;
    const int8_t *a = rows->codes;
    for (size_t step = 0; step < column->blocks * 4; step++, w += 256, a += 16 * count) {
#pragma GCC unroll 4
        for (size_t i = 0; i < 4; i++) {
            __m512i weights = _mm512_loadu_si512(w + 64 * i);
            _mm_prefetch((const char *)w + 64 * i + AHEAD, _MM_HINT_T0);
            add_four(weights, a + 4 * count * i, count, sums[i % chains]);
        }
    }
    __mmask16 mask = first(column->outputs);
    __m512 scales = _mm512_maskz_loadu_ps(mask, column->scales);
#pragma GCC unroll 16
    for (size_t row = 0; row < count; row++) {
#pragma GCC unroll 4
        for (size_t chain = 1; chain < chains; chain++)
            sums[0][row] = _mm512_add_epi32(sums[0][row], sums[chain][row]);
        __m512 scale = _mm512_mul_ps(_mm512_set1_ps(rows->scales[row]), scales);
        _mm512_mask_storeu_ps(y + row * stride, mask, _mm512_mul_ps(_mm512_cvtepi32_ps(sums[0][row]), scale));
    }
}

TARGET static void multiply(const fr_linear_column *column, const fr_linear_rows *rows, float *y, size_t stride) {
#define CALL(count) rows_of(column, rows, y, stride, count, (count) <= 4 ? 4 : (count) <= 8 ? 2 : 1)
    FR_UP_TO_16_ROWS(rows->count, CALL);
#undef CALL
}

const fr_linear_path fr_int8_avx512 = {
    .name = "avx512-vnni",
    .usable = fr_has_avx512_vnni,
    .format = &fr_linear_int8,
    .max_rows = MAX_ROWS,
    .steps = &fr_float_steps_avx512,
    .codes = &fr_row_codes_avx512,
    .multiply = multiply,
};

#endif
