/* 64-bit ARM with the dot product instructions: four rows in one pass over a column of weights. Codes 0..15 are signed
 * bytes too; what their zero of 8 is too much, a group's sums begin with. */
#include "constant_rows.h"
#include "linear_paths.h"
#include "processor.h"

#if defined(__aarch64__)

#include <arm_neon.h>
#include <string.h>

#define TARGET __attribute__((target("arch=armv8.2-a+dotprod")))
#define INLINE static inline __attribute__((always_inline)) TARGET

enum { MAX_ROWS = 4, BLOCK = 512, HALF = 8 /* fours of inputs in half a block */, AHEAD = 8192 };

/* Adds the inputs in the low or the high halves of a block's bytes; `high` and `count` are constants where it is
 * inlined, so that the sums stay in registers. */
INLINE void add_half(const uint8_t *w, int high, const int8_t *a, size_t count, int32x4_t sums[MAX_ROWS][4]) {
    for (size_t i = 0; i < HALF; i++, w += 64, a += 4 * count) {
        if (!high)
            __builtin_prefetch(w + AHEAD);
#pragma GCC unroll 4
        for (size_t quarter = 0; quarter < 4; quarter++) {
            const uint8x16_t bytes = vld1q_u8(w + 16 * quarter);
            const uint8x16_t codes = high ? vshrq_n_u8(bytes, 4) : vandq_u8(bytes, vdupq_n_u8(15));
#pragma GCC unroll 4
            for (size_t row = 0; row < count; row++) {
                int32_t four;
                memcpy(&four, a + 4 * row, 4);
                sums[row][quarter] =
                    vdotq_s32(sums[row][quarter], vreinterpretq_s8_u8(codes), vreinterpretq_s8_s32(vdupq_n_s32(four)));
            }
        }
    }
}

INLINE void end_group(const uint16_t *scales, size_t count, int32x4_t sums[MAX_ROWS][4],
                      float32x4_t totals[MAX_ROWS][4]) {
    for (size_t quarter = 0; quarter < 4; quarter++) {
        const float32x4_t scale = vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(scales + 4 * quarter), 16));
        for (size_t row = 0; row < count; row++)
            totals[row][quarter] = vaddq_f32(totals[row][quarter], vmulq_f32(vcvtq_f32_s32(sums[row][quarter]), scale));
    }
}

INLINE void rows_of(const fr_linear_column *column, const fr_linear_rows *rows, float *y, size_t stride, size_t count) {
    const size_t halves = 2 * column->blocks, of_group = column->group_size / (FR_LINEAR_INPUTS / 2);
    float32x4_t totals[MAX_ROWS][4];
    const int8_t *a = rows->codes;
    for (size_t row = 0; row < count; row++)
        totals[row][0] = totals[row][1] = totals[row][2] = totals[row][3] = vdupq_n_f32(0.0f);
    for (size_t group = 0, half = 0; group < column->groups; group++) {
        int32x4_t sums[MAX_ROWS][4];
        for (size_t row = 0; row < count; row++)
            sums[row][0] = sums[row][1] = sums[row][2] = sums[row][3] = vdupq_n_s32(rows->offsets[group * count + row]);
        for (size_t i = 0; i < of_group && half < halves; i++, half++, a += 4 * HALF * count)
            if (half % 2 == 0)
                add_half(column->weights + half / 2 * BLOCK, 0, a, count, sums);
            else
                add_half(column->weights + half / 2 * BLOCK, 1, a, count, sums);
        end_group((const uint16_t *)column->scales + group * FR_LINEAR_OUTPUTS, count, sums, totals);
    }
    for (size_t row = 0; row < count; row++) {
        float outputs[FR_LINEAR_OUTPUTS];
        for (size_t quarter = 0; quarter < 4; quarter++)
            vst1q_f32(outputs + 4 * quarter, vmulq_n_f32(totals[row][quarter], rows->scales[row]));
        memcpy(y + row * stride, outputs, column->outputs * sizeof(float));
    }
}

TARGET static void multiply(const fr_linear_column *column, const fr_linear_rows *rows, float *y, size_t stride) {
#define CALL(count) rows_of(column, rows, y, stride, count)
    FR_UP_TO_4_ROWS(rows->count, CALL);
#undef CALL
}

const fr_linear_path fr_int4_neon = {
    .name = "neon-dot",
    .usable = fr_has_neon_dot,
    .format = &fr_linear_int4,
    .max_rows = MAX_ROWS,
    .steps = &fr_float_steps_portable,
    .codes = &fr_row_codes_neon,
    .multiply = multiply,
};

#endif
