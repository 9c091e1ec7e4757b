/* One node of op_linear.h: what is known of it, and the refusal of what does not fit. */
#ifndef FORERUN_OP_LINEAR_NODE_H
#define FORERUN_OP_LINEAR_NODE_H

#include "op_linear.h"

/* Its scratch comes from the session's own allocator, which keeps what was freed for the next node, and each run takes
 * its own: runs of one session may overlap. */
typedef struct fr_linear_node {
    fr_ort_api api;
    const fr_op_linear *op;
    OrtAllocator *allocator;
    const fr_linear_path *path;
    float epsilon;               /* -1: none */
    int64_t group_size, outputs; /* attributes of int4; int8: 0, and its scales say how many outputs there are */
    fr_op_tensor weight, scale;  /* without data where they are no constants, and are read anew each run */
    char name[128];
} fr_linear_node;

/* Reads the attributes, and refuses an int4 node whose own are missing or wrong. */
OrtStatus *fr_linear_node_attributes(fr_linear_node *self, const OrtKernelInfo *info);

/* Refuses shapes of x, weights and scales that do not fit; else fills the job's n and k. */
OrtStatus *fr_linear_node_check(const fr_linear_node *self, const fr_op_tensor *x, fr_linear *job);

/* Refuses a norm or an addend that does not fit the job; else fills the addend's stride. */
OrtStatus *fr_linear_node_check_around(const fr_linear_node *self, const fr_op_tensor *norm, const fr_op_tensor *addend,
                                       fr_linear *job);

int64_t fr_linear_node_elements(const fr_op_tensor *it);

#endif
