/* AVX2: products of codes 0..15 by codes -127..127 in pairs of int16, at most 2 * 15 * 127. Eight of them, those of
 * half a block, are at most 30480: nothing saturates. */
#include "linear_paths.h"
#include "processor.h"

#if defined(__x86_64__)

#define TARGET __attribute__((target("avx2")))
#define DOT(part, w, a) _mm256_add_epi16(part, _mm256_maddubs_epi16(w, a))
#define WIDEN(part) _mm256_madd_epi16(part, _mm256_set1_epi16(1))
#include "int4_avx2_path.h"

const fr_linear_path fr_int4_avx2 = {
    .name = "avx2",
    .usable = fr_has_avx2,
    .format = &fr_linear_int4,
    .max_rows = MAX_ROWS,
    .steps = &fr_float_steps_avx2,
    .codes = &fr_row_codes_avx2,
    .multiply = multiply,
};

#endif
