/* What our operators for ONNX Runtime share: reading tensors and attributes. */
#ifndef FORERUN_OP_SUPPORT_H
#define FORERUN_OP_SUPPORT_H

#include "ort_api.h"

enum { FR_OP_MAX_RANK = 8 };

typedef struct fr_op_tensor {
    size_t rank;
    int64_t sizes[FR_OP_MAX_RANK];
    void *data; /* NULL: an optional input that is absent */
} fr_op_tensor;

#define FR_OP_TRY(call)                                                                                                \
    do {                                                                                                               \
        OrtStatus *status_ = (call);                                                                                   \
        if (status_ != NULL)                                                                                           \
            return status_;                                                                                            \
    } while (0)

/* A status that names the operator and the node. */
__attribute__((format(printf, 4, 5))) OrtStatus *fr_op_refuse(const fr_ort_api *api, const char *op, const char *node,
                                                              const char *format, ...);

/* Reads shape and data of a value; a rank above 8 is refused. `value` NULL gives data NULL. */
OrtStatus *fr_op_read(const fr_ort_api *api, const OrtValue *value, fr_op_tensor *out);

/* Writes the shape of a tensor, [2, 3], cut to what fits; returns `out`. */
const char *fr_op_show(const fr_op_tensor *it, char *out, size_t size);

/* The name of a node, cut to nothing where it is longer than `size`. */
void fr_op_node_name(const fr_ort_api *api, const OrtKernelInfo *info, char *out, size_t size);

/* The place in `names` that the optional attribute "path" asks for, 0 where a node has none: tests force a path by it.
 */
OrtStatus *fr_op_choose_path(const fr_ort_api *api, const char *op, const char *node, const OrtKernelInfo *info,
                             const char *const *names, size_t n_names, size_t *out);

/* What every operator of ours says of itself. */
const char *fr_op_provider(const OrtCustomOp *op);
int fr_op_required(const OrtCustomOp *op, size_t index);
int fr_op_float(const OrtCustomOp *op, size_t index);

/* An optional attribute of at most `size` bytes with its end: 1 and the text, or 0. */
int fr_op_string(const fr_ort_api *api, const OrtKernelInfo *info, const char *name, char *out, size_t size);

#endif
