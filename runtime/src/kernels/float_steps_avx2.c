/* AVX2. */
#include "float_steps.h"

#if defined(__x86_64__)

#define LANES 8
#define TARGET __attribute__((target("avx2")))
#include "float_steps_path.h"

const fr_float_steps fr_float_steps_avx2 = {normalize, gate, add, recur};

#endif
