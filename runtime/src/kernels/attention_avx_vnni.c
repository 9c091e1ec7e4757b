/* AVX2 as in attention_avx2.c, with the later instructions for sums of products of bytes. */
#include "attention.h"
#include "processor.h"

#if defined(__x86_64__)

#include <immintrin.h>

#define LANES 8
#define TILE 2
#define TARGET __attribute__((target("avx2,fma,avxvnni")))
#define MADD(a, b, c) ((vec)_mm256_fmadd_ps((__m256)(a), (__m256)(b), (__m256)(c)))
#define VNNI

#include "attention_path.h"

static int usable(void) {
    return fr_has_avx_vnni() && __builtin_cpu_supports("fma");
}

const fr_attention_path fr_attention_avx_vnni = PATH("avx-vnni");

#endif
