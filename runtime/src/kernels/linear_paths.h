/* Every path of the products, whether this processor has it or not. */
#ifndef FORERUN_LINEAR_PATHS_H
#define FORERUN_LINEAR_PATHS_H

#include "linear.h"

/* Tested on an emulation of the matrix units only; see linear_amx.c. */
extern const fr_linear_path fr_int8_amx, fr_int4_amx;

extern const fr_linear_path fr_int8_avx512, fr_int8_avxvnni, fr_int8_avx2, fr_int8_neon, fr_int8_portable;
extern const fr_linear_path fr_int4_avx512, fr_int4_avxvnni, fr_int4_avx2, fr_int4_neon, fr_int4_portable;

#endif
