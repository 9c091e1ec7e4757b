/* Which instructions this processor has, for the paths of the products. */
#ifndef FORERUN_PROCESSOR_H
#define FORERUN_PROCESSOR_H

#if defined(__x86_64__)

static inline int fr_has_avx512_vnni(void) {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512vnni");
}

static inline int fr_has_avx2(void) {
    return __builtin_cpu_supports("avx2");
}

static inline int fr_has_avx_vnni(void) {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("avxvnni");
}

#elif defined(__aarch64__)

#ifdef __linux__
#include <sys/auxv.h>
#endif

/* The dot product instructions, ARMv8.2 SDOT. */
static inline int fr_has_neon_dot(void) {
#ifdef __linux__
    const unsigned long dot_product = 1ul << 20; /* HWCAP_ASIMDDP of the kernel's interface */
    return (getauxval(AT_HWCAP) & dot_product) != 0;
#else
    return 0; /* no way to ask */
#endif
}

#endif

#endif
