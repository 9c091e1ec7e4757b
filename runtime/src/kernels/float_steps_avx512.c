/* AVX-512: a block column is one vector. */
#include "float_steps.h"

#if defined(__x86_64__)

#define LANES 16
#define TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl")))
#include "float_steps_path.h"

const fr_float_steps fr_float_steps_avx512 = {normalize, gate, add, recur};

#endif
