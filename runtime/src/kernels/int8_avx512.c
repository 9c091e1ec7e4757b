/* AVX-512 with VNNI: up to sixteen rows in one pass over the weights, which then costs what reading them costs. */
#include "linear_int8.h"

#if defined(__x86_64__)

#include <immintrin.h>
#include <string.h>

#define TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")))
#define INLINE static inline __attribute__((always_inline)) TARGET

enum {
    MAX_ROWS = FR_INT8_MAX_ROWS,
    AHEAD = 8192 /* bytes, so that memory is read on while sixteen rows are multiplied; 4096 costs them 15 % */
};

static int usable(void) {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512vnni");
}

INLINE __mmask16 first(size_t count) {
    return (__mmask16)(count >= 16 ? 0xFFFFu : (1u << count) - 1u);
}

TARGET static uint32_t peak(const float *x, size_t k) {
    const __m512i magnitude = _mm512_set1_epi32(0x7FFFFFFF);
    __m512i largest = _mm512_setzero_si512();
    for (size_t i = 0; i < k; i += 16) {
        __m512i bits = _mm512_maskz_loadu_epi32(first(k - i), x + i);
        largest = _mm512_max_epi32(largest, _mm512_and_si512(bits, magnitude));
    }
    return (uint32_t)_mm512_reduce_max_epi32(largest);
}

TARGET static int32_t encode(const float *x, size_t k, float inverse, int8_t *codes, size_t stride) {
    const __m512 factor = _mm512_set1_ps(inverse);
    size_t padded = (k + FR_INT8_INPUTS - 1) / FR_INT8_INPUTS * FR_INT8_INPUTS;
    __m512i sum = _mm512_setzero_si512();
    for (size_t i = 0; i < padded; i += 16, codes += 4 * stride) {
        __m512 values = _mm512_maskz_loadu_ps(i < k ? first(k - i) : 0, x + (i < k ? i : 0));
        __m512i wide =
            _mm512_cvt_roundps_epi32(_mm512_mul_ps(values, factor), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
        sum = _mm512_add_epi32(sum, wide);
        int32_t fours[4];
        _mm_storeu_si128((__m128i *)(void *)fours, _mm512_cvtepi32_epi8(wide));
        for (size_t j = 0; j < 4; j++)
            memcpy(codes + j * stride, fours + j, 4);
    }
    return _mm512_reduce_add_epi32(sum);
}

/* `count` and `chains` are constants where this is inlined: the sums then stay in registers. Few rows are spread over
 * several sums each, so that a sum is not waited for. */
INLINE void rows_of(const uint8_t *w, size_t blocks, const fr_int8_rows *rows, const fr_int8_out *out, size_t count,
                    size_t chains) {
    __m512i sums[4][MAX_ROWS];
#pragma GCC unroll 16
    for (size_t row = 0; row < count; row++) {
        /* The weights are 128 too large. */
        sums[0][row] = _mm512_set1_epi32(-128 * rows->sums[row]);
#pragma GCC unroll 4
        for (size_t chain = 1; chain < chains; chain++)
            sums[chain][row] = _mm512_setzero_si512();
    }
    const int8_t *a = rows->codes;
    for (size_t step = 0; step < blocks * 4; step++, w += 256, a += 16 * count) {
#pragma GCC unroll 4
        for (size_t i = 0; i < 4; i++) {
            __m512i weights = _mm512_loadu_si512(w + 64 * i);
            _mm_prefetch((const char *)w + 64 * i + AHEAD, _MM_HINT_T0);
#pragma GCC unroll 16
            for (size_t row = 0; row < count; row++) {
                int32_t four;
                memcpy(&four, a + (i * count + row) * 4, 4);
                __m512i *sum = &sums[i % chains][row];
                *sum = _mm512_dpbusd_epi32(*sum, weights, _mm512_set1_epi32(four));
            }
        }
    }
    __mmask16 mask = first(out->outputs);
    __m512 scales = _mm512_maskz_loadu_ps(mask, out->weight_scales);
#pragma GCC unroll 16
    for (size_t row = 0; row < count; row++) {
#pragma GCC unroll 4
        for (size_t chain = 1; chain < chains; chain++)
            sums[0][row] = _mm512_add_epi32(sums[0][row], sums[chain][row]);
        __m512 scale = _mm512_mul_ps(_mm512_set1_ps(rows->scales[row]), scales);
        _mm512_mask_storeu_ps(out->y + row * out->stride, mask, _mm512_mul_ps(_mm512_cvtepi32_ps(sums[0][row]), scale));
    }
}

TARGET static void multiply(const uint8_t *weights, size_t blocks, const fr_int8_rows *rows, const fr_int8_out *out) {
    switch (rows->count) {
#define CASE(count, chains)                                                                                            \
    case count:                                                                                                        \
        rows_of(weights, blocks, rows, out, count, chains);                                                            \
        break;
        CASE(1, 4)
        CASE(2, 4)
        CASE(3, 4)
        CASE(4, 4)
        CASE(5, 2)
        CASE(6, 2)
        CASE(7, 2)
        CASE(8, 2)
        CASE(9, 1)
        CASE(10, 1)
        CASE(11, 1)
        CASE(12, 1)
        CASE(13, 1)
        CASE(14, 1)
        CASE(15, 1)
        CASE(16, 1)
#undef CASE
    }
}

const fr_int8_path fr_int8_avx512 = {"avx512-vnni", usable, MAX_ROWS, &fr_float_steps_avx512, peak, encode, multiply};

#endif
