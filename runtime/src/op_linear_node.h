/* One node of op_linear.h: what is known of it, and the refusal of what does not fit. */
#ifndef FORERUN_OP_LINEAR_NODE_H
#define FORERUN_OP_LINEAR_NODE_H

#include "op_linear.h"

typedef struct fr_linear_node {
    fr_ort_api api;
    const fr_op_linear *op;
    const fr_linear_path *path;
    float epsilon;               /* -1: none */
    int64_t group_size, outputs; /* attributes of int4; int8: 0, and its scales say how many outputs there are */
    char name[128];
} fr_linear_node;

/* What a product reads; norm and addend may be absent. */
typedef struct fr_linear_tensors {
    fr_op_tensor x, weight, scale, norm, addend;
} fr_linear_tensors;

/* Which product a node is that may be of either precision: of int4 where it has the prefix's group_size. */
const fr_op_linear *fr_linear_node_kind(const fr_ort_api *api, const OrtKernelInfo *info, const char *prefix,
                                        int is_gated);

/* Reads the attributes, each of whose names begins with `prefix`, by which the node's api, op and name are known
 * already; refuses a path that there is not, and an int4 node whose own attributes are missing or wrong. */
OrtStatus *fr_linear_node_set_up(fr_linear_node *self, const OrtKernelInfo *info, const char *prefix);

/* Refuses tensors that do not fit; else fills all of `job` but y and scratch. */
OrtStatus *fr_linear_node_take(const fr_linear_node *self, const fr_linear_tensors *of, fr_linear *job);

#endif
