/* AVX2, and AVX2 with VNNI: four rows in one pass over a column of weights, the others while it is in the cache. */
#include "constant_rows.h"
#include "linear_paths.h"
#include "processor.h"

#if defined(__x86_64__)

#include <immintrin.h>
#include <string.h>

#define AVX2 __attribute__((target("avx2")))
#define VNNI __attribute__((target("avx2,avxvnni")))
#define INLINE static inline __attribute__((always_inline))

enum { MAX_ROWS = 4, AHEAD = 8192 };

/* All ones in the first `count` lanes. */
AVX2 INLINE __m256i first(size_t count) {
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(count < 8 ? (int)count : 8), lane);
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

/* Writes y[n] of a row, of those of its two halves of outputs that there are. */
AVX2 INLINE void store(const fr_linear_column *column, size_t half, __m256i sums, float row_scale, float *y) {
    if (column->outputs <= 8 * half)
        return;
    const float *scales = column->scales;
    __m256i mask = first(column->outputs - 8 * half);
    __m256 scale = _mm256_mul_ps(_mm256_set1_ps(row_scale), _mm256_maskload_ps(scales + 8 * half, mask));
    _mm256_maskstore_ps(y + 8 * half, mask, _mm256_mul_ps(_mm256_cvtepi32_ps(sums), scale));
}

/* One body for both instruction sets; `count` is a constant where it is inlined, so that the sums stay in registers.
 * OFFSET is what a row's sums begin with. */
#define DEFINE_ROWS(NAME, TARGET, KIND, OFFSET)                                                                        \
    TARGET INLINE void NAME(const fr_linear_column *column, const fr_linear_rows *rows, float *y, size_t stride,       \
                            size_t count) {                                                                            \
        __m256i sums[MAX_ROWS][2];                                                                                     \
        _Pragma("GCC unroll 4") for (size_t row = 0; row < count; row++) sums[row][0] = sums[row][1] =                 \
            _mm256_set1_epi32(OFFSET);                                                                                 \
        const uint8_t *w = column->weights;                                                                            \
        const int8_t *a = rows->codes;                                                                                 \
        for (size_t step = 0; step < column->blocks * 16; step++, w += 64, a += 4 * count) {                           \
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
            store(column, half, sums[row][half], rows->scales[row], y + row * stride);                                 \
    }

DEFINE_ROWS(rows_avx2, AVX2, avx2, 0)
DEFINE_ROWS(rows_vnni, VNNI, vnni, rows->offsets[row])

AVX2 static void multiply_avx2(const fr_linear_column *column, const fr_linear_rows *rows, float *y, size_t stride) {
#define CALL(count) rows_avx2(column, rows, y, stride, count)
    FR_UP_TO_4_ROWS(rows->count, CALL);
#undef CALL
}

VNNI static void multiply_vnni(const fr_linear_column *column, const fr_linear_rows *rows, float *y, size_t stride) {
#define CALL(count) rows_vnni(column, rows, y, stride, count)
    FR_UP_TO_4_ROWS(rows->count, CALL);
#undef CALL
}

const fr_linear_path fr_int8_avxvnni = {
    .name = "avx-vnni",
    .usable = fr_has_avx_vnni,
    .format = &fr_linear_int8,
    .max_rows = MAX_ROWS,
    .steps = &fr_float_steps_avx2,
    .codes = &fr_row_codes_avx2,
    .multiply = multiply_vnni,
};

const fr_linear_path fr_int8_avx2 = {
    .name = "avx2",
    .usable = fr_has_avx2,
    .format = &fr_linear_int8,
    .max_rows = MAX_ROWS,
    .steps = &fr_float_steps_avx2,
    .codes = &fr_row_codes_avx2,
    .multiply = multiply_avx2,
};

#endif
