/* AVX2 with VNNI, which takes unsigned codes by signed ones as they are. */
#include "linear_paths.h"
#include "processor.h"

#if defined(__x86_64__)

#define TARGET __attribute__((target("avx2,avxvnni")))
#define DOT(part, w, a) _mm256_dpbusd_avx_epi32(part, w, a)
#define WIDEN(part) (part)
#include "int4_avx2_path.h"

const fr_linear_path fr_int4_avxvnni = {
    .name = "avx-vnni",
    .usable = fr_has_avx_vnni,
    .format = &fr_linear_int4,
    .max_rows = MAX_ROWS,
    .steps = &fr_float_steps_avx2,
    .codes = &fr_row_codes_avx2,
    .multiply = multiply,
};

#endif
