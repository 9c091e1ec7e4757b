/* What attention over codes does with vectors of integers on one path; included by attention_path.h, which says what is
 * defined before. Where there is VNNI it multiplies bytes without a sign by bytes with one: keys are codes + 128 then,
 * and the sums begin at -128 times the sum of the query's codes. */

#ifdef VNNI
enum { KEY_EXCESS = 128 };
static const int32_t KEY_FLIP = (int32_t)0x80808080;
#else
enum { KEY_EXCESS = 0 };
static const int32_t KEY_FLIP = 0;
#endif

#if LANES == 16

/* sums + in each lane the products of four codes of a key, plus KEY_EXCESS each, and four of a query. */
INLINE ints dot_four(ints sums, ints keys, ints q) {
#ifdef VNNI
    return (ints)_mm512_dpbusd_epi32((__m512i)sums, (__m512i)keys, (__m512i)q);
#else
    const __m512i signed_keys = /* with the signs of q, which then counts without */
        _mm512_mask_sub_epi8((__m512i)keys, _mm512_movepi8_mask((__m512i)q), _mm512_setzero_si512(), (__m512i)keys);
    const __m512i pairs = _mm512_maddubs_epi16(_mm512_abs_epi8((__m512i)q), signed_keys); /* at most 2 * 127 * 127 */
    return sums + (ints)_mm512_madd_epi16(pairs, _mm512_set1_epi16(1));
#endif
}

/* sums + in each lane the products of two values and two weights, all int16. */
INLINE ints dot_two(ints sums, ints values, ints weights) {
#ifdef VNNI
    return (ints)_mm512_dpwssd_epi32((__m512i)sums, (__m512i)values, (__m512i)weights);
#else
    return sums + (ints)_mm512_madd_epi16((__m512i)values, (__m512i)weights);
#endif
}

/* LANES dims of two keys' values, as pairs of int16. */
INLINE ints pair_of(const int8_t *v, const int8_t *other) {
    const __m512i low = _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)v));
    const __m512i high = _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)other));
    return (ints)_mm512_mask_blend_epi16(0xAAAAAAAA, low, _mm512_slli_epi32(high, 16));
}

/* The low byte of each lane. */
INLINE void store_bytes(ints x, int8_t *out) {
    _mm_storeu_si128((__m128i *)out, _mm512_cvtepi32_epi8((__m512i)x));
}

/* The low half of each lane. */
INLINE void store_words(ints x, int16_t *out) {
    _mm256_storeu_si256((__m256i *)out, _mm512_cvtepi32_epi16((__m512i)x));
}

INLINE ints larger_ints(ints a, ints b) {
    return (ints)_mm512_max_epi32((__m512i)a, (__m512i)b);
}

INLINE int32_t largest_int(ints x) {
    return _mm512_reduce_max_epi32((__m512i)x);
}

#else

#if LANES == 8

INLINE ints dot_four(ints sums, ints keys, ints q) {
#ifdef VNNI
    return (ints)_mm256_dpbusd_avx_epi32((__m256i)sums, (__m256i)keys, (__m256i)q);
#else
    const __m256i pairs = /* at most 2 * 127 * 127 */
        _mm256_maddubs_epi16(_mm256_abs_epi8((__m256i)q), _mm256_sign_epi8((__m256i)keys, (__m256i)q));
    return sums + (ints)_mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
#endif
}

INLINE ints dot_two(ints sums, ints values, ints weights) {
#ifdef VNNI
    return (ints)_mm256_dpwssd_avx_epi32((__m256i)sums, (__m256i)values, (__m256i)weights);
#else
    return sums + (ints)_mm256_madd_epi16((__m256i)values, (__m256i)weights);
#endif
}

INLINE ints pair_of(const int8_t *v, const int8_t *other) {
    const __m128i a = _mm_loadl_epi64((const __m128i *)v), b = _mm_loadl_epi64((const __m128i *)other);
    return (ints)_mm256_cvtepi8_epi16(_mm_unpacklo_epi8(a, b));
}

INLINE void store_bytes(ints x, int8_t *out) {
    const __m256i low = _mm256_set1_epi32(0x0C080400); /* the low bytes of four lanes */
    const __m256i bytes = _mm256_shuffle_epi8((__m256i)x, low);
    const __m128i all_bytes = _mm_unpacklo_epi32(_mm256_castsi256_si128(bytes), _mm256_extracti128_si256(bytes, 1));
    _mm_storel_epi64((__m128i *)out, all_bytes);
}

#else

#ifdef __aarch64__
#include <arm_neon.h>
#endif

typedef int8_t bytes __attribute__((vector_size(4 * LANES)));
typedef int16_t words __attribute__((vector_size(4 * LANES)));

INLINE ints dot_four(ints sums, ints keys, ints q) {
#ifdef __aarch64__
    const int16x8_t low = vmull_s8(vget_low_s8((int8x16_t)keys), vget_low_s8((int8x16_t)q));
    const int16x8_t high = vmull_s8(vget_high_s8((int8x16_t)keys), vget_high_s8((int8x16_t)q));
    return sums + (ints)vpaddq_s32(vpaddlq_s16(low), vpaddlq_s16(high));
#else
    for (size_t i = 0; i < sizeof keys; i++)
        sums[i / 4] += ((bytes)keys)[i] * ((bytes)q)[i];
    return sums;
#endif
}

INLINE ints dot_two(ints sums, ints values, ints weights) {
#ifdef __aarch64__
    const int32x4_t low = vmull_s16(vget_low_s16((int16x8_t)values), vget_low_s16((int16x8_t)weights));
    const int32x4_t high = vmull_s16(vget_high_s16((int16x8_t)values), vget_high_s16((int16x8_t)weights));
    return sums + (ints)vpaddq_s32(low, high);
#else
    for (size_t i = 0; i < LANES; i++)
        sums[i] +=
            ((words)values)[2 * i] * ((words)weights)[2 * i] + ((words)values)[2 * i + 1] * ((words)weights)[2 * i + 1];
    return sums;
#endif
}

INLINE ints pair_of(const int8_t *v, const int8_t *other) {
    words pairs;
    for (size_t i = 0; i < LANES; i++)
        pairs[2 * i] = v[i], pairs[2 * i + 1] = other[i];
    return (ints)pairs;
}

INLINE void store_bytes(ints x, int8_t *out) {
    for (size_t i = 0; i < LANES; i++)
        out[i] = (int8_t)(x[i] & 0xFF);
}

#endif

INLINE void store_words(ints x, int16_t *out) {
    for (size_t i = 0; i < LANES; i++)
        out[i] = (int16_t)(x[i] & 0xFFFF);
}

INLINE ints larger_ints(ints a, ints b) {
#if LANES == 8
    return (ints)_mm256_max_epi32((__m256i)a, (__m256i)b);
#else
    const ints more = a > b;
    return (more & a) | (~more & b);
#endif
}

INLINE int32_t largest_int(ints x) {
    int32_t found = x[0];
    for (size_t i = 1; i < LANES; i++)
        found = x[i] > found ? x[i] : found;
    return found;
}

#endif

/* Of each of four vectors the largest lane. */
INLINE four_ints largest_of_each(const ints v[4]) {
    four_ints x[4], y[LANES / 4];
#pragma GCC unroll 4
    for (size_t n = 0; n < 4; n++) {
        memcpy(y, &v[n], sizeof y);
        for (size_t i = 1; i < LANES / 4; i++)
            y[0] = larger_four_ints(y[i], y[0]);
        x[n] = y[0];
    }
    const four_ints a = larger_four_ints(low_int_pairs(x[0], x[1]), high_int_pairs(x[0], x[1]));
    const four_ints b = larger_four_ints(low_int_pairs(x[2], x[3]), high_int_pairs(x[2], x[3]));
    return larger_four_ints(low_int_halves(a, b), high_int_halves(a, b));
}

/* Of each of four vectors the sum of its lanes. */
INLINE four_ints total_of_each(const ints v[4]) {
    four_ints x[4], y[LANES / 4];
#pragma GCC unroll 4
    for (size_t n = 0; n < 4; n++) {
        memcpy(y, &v[n], sizeof y);
        for (size_t i = 1; i < LANES / 4; i++)
            y[0] += y[i];
        x[n] = y[0];
    }
    const four_ints a = low_int_pairs(x[0], x[1]) + high_int_pairs(x[0], x[1]);
    const four_ints b = low_int_pairs(x[2], x[3]) + high_int_pairs(x[2], x[3]);
    return low_int_halves(a, b) + high_int_halves(a, b);
}
