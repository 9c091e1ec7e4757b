/* The operator BlockAttention of the domain forerun.runtime: a drafter's block, which sees all of itself, and the rows
 * of context that come before it; see kernels/attention.h for what it computes, op_attention.h for the attributes.
 *
 *   qkv [1, S, (H + 2G) * D], context_k [1, T, G * D], context_v [1, T, G * D], k_cache [1, G, C, D],
 *   v_cache [1, G, C, D] float32, context_position [1], position [1] int64,
 *   optional: q_norm [D], k_norm [D], cos [at least C, R], sin as cos float32, R <= D / 2
 *     -> out [1, S, H * D], k_cache' and v_cache' as the caches, float32
 *
 * The first position - context_position rows of the context, at most T, are written from context_position on; the rest
 * of them is not read. The block's rows follow from `position` on, and each sees all keys up to its own last.
 */
#ifndef FORERUN_OP_BLOCK_ATTENTION_H
#define FORERUN_OP_BLOCK_ATTENTION_H

#include "ort_api.h"

extern const OrtCustomOp fr_op_block_attention;

#endif
