/* AVX2 with fused multiply and add: eight sums in registers, two of keys or values by four of rows. */
#include "attention.h"

#if defined(__x86_64__)

#include <immintrin.h>

#define LANES 8
#define TILE 2
#define TARGET __attribute__((target("avx2,fma")))
#define MADD(a, b, c) ((vec)_mm256_fmadd_ps((__m256)(a), (__m256)(b), (__m256)(c)))

#include "attention_path.h"

static int usable(void) {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

const fr_attention_path fr_attention_avx2 = PATH("avx2");

#endif
