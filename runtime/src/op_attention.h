/* Our operators of attention, of the domain forerun.runtime; see kernels/attention.h for what they compute. B
 * sequences, T rows, G key-value heads, C cache rows, D head dim; float32 but where it says otherwise.
 *
 *   CachedAttention(qkv, k_cache, v_cache, position, q_norm, k_norm, cos, sin, parents, rows) -> (out, k_cache',
 * v_cache') BlockAttention(qkv, context_k, context_v, k_cache, v_cache, context_position, position, q_norm, k_norm,
 * cos, sin)
 *     -> (out, k_cache', v_cache'): a drafter's block, which sees all of itself, and the rows of context before it
 *   CachedAttentionInt8, BlockAttentionInt8: k_scale and v_scale [B, G, C] follow the caches, which are int8, in the
 *     inputs and in the outputs
 *
 *   qkv [B, T, (H + 2G) * D], k_cache and v_cache [B, G, C, D], position [B] int64 -> out [B, T, H * D]
 *   q_norm, k_norm [D], cos, sin [at least C, R], R <= D / 2: optional
 *   parents [B, T] int64, optional: each row's parent, less than the row, or -1 where the text before the run is; the
 *     rows that are no chain are at most 128
 *   rows [B] int64, optional: how many of a sequence's rows there are; beyond them out is zero and nothing is written
 *   context_k, context_v [B, N, G * D], context_position [B] int64: the first position - context_position rows of a
 *     context, at most N, are written from context_position on; the rest is not read
 *
 * Attributes: num_heads H, kv_num_heads G, head_dim D (a multiple of 16, at most 256), scale, epsilon and softcap
 * (floats); of CachedAttention window and causal (ints). A cache that is input and output in one buffer is written in
 * place; another one is copied. The optional attribute `path` (string) forces one of the kernels' ways by name, for
 * tests and measurements.
 */
#ifndef FORERUN_OP_ATTENTION_H
#define FORERUN_OP_ATTENTION_H

#include "kernels/attention_batch.h"
#include "op_support.h"

/* What an input is, in the order that all the operators have. */
typedef enum fr_op_attention_role {
    FR_QKV,
    FR_CONTEXT_K,
    FR_CONTEXT_V,
    FR_K_CACHE,
    FR_V_CACHE,
    FR_K_SCALE,
    FR_V_SCALE,
    FR_START,
    FR_POSITION,
    FR_Q_NORM, /* this and all after it are optional */
    FR_K_NORM,
    FR_COS,
    FR_SIN,
    FR_PARENTS,
    FR_ROWS,
    FR_ATTENTION_ROLES
} fr_op_attention_role;

/* One operator: what the library sees, then what its callbacks read. */
typedef struct fr_op_attention_kind {
    OrtCustomOp op;
    const char *name;
    const fr_op_attention_role *roles;
    size_t n_roles;
    int is_int8, is_block;
} fr_op_attention_kind;

extern const fr_op_attention_kind fr_op_cached_attention, fr_op_cached_attention_int8, fr_op_block_attention,
    fr_op_block_attention_int8;

/* One node: `job` holds its attributes; each run fills a copy, since runs of one session may overlap. */
typedef struct fr_op_attention {
    const fr_op_attention_kind *kind;
    fr_ort_api api;
    fr_attention job;
    char name[128];
} fr_op_attention;

#define FR_OP_ATTENTION_REFUSE(self, ...) fr_op_refuse(&(self)->api, (self)->kind->name, (self)->name, __VA_ARGS__)

/* The type of an input, as the library counts them. */
int fr_op_attention_type(const fr_op_attention_kind *kind, fr_op_attention_role role);

/* Reads the attributes; kind, api and name are known already. */
OrtStatus *fr_op_attention_set_up(fr_op_attention *self, const OrtKernelInfo *info);

/* Makes the outputs after the first one, which are the caches. */
OrtStatus *fr_op_attention_outputs(const fr_op_attention *self, OrtKernelContext *context, const fr_op_tensor *of,
                                   fr_attention *job);

/* Checks the inputs `of` [FR_ATTENTION_ROLES] against the attributes and fills all of `job` but the outputs. */
OrtStatus *fr_op_attention_take(const fr_op_attention *self, const fr_op_tensor *of, fr_attention_batch *job);

#endif
