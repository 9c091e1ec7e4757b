/* The matrix units' instructions (AMX-TILE and AMX-INT8) that linear_amx_path.h is written in, on tiles of at most 16
 * rows of 64 bytes. In assembly, since the compiler's own tile loads do not tell it that they read memory: it could
 * leave out what was written before.
 *
 * Three tiles: SUMS int32 [rows][16], ROWS int8 [rows][inputs], WEIGHTS uint8 [inputs / 4][16][4]. */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* Sets the sizes of the tiles of this thread, `rows` up to 16 and `inputs` 32 or 64. */
static inline void tiles_begin(size_t rows, size_t inputs) {
    struct {
        uint8_t palette, start, reserved[14];
        uint16_t row_bytes[16];
        uint8_t rows[16];
    } config = {.palette = 1};
    config.rows[0] = config.rows[1] = (uint8_t)rows;
    config.rows[2] = (uint8_t)(inputs / 4);
    config.row_bytes[0] = config.row_bytes[2] = 64;
    config.row_bytes[1] = (uint16_t)inputs;
    __asm__ volatile("ldtilecfg %0" : : "m"(config));
}

/* Gives them back: a thread with tiles in use has 8 KB more to be saved at each switch. */
static inline void tiles_end(void) {
    __asm__ volatile("tilerelease");
}

static inline void tile_clear_sums(void) {
    __asm__ volatile("tilezero %tmm0");
}

static inline void tile_load_rows(const int8_t *from, size_t stride) {
    __asm__ volatile("tileloadd (%0,%1,1), %%tmm1" : : "r"(from), "r"(stride) : "memory");
}

static inline void tile_load_weights(const uint8_t *from) {
    __asm__ volatile("tileloadd (%0,%1,1), %%tmm2" : : "r"(from), "r"((size_t)64) : "memory");
}

/* SUMS += ROWS (signed) times WEIGHTS (unsigned), modulo 2^32. */
static inline void tile_multiply(void) {
    __asm__ volatile("tdpbsud %tmm2, %tmm1, %tmm0");
}

static inline void tile_store_sums(int32_t *to) {
    __asm__ volatile("tilestored %%tmm0, (%0,%1,1)" : : "r"(to), "r"((size_t)64) : "memory");
}
