/* AVX-512 as in attention_avx512.c, with its instructions for sums of products of bytes. */
#include "attention.h"
#include "processor.h"

#if defined(__x86_64__)

#include <immintrin.h>

#define LANES 16
#define TILE 4
#define TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma")))
#define MADD(a, b, c) ((vec)_mm512_fmadd_ps((__m512)(a), (__m512)(b), (__m512)(c)))
#define VNNI

#include "attention_path.h"

static int usable(void) {
    return fr_has_avx512_vnni() && __builtin_cpu_supports("fma");
}

const fr_attention_path fr_attention_avx512_vnni = PATH("avx512-vnni");

#endif
