/* 64-bit ARM with the dot product instructions (ARMv8.2 SDOT): four rows in one pass over a column of weights. */
#include "constant_rows.h"
#include "linear_paths.h"
#include "processor.h"

#if defined(__aarch64__)

#include <arm_neon.h>
#include <string.h>

#define TARGET __attribute__((target("arch=armv8.2-a+dotprod")))
#define INLINE static inline __attribute__((always_inline)) TARGET

enum { MAX_ROWS = 4, AHEAD = 8192 };

INLINE void rows_of(const fr_linear_column *column, const fr_linear_rows *rows, float *y, size_t stride, size_t count) {
    int32x4_t sums[MAX_ROWS][4];
#pragma GCC unroll 4
    for (size_t row = 0; row < count; row++)
        sums[row][0] = sums[row][1] = sums[row][2] = sums[row][3] = vdupq_n_s32(0);
    const uint8_t *w = column->weights;
    const int8_t *a = rows->codes;
    for (size_t step = 0; step < column->blocks * 16; step++, w += 64, a += 4 * count) {
        __builtin_prefetch(w + AHEAD);
#pragma GCC unroll 4
        for (size_t quarter = 0; quarter < 4; quarter++) {
            int8x16_t weights = vreinterpretq_s8_u8(veorq_u8(vld1q_u8(w + 16 * quarter), vdupq_n_u8(0x80)));
#pragma GCC unroll 4
            for (size_t row = 0; row < count; row++) {
                int32_t four;
                memcpy(&four, a + 4 * row, 4);
                sums[row][quarter] = vdotq_s32(sums[row][quarter], weights, vreinterpretq_s8_s32(vdupq_n_s32(four)));
            }
        }
    }
    float scales[FR_LINEAR_OUTPUTS] = {0}, outputs[FR_LINEAR_OUTPUTS];
    memcpy(scales, column->scales, column->outputs * sizeof(float));
    for (size_t row = 0; row < count; row++) {
        for (size_t quarter = 0; quarter < 4; quarter++) {
            float32x4_t scale = vmulq_f32(vdupq_n_f32(rows->scales[row]), vld1q_f32(scales + 4 * quarter));
            vst1q_f32(outputs + 4 * quarter, vmulq_f32(vcvtq_f32_s32(sums[row][quarter]), scale));
        }
        memcpy(y + row * stride, outputs, column->outputs * sizeof(float));
    }
}

TARGET static void multiply(const fr_linear_column *column, const fr_linear_rows *rows, float *y, size_t stride) {
#define CALL(count) rows_of(column, rows, y, stride, count)
    FR_UP_TO_4_ROWS(rows->count, CALL);
#undef CALL
}

const fr_linear_path fr_int8_neon = {
    .name = "neon-dot",
    .usable = fr_has_neon_dot,
    .format = &fr_linear_int8,
    .max_rows = MAX_ROWS,
    .steps = &fr_float_steps_portable,
    .codes = &fr_row_codes_neon,
    .multiply = multiply,
};

#endif
