/* The operator CachedAttention of the domain forerun.runtime; see kernels/attention.h for what it computes.
 *
 *   qkv [1, T, (H + 2G) * D], k_cache [1, G, C, D], v_cache [1, G, C, D] float32, position [1] int64,
 *   optional: q_norm [D], k_norm [D], cos [at least C, R], sin as cos float32, R <= D / 2
 *     -> out [1, T, H * D], k_cache' and v_cache' as the caches, float32
 *
 * Attributes: those of op_attention.h, window and causal (ints).
 */
#ifndef FORERUN_OP_CACHED_ATTENTION_H
#define FORERUN_OP_CACHED_ATTENTION_H

#include "ort_api.h"

extern const OrtCustomOp fr_op_cached_attention;

#endif
