/* What our operators for ONNX Runtime share: reading tensors and attributes. */
#ifndef FORERUN_OP_SUPPORT_H
#define FORERUN_OP_SUPPORT_H

#include "kernels/pieces.h"
#include "ort_api.h"

enum { FR_OP_MAX_RANK = 8 };

typedef struct fr_op_tensor {
    int type; /* as the library counts them */
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

/* The same of an input of a running node. */
OrtStatus *fr_op_read_input(const fr_ort_api *api, const OrtKernelContext *context, size_t index, fr_op_tensor *out);

/* The same of an input that is known when its node is made; without data where it is no constant. */
OrtStatus *fr_op_constant(const fr_ort_api *api, const OrtKernelInfo *info, size_t index, fr_op_tensor *out);

/* Makes an output of this shape and gives its data. */
OrtStatus *fr_op_output(const fr_ort_api *api, OrtKernelContext *context, size_t index, const int64_t *sizes,
                        size_t rank, void **out);

/* How many threads may come to a run: a session's number is not known, that of the processors is. */
size_t fr_op_seats(void);

/* Calls sit(job, seat) for all seats on the session's threads, for a single one or none without them. */
OrtStatus *fr_op_sit(const fr_ort_api *api, const OrtKernelContext *context, fr_piece sit, size_t seats, void *job);

/* Calls run(job, part) for all parts on the session's threads; parts that follow each other most often on one. */
OrtStatus *fr_op_run(const fr_ort_api *api, const OrtKernelContext *context, fr_piece run, size_t parts, void *job);

/* Frees scratch memory after a run; returns the run's status, or where that is NULL that of freeing. */
OrtStatus *fr_op_free(const fr_ort_api *api, OrtAllocator *allocator, void *memory, OrtStatus *status);

int64_t fr_op_elements(const fr_op_tensor *it);

/* Writes the shape of a tensor, [2, 3], cut to what fits; returns `out`. */
const char *fr_op_show(const fr_op_tensor *it, char *out, size_t size);

/* The name of a node, cut to nothing where it is longer than `size`. */
void fr_op_node_name(const fr_ort_api *api, const OrtKernelInfo *info, char *out, size_t size);

/* The place in `names` that an optional attribute asks for, 0 where a node has none: tests force a path by it. */
OrtStatus *fr_op_choose_path(const fr_ort_api *api, const char *op, const char *node, const OrtKernelInfo *info,
                             const char *attribute, const char *const *names, size_t n_names, size_t *out);

/* What every operator of ours says of itself. */
const char *fr_op_provider(const OrtCustomOp *op);
int fr_op_required(const OrtCustomOp *op, size_t index);
int fr_op_float(const OrtCustomOp *op, size_t index);

/* The table of an operator: the library's functions by those of its file, get_name, count_inputs, count_outputs, create
 * and compute, and by these, which operators may share. */
#define FR_OP_CALLBACKS(input_type, output_type, is_optional_input, destroy_kernel)                                    \
    {.version = ORT_API_VERSION_USED,                                                                                  \
     .GetName = get_name,                                                                                              \
     .GetExecutionProviderType = fr_op_provider,                                                                       \
     .GetInputType = (input_type),                                                                                     \
     .GetInputTypeCount = count_inputs,                                                                                \
     .GetOutputType = (output_type),                                                                                   \
     .GetOutputTypeCount = count_outputs,                                                                              \
     .KernelDestroy = (destroy_kernel),                                                                                \
     .GetInputCharacteristic = (is_optional_input),                                                                    \
     .GetOutputCharacteristic = fr_op_required,                                                                        \
     .GetInputMemoryType = fr_op_required,                                                                             \
     .CreateKernelV2 = create,                                                                                         \
     .KernelComputeV2 = compute}

/* An optional attribute of at most `size` bytes with its end: 1 and the text, or 0. */
int fr_op_string(const fr_ort_api *api, const OrtKernelInfo *info, const char *name, char *out, size_t size);

#endif
