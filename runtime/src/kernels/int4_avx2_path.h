/* Int4 products in 256-bit vectors: four rows in one pass over a column of weights, the others while it is in the
 * cache.
 *
 * Included by the files of the paths, which define before: TARGET, the attribute of its functions; DOT(part, w, a),
 * part plus the products of unsigned codes w by signed ones a, in lanes that hold those of half a block; WIDEN(part),
 * such lanes as eight int32. */

#include "constant_rows.h"

#include <immintrin.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline)) TARGET

enum { MAX_ROWS = 4, BLOCK = 512, HALF = 8 /* fours of inputs in half a block */, AHEAD = 8192 };

INLINE __m256i codes_of(const uint8_t *w, int high) {
    __m256i bytes = _mm256_loadu_si256((const __m256i *)(const void *)w);
    return _mm256_and_si256(high ? _mm256_srli_epi16(bytes, 4) : bytes, _mm256_set1_epi8(15));
}

/* Adds the inputs in the low or the high halves of a block's bytes; `high`, `count` and `chains` are constants where it
 * is inlined. Few rows are spread over two parts each, so that a part is not waited for. */
INLINE void add_half(const uint8_t *w, int high, const int8_t *a, size_t count, size_t chains,
                     __m256i sums[MAX_ROWS][2]) {
    __m256i parts[2][MAX_ROWS][2];
#pragma GCC unroll 2
    for (size_t chain = 0; chain < chains; chain++)
#pragma GCC unroll 4
        for (size_t row = 0; row < count; row++)
            parts[chain][row][0] = parts[chain][row][1] = _mm256_setzero_si256();
#pragma GCC unroll 8
    for (size_t i = 0; i < HALF; i++, a += 4 * count) {
        const __m256i first = codes_of(w + 64 * i, high), second = codes_of(w + 64 * i + 32, high);
        if (!high)
            _mm_prefetch((const char *)w + 64 * i + AHEAD, _MM_HINT_T0);
#pragma GCC unroll 4
        for (size_t row = 0; row < count; row++) {
            int32_t four;
            memcpy(&four, a + 4 * row, 4);
            __m256i *part = parts[i % chains][row];
            part[0] = DOT(part[0], first, _mm256_set1_epi32(four));
            part[1] = DOT(part[1], second, _mm256_set1_epi32(four));
        }
    }
#pragma GCC unroll 2
    for (size_t chain = 0; chain < chains; chain++)
#pragma GCC unroll 4
        for (size_t row = 0; row < count; row++) {
            sums[row][0] = _mm256_add_epi32(sums[row][0], WIDEN(parts[chain][row][0]));
            sums[row][1] = _mm256_add_epi32(sums[row][1], WIDEN(parts[chain][row][1]));
        }
}

INLINE __m256 from_bfloat16(const uint16_t *scales) {
    __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(const void *)scales));
    return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}

INLINE void end_group(const uint16_t *scales, size_t count, __m256i sums[MAX_ROWS][2], __m256 totals[MAX_ROWS][2]) {
    for (size_t side = 0; side < 2; side++) {
        const __m256 scale = from_bfloat16(scales + 8 * side);
        for (size_t row = 0; row < count; row++)
            totals[row][side] =
                _mm256_add_ps(totals[row][side], _mm256_mul_ps(_mm256_cvtepi32_ps(sums[row][side]), scale));
    }
}

INLINE void store_row(__m256 totals[2], float scale, size_t outputs, float *y) {
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    for (size_t side = 0; side < 2 && outputs > 8 * side; side++) {
        const __m256i there = _mm256_cmpgt_epi32(_mm256_set1_epi32((int)(outputs - 8 * side)), lane);
        _mm256_maskstore_ps(y + 8 * side, there, _mm256_mul_ps(totals[side], _mm256_set1_ps(scale)));
    }
}

INLINE void rows_of(const fr_linear_column *column, const fr_linear_rows *rows, float *y, size_t stride, size_t count,
                    size_t chains) {
    const size_t halves = 2 * column->blocks, of_group = column->group_size / (FR_LINEAR_INPUTS / 2);
    __m256 totals[MAX_ROWS][2] = {{_mm256_setzero_ps()}};
    const int8_t *a = rows->codes;
    for (size_t group = 0, half = 0; group < column->groups; group++) {
        __m256i sums[MAX_ROWS][2];
        for (size_t row = 0; row < count; row++)
            sums[row][0] = sums[row][1] = _mm256_set1_epi32(rows->offsets[group * count + row]);
        for (size_t i = 0; i < of_group && half < halves; i++, half++, a += 4 * HALF * count)
            if (half % 2 == 0)
                add_half(column->weights + half / 2 * BLOCK, 0, a, count, chains, sums);
            else
                add_half(column->weights + half / 2 * BLOCK, 1, a, count, chains, sums);
        end_group((const uint16_t *)column->scales + group * FR_LINEAR_OUTPUTS, count, sums, totals);
    }
    for (size_t row = 0; row < count; row++)
        store_row(totals[row], rows->scales[row], column->outputs, y + row * stride);
}

TARGET static void multiply(const fr_linear_column *column, const fr_linear_rows *rows, float *y, size_t stride) {
#define CALL(count) rows_of(column, rows, y, stride, count, (count) <= 2 ? 2 : 1)
    FR_UP_TO_4_ROWS(rows->count, CALL);
#undef CALL
}
