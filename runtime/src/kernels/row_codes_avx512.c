/* AVX-512. */
#include "row_codes.h"

#if defined(__x86_64__)

#include <immintrin.h>
#include <string.h>

#define TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl")))

TARGET static inline __mmask16 first(size_t count) {
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

TARGET static int32_t encode(const float *x, size_t k, size_t padded, float inverse, int8_t *codes, size_t stride) {
    const __m512 factor = _mm512_set1_ps(inverse);
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

const fr_row_codes fr_row_codes_avx512 = {peak, encode};

#endif
