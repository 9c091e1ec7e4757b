#define _DEFAULT_SOURCE /* syscall */
/* The matrix units, AMX-INT8. No machine of this project's has them: the kernels were tested on an emulation of the
 * tiles in C, the instructions themselves only assembled. So a process uses this path only after a small product of
 * both formats gave the bits of the portable path. */
#include "linear_paths.h"

#if defined(__x86_64__) && defined(__linux__)

#define TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")))
#include "amx_tiles.h"
#include "linear_amx_path.h"
#include "processor.h"

#include <stdatomic.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Linux saves tiles only for a process that asked to use them: arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA). */
static int tiles_granted(void) {
    enum { REQUEST = 0x1023, TILE_DATA = 18 };
    return syscall(SYS_arch_prctl, REQUEST, TILE_DATA) == 0;
}

enum { CHECK_ROWS = 3, CHECK_N = 32, CHECK_K = 200, CHECK_SCRATCH = 8192 };

/* Both formats' products of numbers without a pattern; y is [CHECK_ROWS][CHECK_N]. */
static void small_product(const fr_linear_path *path, size_t group_size, float *y) {
    uint8_t weights[CHECK_N / LANES * (CHECK_K / FR_LINEAR_INPUTS + 1) * 1024], scratch[CHECK_SCRATCH];
    float x[CHECK_ROWS * CHECK_K], scales[CHECK_N];
    uint16_t short_scales[CHECK_N * (CHECK_K / 32 + 1)];
    uint32_t random = 1;
    for (size_t i = 0; i < sizeof weights; i++)
        weights[i] = (uint8_t)((random = random * 1664525u + 1013904223u) >> 24); /* Numerical Recipes' generator */
    for (size_t i = 0; i < CHECK_ROWS * CHECK_K; i++)
        x[i] = (float)((random = random * 1664525u + 1013904223u) >> 8) - 8388608.0f;
    for (size_t i = 0; i < CHECK_N; i++)
        scales[i] = 1.0f + (float)i;
    for (size_t i = 0; i < sizeof short_scales / sizeof *short_scales; i++)
        short_scales[i] = (uint16_t)(0x3F80 + i % 128); /* 1 to 2 */
    fr_linear job = {.path = path,
                     .x = x,
                     .weights = weights,
                     .weight_scales = group_size == 0 ? (const void *)scales : short_scales,
                     .y = y,
                     .rows = CHECK_ROWS,
                     .n = CHECK_N,
                     .k = CHECK_K,
                     .group_size = group_size,
                     .scratch = scratch};
    memset(y, 0, CHECK_ROWS * CHECK_N * sizeof *y);
    if (fr_linear_scratch(&job) > sizeof scratch)
        return; /* y then differs from the other path's */
    for (size_t part = fr_linear_begin(&job); part > 0; part--)
        fr_linear_part(&job, part - 1);
}

static int as_portable(const fr_linear_path *path, const fr_linear_path *portable, size_t group_size) {
    float found[CHECK_ROWS * CHECK_N], expected[CHECK_ROWS * CHECK_N];
    small_product(path, group_size, found);
    small_product(portable, group_size, expected);
    return memcmp(found, expected, sizeof found) == 0;
}

/* Asked once; threads that come at the same time find the same. */
static int usable(void) {
    enum { UNKNOWN, NO, YES };
    static atomic_int known = UNKNOWN;
    int state = atomic_load(&known);
    if (state == UNKNOWN) {
        /* The compiler's function asks the processor and whether the system keeps tiles at all. */
        const int there = fr_has_avx512_vnni() && __builtin_cpu_supports("amx-tile") &&
                          __builtin_cpu_supports("amx-int8") && tiles_granted();
        state = there && as_portable(&fr_int8_amx, &fr_int8_portable, 0) &&
                        as_portable(&fr_int4_amx, &fr_int4_portable, 32) &&
                        as_portable(&fr_int4_amx, &fr_int4_portable, 128)
                    ? YES
                    : NO;
        atomic_store(&known, state);
    }
    return state == YES;
}

/* Of one and two rows VNNI takes less time: unpacking and tiles cost the same for one row as for sixteen. */
enum { MIN_ROWS = 3 };

const fr_linear_path fr_int8_amx = {
    .name = "amx-int8",
    .usable = usable,
    .format = &fr_linear_int8,
    .max_rows = ROWS,
    .min_rows = MIN_ROWS,
    .fewer = &fr_int8_avx512,
    .row_major = 1,
    .enter = enter,
    .leave = leave,
    .steps = &fr_float_steps_avx512,
    .codes = &fr_row_codes_avx512,
    .multiply = multiply_int8,
};

const fr_linear_path fr_int4_amx = {
    .name = "amx-int8",
    .usable = usable,
    .format = &fr_linear_int4,
    .max_rows = ROWS,
    .min_rows = MIN_ROWS,
    .fewer = &fr_int4_avx512,
    .row_major = 1,
    .enter = enter,
    .leave = leave,
    .steps = &fr_float_steps_avx512,
    .codes = &fr_row_codes_avx512,
    .multiply = multiply_int4,
};

#endif
