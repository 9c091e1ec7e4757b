/* The operators LinearInt8 and GatedLinearInt8 of the domain forerun.runtime; see kernels/linear_int8.h for what they
 * compute.
 *
 *   LinearInt8(x [..., K] float32, weight [ceil(N/16), ceil(K/64), 1024] uint8, weight_scale [N] float32,
 *              norm [K] float32 (optional), addend [..., N] or N elements, float32 (optional)) -> y [..., N] float32
 *   GatedLinearInt8(x, weight, weight_scale, norm (optional)) -> y [..., N/2], N a multiple of 32
 *
 * The attribute `epsilon` (float) belongs to a norm and must come with it. The optional attribute `path` (string)
 * forces one of the kernels' ways by name, for tests and measurements. */
#ifndef FORERUN_OP_LINEAR_INT8_H
#define FORERUN_OP_LINEAR_INT8_H

#include "ort_api.h"

extern const OrtCustomOp fr_op_linear_int8, fr_op_gated_linear_int8;

#endif
