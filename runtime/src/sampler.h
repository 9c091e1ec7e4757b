/* Greedy choice, beside the public forerun_softmax and forerun_sample. */
#ifndef FORERUN_SAMPLER_H
#define FORERUN_SAMPLER_H

#include "forerun.h"

/* Index of the largest value; the lowest such index on a tie. n >= 1. */
int64_t fr_argmax(const float *values, size_t n);

#endif
