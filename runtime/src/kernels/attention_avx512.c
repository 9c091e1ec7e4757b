/* AVX-512: sixteen sums in registers, four of keys or values by four of rows. */
#include "attention.h"

#if defined(__x86_64__)

#include <immintrin.h>

#define LANES 16
#define TILE 4
#define TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,fma")))
#define MADD(a, b, c) ((vec)_mm512_fmadd_ps((__m512)(a), (__m512)(b), (__m512)(c)))

#include "attention_path.h"

static int usable(void) {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("fma");
}

const fr_attention_path fr_attention_avx512 = PATH("avx512");

#endif
