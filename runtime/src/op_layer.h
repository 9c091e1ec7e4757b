/* A whole decoder layer as one operator of the domain forerun.runtime: four products and the attention between them,
 * bit for bit as one by one; see kernels/layer.h for what it computes. B sequences, T rows, E the width of the model.
 *
 *   DecoderLayer(x [B, T, E] float32,
 *                weight and scale of qkv, of output, of gate (gates and values), of down: as LinearInt4 or LinearInt8
 *                k_cache, v_cache, position: as CachedAttention
 *                qkv_norm [E], gate_norm [E] (optional),
 *                q_norm, k_norm, cos, sin, parents, rows (optional): as CachedAttention)
 *     -> (y [B, T, E], k_cache', v_cache')
 *   DecoderLayerInt8: k_scale and v_scale follow the caches in the inputs and in the outputs, as in CachedAttentionInt8
 *
 * Attributes: those of CachedAttention; those of each product with its prefix, `qkv_`, `output_`, `gate_` or `down_`. A
 * product is of int4 where it has a group_size, else of int8. */
#ifndef FORERUN_OP_LAYER_H
#define FORERUN_OP_LAYER_H

#include "kernels/layer.h"
#include "op_attention.h"
#include "op_linear_node.h"

/* What an input is, beside those of the attention. */
enum {
    FR_LAYER_X = FR_ATTENTION_ROLES,
    FR_LAYER_WEIGHTS,                                             /* of each product the weight, then its scales */
    FR_LAYER_QKV_NORM = FR_LAYER_WEIGHTS + 2 * FR_LAYER_PRODUCTS, /* this and all after it are optional */
    FR_LAYER_GATE_NORM,
    FR_LAYER_ROLES
};

/* One operator: what the library sees, then what its callbacks read. */
typedef struct fr_op_layer_kind {
    OrtCustomOp op;
    const fr_op_attention_kind *attention;
    const char *name;
    const int *roles;
    size_t n_roles;
} fr_op_layer_kind;

extern const fr_op_layer_kind fr_op_decoder_layer, fr_op_decoder_layer_int8;

/* One node. Its scratch comes from the session's own allocator, and each run takes its own. */
typedef struct fr_op_layer {
    const fr_op_layer_kind *kind;
    fr_ort_api api;
    OrtAllocator *allocator;
    fr_linear_node products[FR_LAYER_PRODUCTS];
    fr_op_attention attention;
    fr_op_tensor constants[FR_LAYER_ROLES]; /* those without data are read in each run */
    char name[128];
} fr_op_layer;

/* Reads all attributes; kind, api and name are known already. */
OrtStatus *fr_op_layer_set_up(fr_op_layer *self, const OrtKernelInfo *info);

/* Checks the inputs `of` [FR_LAYER_ROLES] and fills all of `job` but the outputs and scratch; the place of qkv among
 * them receives its shape. */
OrtStatus *fr_op_layer_take(const fr_op_layer *self, fr_op_tensor *of, fr_layer *job);

#endif
