/* Plain C: the definition, one row and one group at a time. */
#include "linear_paths.h"

#include <string.h>

enum { HALF = FR_LINEAR_INPUTS / 2, HALF_FOURS = HALF / 4 };

static int usable(void) {
    return 1;
}

static float widen(uint16_t bfloat16) {
    uint32_t bits = (uint32_t)bfloat16 << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* Adds 32 inputs, half a block, of which all bytes hold one in their low or high halves; `a` are the row's fours. */
static void add_half(const uint8_t *block, int shift, const int8_t *a, size_t stride, int32_t sums[FR_LINEAR_OUTPUTS]) {
    for (size_t i = 0; i < HALF_FOURS; i++)
        for (size_t n = 0; n < FR_LINEAR_OUTPUTS; n++)
            for (size_t j = 0; j < 4; j++)
                sums[n] += a[i * stride + j] * ((block[(i * FR_LINEAR_OUTPUTS + n) * 4 + j] >> shift & 15) - 8);
}

static void multiply(const fr_linear_column *column, const fr_linear_rows *rows, float *y, size_t stride) {
    const size_t halves = 2 * column->blocks, of_group = column->group_size / HALF;
    for (size_t row = 0; row < rows->count; row++) {
        float totals[FR_LINEAR_OUTPUTS] = {0};
        for (size_t group = 0; group < column->groups; group++) {
            const uint16_t *scales = (const uint16_t *)column->scales + group * FR_LINEAR_OUTPUTS;
            int32_t sums[FR_LINEAR_OUTPUTS] = {0};
            for (size_t half = group * of_group; half < halves && half < (group + 1) * of_group; half++)
                add_half(column->weights + half / 2 * fr_linear_int4.block_bytes, half % 2 ? 4 : 0,
                         rows->codes + (half * HALF_FOURS * rows->count + row) * 4, rows->count * 4, sums);
            for (size_t n = 0; n < FR_LINEAR_OUTPUTS; n++)
                totals[n] += (float)sums[n] * widen(scales[n]);
        }
        for (size_t n = 0; n < column->outputs; n++)
            y[row * stride + n] = totals[n] * rows->scales[row];
    }
}

const fr_linear_path fr_int4_portable = {
    .name = "portable",
    .usable = usable,
    .format = &fr_linear_int4,
    .max_rows = FR_LINEAR_MAX_ROWS,
    .steps = &fr_float_steps_portable,
    .codes = &fr_row_codes_portable,
    .multiply = multiply,
};
