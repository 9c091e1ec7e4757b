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

/* Reads the attributes, each of whose names begins with `prefix`, by which the node's api, op and name are known
 * already; refuses a path that there is not, and an int4 node whose own attributes are missing or wrong. */
OrtStatus *fr_linear_node_set_up(fr_linear_node *self, const OrtKernelInfo *info, const char *prefix);

/* A product that is part of a larger node. */
typedef struct fr_linear_part_name {
    const char *part, *node;
    int is_gated;
} fr_linear_part_name;

/* The same of such a part: its attributes' prefix is its name and "_", and it is of int4 where it has a group_size. */
OrtStatus *fr_linear_node_set_up_part(fr_linear_node *self, const fr_ort_api *api, const OrtKernelInfo *info,
                                      const fr_linear_part_name *name);

/* Refuses tensors that do not fit; else fills all of `job` but y and scratch. */
OrtStatus *fr_linear_node_take(const fr_linear_node *self, const fr_linear_tensors *of, fr_linear *job);

#endif
