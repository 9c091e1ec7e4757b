/* What our operators of attention share; see kernels/attention.h for what they compute.
 *
 * Attributes: num_heads H, kv_num_heads G, head_dim D (a multiple of 16, at most 256), scale, epsilon and softcap
 * (floats). A cache that is input and output in one buffer is written in place; another one is copied. The optional
 * attribute `path` (string) forces one of the kernels' ways by name, for tests and measurements.
 */
#ifndef FORERUN_OP_ATTENTION_H
#define FORERUN_OP_ATTENTION_H

#include "kernels/attention.h"
#include "op_support.h"

/* One node: `job` holds its attributes; each run fills a copy, since runs of one session may overlap. */
typedef struct fr_op_attention {
    fr_ort_api api;
    const char *op;
    fr_attention job;
    char name[128];
} fr_op_attention;

/* Where a run's inputs are. */
typedef struct fr_op_attention_inputs {
    const fr_op_tensor *qkv;               /* [1, T, (H + 2G) * D] float32 */
    const fr_op_tensor *k_cache, *v_cache; /* [1, G, C, D] float32 */
    const fr_op_tensor *position;          /* [1] int64 */
    const fr_op_tensor *q_norm, *k_norm;   /* [D] float32, or absent */
    const fr_op_tensor *cos, *sin;         /* [at least C, R] float32, R <= D / 2, or absent */
} fr_op_attention_inputs;

#define FR_OP_ATTENTION_REFUSE(self, ...) fr_op_refuse(&(self)->api, (self)->op, (self)->name, __VA_ARGS__)

/* A node of the operator `op` (kept) with its attributes, for fr_op_attention_destroy. */
OrtStatus *fr_op_attention_create(const char *op, const OrtApi *table, const OrtKernelInfo *info,
                                  fr_op_attention **out);
void fr_op_attention_destroy(void *self);

/* Reads the first `count` inputs; those at the end may be left out. */
OrtStatus *fr_op_attention_read(const fr_op_attention *self, OrtKernelContext *context, fr_op_tensor *out,
                                size_t count);

/* Whether a tensor has exactly this shape. */
int fr_op_attention_is(const fr_op_tensor *it, size_t rank, const int64_t *sizes);

/* Checks the inputs against the attributes and fills all of `job` but the context and the outputs. */
OrtStatus *fr_op_attention_take(const fr_op_attention *self, const fr_op_attention_inputs *in, fr_attention *job);

/* How many outputs these operators have. */
size_t fr_op_attention_outputs(const OrtCustomOp *op);

/* Takes the outputs out [1, T, H * D], k_cache' and v_cache' and computes them. */
OrtStatus *fr_op_attention_run(const fr_op_attention *self, OrtKernelContext *context, const fr_op_attention_inputs *in,
                               fr_attention *job);

#endif
