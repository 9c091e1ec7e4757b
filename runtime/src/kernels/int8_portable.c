/* Plain C: the definition, one row at a time. */
#include "linear_paths.h"

static int usable(void) {
    return 1;
}

static void multiply(const fr_linear_column *column, const fr_linear_rows *rows, float *y, size_t stride) {
    const float *scales = column->scales;
    for (size_t row = 0; row < rows->count; row++) {
        int32_t sums[FR_LINEAR_OUTPUTS] = {0};
        for (size_t i = 0; i < column->blocks * (FR_LINEAR_INPUTS / 4); i++) {
            const int8_t *a = rows->codes + (i * rows->count + row) * 4;
            const uint8_t *w = column->weights + i * 4 * FR_LINEAR_OUTPUTS;
            for (size_t n = 0; n < FR_LINEAR_OUTPUTS; n++)
                for (size_t j = 0; j < 4; j++)
                    sums[n] += a[j] * (w[4 * n + j] - 128);
        }
        for (size_t n = 0; n < column->outputs; n++)
            y[row * stride + n] = (float)sums[n] * (rows->scales[row] * scales[n]);
    }
}

const fr_linear_path fr_int8_portable = {
    .name = "portable",
    .usable = usable,
    .format = &fr_linear_int8,
    .max_rows = FR_LINEAR_MAX_ROWS,
    .steps = &fr_float_steps_portable,
    .codes = &fr_row_codes_portable,
    .multiply = multiply,
};
