/* AVX2. */
#include "row_codes.h"

#if defined(__x86_64__)

#include <immintrin.h>
#include <string.h>

#define TARGET __attribute__((target("avx2")))

/* All ones in the first `count` lanes. */
TARGET static inline __m256i first(size_t count) {
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(count < 8 ? (int)count : 8), lane);
}

TARGET static uint32_t peak(const float *x, size_t k) {
    const __m256i magnitude = _mm256_set1_epi32(0x7FFFFFFF);
    __m256i largest = _mm256_setzero_si256();
    for (size_t i = 0; i < k; i += 8) {
        __m256i bits = _mm256_maskload_epi32((const int *)(const void *)(x + i), first(k - i));
        largest = _mm256_max_epi32(largest, _mm256_and_si256(bits, magnitude));
    }
    uint32_t lanes[8], found = 0;
    _mm256_storeu_si256((__m256i *)(void *)lanes, largest);
    for (size_t i = 0; i < 8; i++)
        found = lanes[i] > found ? lanes[i] : found;
    return found;
}

TARGET static int32_t encode(const float *x, size_t k, size_t padded, float inverse, int8_t *codes, size_t stride) {
    const __m256 factor = _mm256_set1_ps(inverse);
    /* The low bytes of the four values of each half, in the half's first four bytes. */
    const __m256i low = _mm256_set1_epi32(0x0C080400);
    __m256i sum = _mm256_setzero_si256();
    for (size_t i = 0; i < padded; i += 8, codes += 2 * stride) {
        __m256 values = _mm256_maskload_ps(x + (i < k ? i : 0), first(i < k ? k - i : 0));
        __m256 whole = _mm256_round_ps(_mm256_mul_ps(values, factor), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
        __m256i wide = _mm256_cvtps_epi32(whole);
        sum = _mm256_add_epi32(sum, wide);
        __m256i bytes = _mm256_shuffle_epi8(wide, low);
        int32_t fours[2] = {_mm256_extract_epi32(bytes, 0), _mm256_extract_epi32(bytes, 4)};
        memcpy(codes, &fours[0], 4);
        memcpy(codes + stride, &fours[1], 4);
    }
    int32_t lanes[8], total = 0;
    _mm256_storeu_si256((__m256i *)(void *)lanes, sum);
    for (size_t i = 0; i < 8; i++)
        total += lanes[i];
    return total;
}

const fr_row_codes fr_row_codes_avx2 = {peak, encode, NULL};

#endif
