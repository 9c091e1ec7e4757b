/* The counter-based generator behind forerun_uniforms. */
#ifndef FORERUN_RNG_H
#define FORERUN_RNG_H

#include "forerun.h"

/* One block of Philox4x32-10: a bijection of `counter` under `key`. */
void fr_philox(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4]);

#endif
