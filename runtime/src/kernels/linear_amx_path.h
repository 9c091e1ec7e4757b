/* The products of both formats on the matrix units. Included by the file of the paths, and by the test, which define
 * before TARGET, the attribute of functions, and what amx_tiles.h does. A block of int8 weights is a tile as it lies;
 * one of int4 is unpacked to bytes first. Weights stay unsigned, and the sums' offsets make up for their zero. */
#include "linear_paths.h"

#include <string.h>

enum { ROWS = FR_LINEAR_MAX_ROWS, LANES = FR_LINEAR_OUTPUTS, AHEAD = 8192 };

#define INLINE static inline __attribute__((always_inline)) TARGET

typedef uint8_t bytes __attribute__((vector_size(4 * LANES)));
typedef int32_t ints __attribute__((vector_size(4 * LANES)));
typedef float floats __attribute__((vector_size(4 * LANES)));
typedef uint16_t shorts __attribute__((vector_size(2 * LANES)));
typedef uint32_t bits __attribute__((vector_size(4 * LANES)));

/* So that both formats begin alike: tiles of 64 inputs, but of 32 where a group is no longer. */
TARGET static void enter(size_t rows, size_t group_size) {
    tiles_begin(rows, group_size == FR_LINEAR_INPUTS / 2 ? FR_LINEAR_INPUTS / 2 : FR_LINEAR_INPUTS);
}

TARGET static void leave(void) {
    tiles_end();
}

INLINE void prefetch(const uint8_t *block, size_t size) {
    for (size_t i = 0; i < size; i += 64)
        __builtin_prefetch(block + i + AHEAD);
}

TARGET static void multiply_int8(const fr_linear_column *column, const fr_linear_rows *rows, float *y, size_t stride) {
    const size_t padded = column->blocks * FR_LINEAR_INPUTS;
    const float *scales = column->scales;
    int32_t sums[ROWS][LANES];
    tile_clear_sums();
    for (size_t block = 0; block < column->blocks; block++) {
        const uint8_t *weights = column->weights + block * 1024;
        prefetch(weights, 1024);
        tile_load_rows(rows->codes + block * FR_LINEAR_INPUTS, padded);
        tile_load_weights(weights);
        tile_multiply();
    }
    tile_store_sums(sums[0]);
    for (size_t row = 0; row < rows->count; row++)
        for (size_t n = 0; n < column->outputs; n++) {
            const int32_t sum = (int32_t)((uint32_t)sums[row][n] + (uint32_t)rows->offsets[row]);
            y[row * stride + n] = (float)sum * (rows->scales[row] * scales[n]);
        }
}

/* Half a block of int4: its low or its high codes as bytes. */
INLINE void unpack(const uint8_t *block, int high, uint8_t *to) {
    for (size_t i = 0; i < 8; i++) {
        bytes packed;
        memcpy(&packed, block + i * sizeof packed, sizeof packed);
        packed = (high ? packed >> 4 : packed) & 15;
        memcpy(to + i * sizeof packed, &packed, sizeof packed);
    }
}

INLINE void end_group(const uint16_t *scales, const int32_t *offsets, size_t count, floats totals[ROWS]) {
    int32_t sums[ROWS][LANES];
    shorts stored;
    memcpy(&stored, scales, sizeof stored);
    const floats scale = (floats)(__builtin_convertvector(stored, bits) << 16); /* from bfloat16 */
    tile_store_sums(sums[0]);
    for (size_t row = 0; row < count; row++) {
        ints sum;
        memcpy(&sum, sums[row], sizeof sum);
        totals[row] += __builtin_convertvector(sum + offsets[row], floats) * scale;
    }
}

/* One step is what a tile holds: a block, or half of one where groups are no longer. */
TARGET static void multiply_int4(const fr_linear_column *column, const fr_linear_rows *rows, float *y, size_t stride) {
    const size_t padded = column->blocks * FR_LINEAR_INPUTS, inputs = column->group_size == 32 ? 32 : 64;
    const size_t of_group = column->group_size / inputs, steps = padded / inputs;
    floats totals[ROWS] = {{0}};
    for (size_t group = 0, step = 0; group < column->groups; group++) {
        tile_clear_sums();
        for (size_t i = 0; i < of_group && step < steps; i++, step++) {
            const uint8_t *block = column->weights + step * inputs / FR_LINEAR_INPUTS * 512;
            uint8_t codes[1024] __attribute__((aligned(64)));
            if (inputs == 64 || step % 2 == 0)
                prefetch(block, 512);
            unpack(block, inputs == 32 && step % 2 == 1, codes);
            if (inputs == 64)
                unpack(block, 1, codes + 512);
            tile_load_rows(rows->codes + step * inputs, padded);
            tile_load_weights(codes);
            tile_multiply();
        }
        end_group((const uint16_t *)column->scales + group * LANES, rows->offsets + group * rows->count, rows->count,
                  totals);
    }
    for (size_t row = 0; row < rows->count; row++) {
        const floats outputs = totals[row] * rows->scales[row];
        memcpy(y + row * stride, &outputs, column->outputs * sizeof(float));
    }
}
