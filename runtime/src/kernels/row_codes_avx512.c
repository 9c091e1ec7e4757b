/* AVX-512, with VNNI, which adds codes up by fours. */
#include "row_codes.h"

#if defined(__x86_64__)

#include <immintrin.h>
#include <string.h>

#define TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")))

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

#define INLINE static inline __attribute__((always_inline)) TARGET

INLINE __m512i round_to_codes(__mmask16 mask, const float *x, float inverse) {
    __m512 scaled = _mm512_mul_ps(_mm512_maskz_loadu_ps(mask, x), _mm512_set1_ps(inverse));
    return _mm512_cvt_roundps_epi32(scaled, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

TARGET static int32_t encode(const float *x, size_t k, size_t padded, float inverse, int8_t *codes, size_t stride) {
    __m512i sum = _mm512_setzero_si512();
    for (size_t i = 0; i < padded; i += 16, codes += 4 * stride) {
        __m512i wide = round_to_codes(i < k ? first(k - i) : 0, x + (i < k ? i : 0), inverse);
        sum = _mm512_add_epi32(sum, wide);
        int32_t fours[4];
        _mm_storeu_si128((__m128i *)(void *)fours, _mm512_cvtepi32_epi8(wide));
        for (size_t j = 0; j < 4; j++)
            memcpy(codes + j * stride, fours + j, 4);
    }
    return _mm512_reduce_add_epi32(sum);
}

/* Sixteen inputs of four rows, row after row; rows beyond `count` repeat the last one. */
INLINE __m512i four_rows(const float *x, size_t stride, size_t row, size_t count, __mmask16 mask,
                         const float *inverses) {
    __m128i codes[4];
#pragma GCC unroll 4
    for (size_t i = 0; i < 4; i++) {
        const size_t at = row + i < count ? row + i : count - 1;
        codes[i] = _mm512_cvtepi32_epi8(round_to_codes(inverses[at] != 0.0f ? mask : 0, x + at * stride, inverses[at]));
    }
    __m512i all = _mm512_inserti32x4(_mm512_castsi128_si512(codes[0]), codes[1], 1);
    return _mm512_inserti32x4(_mm512_inserti32x4(all, codes[2], 2), codes[3], 3);
}

/* From four times four rows to four lines, each a four of all rows: a transposition of fours. */
INLINE void transpose(const __m512i rows[4], __m512i lines[4]) {
    const __m512i even = _mm512_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28, 1, 5, 9, 13, 17, 21, 25, 29);
    const __m512i odd = _mm512_add_epi32(even, _mm512_set1_epi32(2));
    const __m512i a = _mm512_permutex2var_epi32(rows[0], even, rows[1]);
    const __m512i b = _mm512_permutex2var_epi32(rows[2], even, rows[3]);
    const __m512i c = _mm512_permutex2var_epi32(rows[0], odd, rows[1]);
    const __m512i d = _mm512_permutex2var_epi32(rows[2], odd, rows[3]);
    lines[0] = _mm512_shuffle_i64x2(a, b, 0x44);
    lines[1] = _mm512_shuffle_i64x2(a, b, 0xEE);
    lines[2] = _mm512_shuffle_i64x2(c, d, 0x44);
    lines[3] = _mm512_shuffle_i64x2(c, d, 0xEE);
}

TARGET static void encode_rows(const float *x, size_t stride, size_t count, size_t k, size_t padded,
                               const float *inverses, int8_t *codes, int32_t *sums) {
    const __mmask16 there = first(count);
    __m512i sum = _mm512_setzero_si512();
    for (size_t i = 0; i < padded; i += 16) {
        const __mmask16 mask = i < k ? first(k - i) : 0;
        __m512i rows[4], lines[4];
#pragma GCC unroll 4
        for (size_t four = 0; four < 4; four++)
            rows[four] = 4 * four < count ? four_rows(x + (i < k ? i : 0), stride, 4 * four, count, mask, inverses)
                                          : _mm512_setzero_si512();
        transpose(rows, lines);
#pragma GCC unroll 4
        for (size_t four = 0; four < 4; four++, codes += 4 * count) {
            _mm512_mask_storeu_epi32(codes, there, lines[four]);
            sum = _mm512_dpbusd_epi32(sum, _mm512_set1_epi8(1), lines[four]);
        }
    }
    _mm512_mask_storeu_epi32(sums, there, sum);
}

const fr_row_codes fr_row_codes_avx512 = {peak, encode, encode_rows};

#endif
