/* AVX-512 with VNNI: the halves of a vector's bytes are two vectors of unsigned codes, which VPDPBUSD takes as they
 * are; what their zero of 8 is too much, a group's sums begin with. Up to sixteen rows in one pass over the weights. */
#include "constant_rows.h"
#include "linear_paths.h"
#include "processor.h"

#if defined(__x86_64__)

#define TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")))
#define INLINE static inline __attribute__((always_inline)) TARGET
#include "vnni_avx512.h"

enum {
    MAX_ROWS = FR_LINEAR_MAX_ROWS,
    BLOCK = 512,
    HALF = 8, /* fours of inputs in half a block, and vectors of a block */
    AHEAD = 8192
};

INLINE __m512i low_codes(__m512i bytes) {
    return _mm512_and_si512(bytes, _mm512_set1_epi8(15));
}

INLINE __m512i high_codes(__m512i bytes) {
    return _mm512_and_si512(_mm512_srli_epi16(bytes, 4), _mm512_set1_epi8(15));
}

/* `count`, `chains` and `low` are constants where these are inlined: the sums then stay in registers.
 * Few rows are spread over several sums each, so that a sum is not waited for. */
INLINE void add_block(const uint8_t *w, const int8_t *a, size_t count, size_t chains, __m512i sums[4][MAX_ROWS]) {
#pragma GCC unroll 8
    for (size_t i = 0; i < HALF; i++) {
        __m512i bytes = _mm512_loadu_si512(w + 64 * i);
        _mm_prefetch((const char *)w + 64 * i + AHEAD, _MM_HINT_T0);
        add_four(low_codes(bytes), a + 4 * count * i, count, sums[2 * i % chains]);
        add_four(high_codes(bytes), a + 4 * count * (i + HALF), count, sums[(2 * i + 1) % chains]);
    }
}

INLINE void add_half(const uint8_t *w, const int8_t *a, int low, size_t count, size_t chains,
                     __m512i sums[4][MAX_ROWS]) {
#pragma GCC unroll 8
    for (size_t i = 0; i < HALF; i++) {
        __m512i bytes = _mm512_loadu_si512(w + 64 * i);
        if (low)
            _mm_prefetch((const char *)w + 64 * i + AHEAD, _MM_HINT_T0);
        add_four(low ? low_codes(bytes) : high_codes(bytes), a + 4 * count * i, count, sums[i % chains]);
    }
}

INLINE void begin_group(const int32_t *offsets, size_t count, size_t chains, __m512i sums[4][MAX_ROWS]) {
#pragma GCC unroll 16
    for (size_t row = 0; row < count; row++) {
        sums[0][row] = _mm512_set1_epi32(offsets[row]);
#pragma GCC unroll 4
        for (size_t chain = 1; chain < chains; chain++)
            sums[chain][row] = _mm512_setzero_si512();
    }
}

INLINE void end_group(const uint16_t *scales, size_t count, size_t chains, __m512i sums[4][MAX_ROWS],
                      __m512 totals[MAX_ROWS]) {
    __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(const void *)scales));
    __m512 scale = _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16)); /* from bfloat16 */
#pragma GCC unroll 16
    for (size_t row = 0; row < count; row++) {
#pragma GCC unroll 4
        for (size_t chain = 1; chain < chains; chain++)
            sums[0][row] = _mm512_add_epi32(sums[0][row], sums[chain][row]);
        totals[row] = _mm512_add_ps(totals[row], _mm512_mul_ps(_mm512_cvtepi32_ps(sums[0][row]), scale));
    }
}

/* Groups of whole blocks. */
INLINE void long_groups(const fr_linear_column *column, const fr_linear_rows *rows, size_t count, size_t chains,
                        __m512 totals[MAX_ROWS]) {
    const uint8_t *w = column->weights;
    const int8_t *a = rows->codes;
    const size_t of_group = column->group_size / FR_LINEAR_INPUTS;
    for (size_t group = 0, left = column->blocks; group < column->groups; group++) {
        __m512i sums[4][MAX_ROWS];
        begin_group(rows->offsets + group * count, count, chains, sums);
        for (size_t i = left < of_group ? left : of_group; i > 0; i--, left--, w += BLOCK, a += 64 * count)
            add_block(w, a, count, chains, sums);
        end_group((const uint16_t *)column->scales + group * 16, count, chains, sums, totals);
    }
}

/* Groups of half a block: a vector's low halves, then its high halves, unless the row ends before. */
INLINE void short_groups(const fr_linear_column *column, const fr_linear_rows *rows, size_t count, size_t chains,
                         __m512 totals[MAX_ROWS]) {
    const uint8_t *w = column->weights;
    const int8_t *a = rows->codes;
    const uint16_t *scales = column->scales;
    const int32_t *offsets = rows->offsets;
    for (size_t left = column->groups; left > 0; left -= 2) {
        __m512i sums[4][MAX_ROWS];
        begin_group(offsets, count, chains, sums);
        add_half(w, a, 1, count, chains, sums);
        end_group(scales, count, chains, sums, totals);
        if (left == 1)
            break;
        begin_group(offsets + count, count, chains, sums);
        add_half(w, a + 32 * count, 0, count, chains, sums);
        end_group(scales + 16, count, chains, sums, totals);
        w += BLOCK, a += 64 * count, scales += 32, offsets += 2 * count;
    }
}

INLINE void rows_of(const fr_linear_column *column, const fr_linear_rows *rows, float *y, size_t stride, size_t count,
                    size_t chains) {
    __m512 totals[MAX_ROWS];
#pragma GCC unroll 16
    for (size_t row = 0; row < count; row++)
        totals[row] = _mm512_setzero_ps();
    if (column->group_size < FR_LINEAR_INPUTS)
        short_groups(column, rows, count, chains, totals);
    else
        long_groups(column, rows, count, chains, totals);
    const __mmask16 mask = (__mmask16)((1u << column->outputs) - 1u);
#pragma GCC unroll 16
    for (size_t row = 0; row < count; row++)
        _mm512_mask_storeu_ps(y + row * stride, mask, _mm512_mul_ps(totals[row], _mm512_set1_ps(rows->scales[row])));
}

TARGET static void multiply(const fr_linear_column *column, const fr_linear_rows *rows, float *y, size_t stride) {
#define CALL(count) rows_of(column, rows, y, stride, count, (count) <= 3 ? 4 : (count) <= 8 ? 2 : 1)
    FR_UP_TO_16_ROWS(rows->count, CALL);
#undef CALL
}

const fr_linear_path fr_int4_avx512 = {
    .name = "avx512-vnni",
    .usable = fr_has_avx512_vnni,
    .format = &fr_linear_int4,
    .max_rows = MAX_ROWS,
    .steps = &fr_float_steps_avx512,
    .codes = &fr_row_codes_avx512,
    .multiply = multiply,
};

#endif
