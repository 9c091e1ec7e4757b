/* The tile instructions of kernels/amx_tiles.h in C, after Intel's description of them; a wrong use ends the test. */
#ifndef FORERUN_EMULATED_TILES_H
#define FORERUN_EMULATED_TILES_H

#include "check.h"

#include <stddef.h>

enum { TILE_ROWS = 16, TILE_BYTES = 64 };

static struct {
    int begun; /* how many times more than ended */
    size_t rows, inputs;
    int32_t sums[TILE_ROWS][TILE_BYTES / 4];
    int8_t codes[TILE_ROWS][TILE_BYTES];
    uint8_t weights[TILE_ROWS][TILE_BYTES];
} tiles;

static inline void tiles_begin(size_t rows, size_t inputs) {
    REQUIRE(tiles.begun == 0 && rows >= 1 && rows <= TILE_ROWS && (inputs == 32 || inputs == 64));
    memset(&tiles, 0x5A, sizeof tiles); /* nothing may be left from before */
    tiles.begun = 1;
    tiles.rows = rows;
    tiles.inputs = inputs;
}

static inline void tiles_end(void) {
    REQUIRE(tiles.begun == 1);
    tiles.begun = 0;
}

static inline void tile_clear_sums(void) {
    REQUIRE(tiles.begun == 1);
    memset(tiles.sums, 0, sizeof tiles.sums);
}

static inline void tile_load_rows(const int8_t *from, size_t stride) {
    REQUIRE(tiles.begun == 1);
    for (size_t row = 0; row < tiles.rows; row++)
        memcpy(tiles.codes[row], from + row * stride, tiles.inputs);
}

static inline void tile_load_weights(const uint8_t *from) {
    REQUIRE(tiles.begun == 1);
    memcpy(tiles.weights, from, tiles.inputs / 4 * TILE_BYTES);
}

static inline void tile_multiply(void) {
    REQUIRE(tiles.begun == 1);
    for (size_t row = 0; row < tiles.rows; row++)
        for (size_t four = 0; four < tiles.inputs / 4; four++)
            for (size_t n = 0; n < TILE_BYTES / 4; n++) {
                int32_t sum = 0;
                for (size_t j = 0; j < 4; j++)
                    sum += tiles.codes[row][4 * four + j] * tiles.weights[four][4 * n + j];
                tiles.sums[row][n] = (int32_t)((uint32_t)tiles.sums[row][n] + (uint32_t)sum);
            }
}

static inline void tile_store_sums(int32_t *to) {
    REQUIRE(tiles.begun == 1);
    memcpy(to, tiles.sums, tiles.rows * TILE_BYTES);
}

#endif
