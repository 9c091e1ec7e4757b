/* The operators of linear layers in the domain forerun.runtime; see kernels/linear.h for what they compute.
 *
 *   LinearInt8(x [..., K] float32, weight [ceil(N/16), ceil(K/64), 1024] uint8, weight_scale [N] float32,
 *              norm [K] float32 (optional), addend [..., N] or N elements, float32 (optional)) -> y [..., N] float32
 *   GatedLinearInt8(x, weight, weight_scale, norm (optional)) -> y [..., N/2], N a multiple of 32
 *   LinearInt4, GatedLinearInt4: the same, but for
 *              weight [ceil(N/16), ceil(K/64), 512] uint8, weight_scale [ceil(N/16), ceil(K/G), 16] bfloat16
 *              and the attributes group_size = G (32, 64 or 128) and outputs = N
 *
 * The attribute `epsilon` (float) belongs to a norm and must come with it. The optional attribute `path` (string)
 * forces one of the kernels' ways by name, for tests and measurements. */
#ifndef FORERUN_OP_LINEAR_H
#define FORERUN_OP_LINEAR_H

#include "kernels/linear.h"
#include "op_support.h"

/* An operator: what the library calls, and which product it is. */
typedef struct fr_op_linear {
    OrtCustomOp op;
    const char *name;
    const fr_linear_format *format;
    int scale_type;
    int gated;
} fr_op_linear;

extern const fr_op_linear fr_op_linear_int8, fr_op_gated_linear_int8, fr_op_linear_int4, fr_op_gated_linear_int4;

#endif
