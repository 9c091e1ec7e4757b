#include "linear_paths.h"

const fr_linear_format fr_linear_int8 = {.block_bytes = 1024, .scale_bytes = 4, .zero = 128};
const fr_linear_format fr_linear_int4 = {.block_bytes = 512, .scale_bytes = 2, .zero = 8};

/* Of one format the fastest first. */
static const fr_linear_path *const ALL[] = {
#if defined(__x86_64__) && defined(__linux__)
    &fr_int8_amx,      &fr_int4_amx,
#endif
#if defined(__x86_64__)
    &fr_int8_avx512,   &fr_int8_avxvnni,  &fr_int8_avx2, &fr_int4_avx512, &fr_int4_avxvnni, &fr_int4_avx2,
#elif defined(__aarch64__)
    &fr_int8_neon, &fr_int4_neon,
#endif
    &fr_int8_portable, &fr_int4_portable,
};

size_t fr_linear_paths(const fr_linear_format *format, const fr_linear_path *out[FR_LINEAR_MAX_PATHS]) {
    size_t count = 0;
    for (size_t i = 0; i < sizeof ALL / sizeof ALL[0]; i++)
        if (ALL[i]->format == format && ALL[i]->usable())
            out[count++] = ALL[i];
    return count;
}
