/* The operator LinearInt8 of the domain forerun.runtime; see kernels/linear_int8.h for what it computes.
 *
 *   x [..., K] float32, weight [ceil(N/16), ceil(K/64), 1024] uint8, weight_scale [N] float32 -> y [..., N] float32
 *
 * The optional attribute `path` (string) forces one of the kernels' ways by name, for tests and measurements. */
#ifndef FORERUN_OP_LINEAR_INT8_H
#define FORERUN_OP_LINEAR_INT8_H

#include "ort_api.h"

extern const OrtCustomOp fr_op_linear_int8;

#endif
