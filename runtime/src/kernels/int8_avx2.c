/* AVX2, and AVX2 with VNNI: four rows in one pass over a column of weights, the others while it is in the cache. */
#include "linear_int8.h"

#if defined(__x86_64__)

#include <immintrin.h>
#include <string.h>

#define AVX2 __attribute__((target("avx2")))
#define VNNI __attribute__((target("avx2,avxvnni")))
#define INLINE static inline __attribute__((always_inline))

enum { MAX_ROWS = 4, AHEAD = 8192 };

static int usable_avx2(void) {
    return __builtin_cpu_supports("avx2");
}

static int usable_vnni(void) {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("avxvnni");
}

/* All ones in the first `count` lanes. */
AVX2 INLINE __m256i first(size_t count) {
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(count < 8 ? (int)count : 8), lane);
}

AVX2 static uint32_t peak(const float *x, size_t k) {
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

AVX2 static int32_t encode(const float *x, size_t k, float inverse, int8_t *codes, size_t stride) {
    const __m256 factor = _mm256_set1_ps(inverse);
    /* The low bytes of the four values of each half, in the half's first four bytes. */
    const __m256i low = _mm256_set1_epi32(0x0C080400);
    size_t padded = (k + FR_INT8_INPUTS - 1) / FR_INT8_INPUTS * FR_INT8_INPUTS;
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

/* Eight sums of four products of one row; the weights are prepared once for all rows.
 * AVX2: |w| * sign(a, w) in pairs of int16, at most 2 * 128 * 127, so that nothing saturates. */
typedef struct loaded {
    __m256i codes, magnitudes;
} loaded;

AVX2 INLINE loaded load_avx2(const uint8_t *w) {
    __m256i stored = _mm256_loadu_si256((const __m256i *)(const void *)w);
    __m256i codes = _mm256_xor_si256(stored, _mm256_set1_epi8((char)0x80));
    return (loaded){codes, _mm256_abs_epi8(codes)};
}

AVX2 INLINE __m256i dot_avx2(__m256i sums, loaded weights, __m256i a) {
    __m256i pairs = _mm256_maddubs_epi16(weights.magnitudes, _mm256_sign_epi8(a, weights.codes));
    return _mm256_add_epi32(sums, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

VNNI INLINE loaded load_vnni(const uint8_t *w) {
    return (loaded){_mm256_loadu_si256((const __m256i *)(const void *)w), _mm256_setzero_si256()};
}

/* Unsigned by signed as they are: the sums begin at what 128 is too much. */
VNNI INLINE __m256i dot_vnni(__m256i sums, loaded weights, __m256i a) {
    return _mm256_dpbusd_avx_epi32(sums, weights.codes, a);
}

AVX2 INLINE void store(const fr_int8_out *out, size_t row, size_t half, __m256i sums, float row_scale) {
    if (out->outputs <= 8 * half)
        return;
    __m256i mask = first(out->outputs - 8 * half);
    __m256 scale = _mm256_mul_ps(_mm256_set1_ps(row_scale), _mm256_maskload_ps(out->weight_scales + 8 * half, mask));
    _mm256_maskstore_ps(out->y + row * out->stride + 8 * half, mask, _mm256_mul_ps(_mm256_cvtepi32_ps(sums), scale));
}

/* One body for both instruction sets; `count` is a constant where it is inlined, so that the sums stay in registers.
 * `offset` times a row's codes is what its sums begin with. */
#define DEFINE_PATH(NAME, TARGET, KIND, OFFSET)                                                                        \
    TARGET INLINE void NAME##_rows(const uint8_t *w, size_t blocks, const fr_int8_rows *rows, const fr_int8_out *out,  \
                                   size_t count) {                                                                     \
        __m256i sums[MAX_ROWS][2];                                                                                     \
        _Pragma("GCC unroll 4") for (size_t row = 0; row < count; row++) sums[row][0] = sums[row][1] =                 \
            _mm256_set1_epi32((OFFSET) * rows->sums[row]);                                                             \
        const int8_t *a = rows->codes;                                                                                 \
        for (size_t step = 0; step < blocks * 16; step++, w += 64, a += 4 * count) {                                   \
            const loaded low = load_##KIND(w), high = load_##KIND(w + 32);                                             \
            _mm_prefetch((const char *)w + AHEAD, _MM_HINT_T0);                                                        \
            _Pragma("GCC unroll 4") for (size_t row = 0; row < count; row++) {                                         \
                int32_t four;                                                                                          \
                memcpy(&four, a + 4 * row, 4);                                                                         \
                sums[row][0] = dot_##KIND(sums[row][0], low, _mm256_set1_epi32(four));                                 \
                sums[row][1] = dot_##KIND(sums[row][1], high, _mm256_set1_epi32(four));                                \
            }                                                                                                          \
        }                                                                                                              \
        _Pragma("GCC unroll 4") for (size_t row = 0; row < count; row++) for (size_t half = 0; half < 2; half++)       \
            store(out, row, half, sums[row][half], rows->scales[row]);                                                 \
    }                                                                                                                  \
    TARGET static void NAME(const uint8_t *w, size_t blocks, const fr_int8_rows *rows, const fr_int8_out *out) {       \
        switch (rows->count) {                                                                                         \
        case 1:                                                                                                        \
            NAME##_rows(w, blocks, rows, out, 1);                                                                      \
            break;                                                                                                     \
        case 2:                                                                                                        \
            NAME##_rows(w, blocks, rows, out, 2);                                                                      \
            break;                                                                                                     \
        case 3:                                                                                                        \
            NAME##_rows(w, blocks, rows, out, 3);                                                                      \
            break;                                                                                                     \
        case 4:                                                                                                        \
            NAME##_rows(w, blocks, rows, out, 4);                                                                      \
            break;                                                                                                     \
        }                                                                                                              \
    }

DEFINE_PATH(multiply_avx2, AVX2, avx2, 0)
DEFINE_PATH(multiply_vnni, VNNI, vnni, -128)

const fr_int8_path fr_int8_avxvnni = {"avx-vnni", usable_vnni, MAX_ROWS,     &fr_float_steps_avx2,
                                      peak,       encode,      multiply_vnni};
const fr_int8_path fr_int8_avx2 = {"avx2", usable_avx2, MAX_ROWS, &fr_float_steps_avx2, peak, encode, multiply_avx2};

#endif
