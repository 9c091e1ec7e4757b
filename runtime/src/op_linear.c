#include "op_linear_node.h"

#include <stdlib.h>

enum { X, WEIGHT, SCALE, REQUIRED, NORM = REQUIRED, GATED_INPUTS, ADDEND = GATED_INPUTS, INPUTS };

typedef fr_linear_node kernel;

static OrtStatus *read_weights(kernel *self, const OrtValue *weight, const OrtValue *scale) {
    FR_OP_TRY(fr_op_read(&self->api, weight, &self->weight));
    return fr_op_read(&self->api, scale, &self->scale);
}

static void run_part(void *job, size_t part) {
    fr_linear_part(job, part);
}

static OrtStatus *multiply(const kernel *self, OrtKernelContext *context, fr_linear *job) {
    FR_OP_TRY(self->api.AllocatorAlloc(self->allocator, fr_linear_scratch(job), &job->scratch));
    OrtStatus *status = NULL;
    size_t parts = fr_linear_begin(job);
    if (parts > 1)
        status = self->api.KernelContext_ParallelFor(context, run_part, parts, 0, job);
    else if (parts == 1)
        fr_linear_part(job, 0);
    OrtStatus *freed = self->api.AllocatorFree(self->allocator, job->scratch);
    if (status == NULL)
        return freed;
    if (freed != NULL)
        self->api.ReleaseStatus(freed);
    return status;
}

static OrtStatus *take_inputs(const kernel *self, OrtKernelContext *context, const OrtValue *inputs[INPUTS]) {
    size_t count = 0;
    FR_OP_TRY(self->api.KernelContext_GetInputCount(context, &count));
    for (size_t i = 0; i < INPUTS; i++) {
        inputs[i] = NULL;
        if (i < count)
            FR_OP_TRY(self->api.KernelContext_GetInput(context, i, &inputs[i]));
    }
    return NULL;
}

static OrtStatus *take_output(const kernel *self, OrtKernelContext *context, const fr_op_tensor *x, fr_linear *job) {
    int64_t sizes[FR_OP_MAX_RANK];
    for (size_t i = 0; i < x->rank; i++)
        sizes[i] = x->sizes[i];
    sizes[x->rank - 1] = (int64_t)(self->op->gated ? job->n / 2 : job->n);
    OrtValue *y = NULL;
    FR_OP_TRY(self->api.KernelContext_GetOutput(context, 0, sizes, x->rank, &y));
    return self->api.GetTensorMutableData(y, (void **)&job->y);
}

static OrtStatus *compute(void *data, OrtKernelContext *context) {
    const kernel *self = data;
    kernel with_weights;
    const OrtValue *inputs[INPUTS];
    FR_OP_TRY(take_inputs(self, context, inputs));
    if (self->weight.data == NULL) { /* no constant */
        with_weights = *self;
        FR_OP_TRY(read_weights(&with_weights, inputs[WEIGHT], inputs[SCALE]));
        self = &with_weights;
    }
    fr_op_tensor x, norm, addend;
    FR_OP_TRY(fr_op_read(&self->api, inputs[X], &x));
    FR_OP_TRY(fr_op_read(&self->api, inputs[NORM], &norm));
    FR_OP_TRY(fr_op_read(&self->api, inputs[ADDEND], &addend));
    fr_linear job = {.path = self->path,
                     .x = x.data,
                     .weights = self->weight.data,
                     .weight_scales = self->scale.data,
                     .group_size = (size_t)self->group_size,
                     .norm = norm.data,
                     .epsilon = self->epsilon,
                     .addend = addend.data,
                     .gated = self->op->gated};
    FR_OP_TRY(fr_linear_node_check(self, &x, &job));
    job.rows = (size_t)fr_linear_node_elements(&x) / job.k;
    FR_OP_TRY(fr_linear_node_check_around(self, &norm, &addend, &job));
    FR_OP_TRY(take_output(self, context, &x, &job));
    return job.rows > 0 ? multiply(self, context, &job) : NULL;
}

static OrtStatus *choose_path(kernel *self, const OrtKernelInfo *info) {
    const fr_linear_path *paths[FR_LINEAR_MAX_PATHS];
    const char *names[FR_LINEAR_MAX_PATHS];
    size_t n_paths = fr_linear_paths(self->op->format, paths), chosen = 0;
    for (size_t i = 0; i < n_paths; i++)
        names[i] = paths[i]->name;
    FR_OP_TRY(fr_op_choose_path(&self->api, self->op->name, self->name, info, names, n_paths, &chosen));
    self->path = paths[chosen];
    return NULL;
}

static OrtStatus *set_up(kernel *self, const OrtKernelInfo *info) {
    fr_op_node_name(&self->api, info, self->name, sizeof self->name);
    FR_OP_TRY(choose_path(self, info));
    FR_OP_TRY(fr_linear_node_attributes(self, info));
    FR_OP_TRY(self->api.KernelInfoGetAllocator(info, ORT_MEMORY_DEFAULT, &self->allocator));
    int constant[2] = {0, 0};
    const OrtValue *weight = NULL, *scale = NULL;
    FR_OP_TRY(self->api.KernelInfoGetConstantInput_tensor(info, WEIGHT, &constant[0], &weight));
    FR_OP_TRY(self->api.KernelInfoGetConstantInput_tensor(info, SCALE, &constant[1], &scale));
    return constant[0] && constant[1] ? read_weights(self, weight, scale) : NULL;
}

static void destroy(void *data) {
    kernel *self = data;
    if (self->allocator != NULL)
        self->api.ReleaseAllocator(self->allocator);
    free(self);
}

/* Ours begins with the library's. */
static const fr_op_linear *ours(const OrtCustomOp *op) {
    return (const fr_op_linear *)(const void *)op;
}

static OrtStatus *create(const OrtCustomOp *op, const OrtApi *table, const OrtKernelInfo *info, void **out) {
    fr_ort_api api = {.version = ""};
    fr_ort_fill(table, &api);
    kernel *self = calloc(1, sizeof *self);
    if (self == NULL)
        return api.CreateStatus(ORT_INVALID_ARGUMENT, "forerun: no memory for a linear layer's node.");
    self->api = api;
    self->op = ours(op);
    OrtStatus *status = set_up(self, info);
    if (status != NULL)
        destroy(self);
    else
        *out = self;
    return status;
}

static const char *get_name(const OrtCustomOp *op) {
    return ours(op)->name;
}

static int get_input_type(const OrtCustomOp *op, size_t index) {
    return index == WEIGHT ? ORT_UINT8 : index == SCALE ? ours(op)->scale_type : ORT_FLOAT32;
}

static size_t count_inputs(const OrtCustomOp *op) {
    return ours(op)->gated ? GATED_INPUTS : INPUTS;
}

static int is_optional(const OrtCustomOp *op, size_t index) {
    (void)op;
    return index >= REQUIRED;
}

static size_t count_outputs(const OrtCustomOp *op) {
    (void)op;
    return 1;
}

#define DESCRIPTION                                                                                                    \
    {.version = ORT_API_VERSION_USED,                                                                                  \
     .GetName = get_name,                                                                                              \
     .GetExecutionProviderType = fr_op_provider,                                                                       \
     .GetInputType = get_input_type,                                                                                   \
     .GetInputTypeCount = count_inputs,                                                                                \
     .GetOutputType = fr_op_float,                                                                                     \
     .GetOutputTypeCount = count_outputs,                                                                              \
     .KernelDestroy = destroy,                                                                                         \
     .GetInputCharacteristic = is_optional,                                                                            \
     .GetOutputCharacteristic = fr_op_required,                                                                        \
     .GetInputMemoryType = fr_op_required,                                                                             \
     .CreateKernelV2 = create,                                                                                         \
     .KernelComputeV2 = compute}

const fr_op_linear fr_op_linear_int8 = {DESCRIPTION, "LinearInt8", &fr_linear_int8, ORT_FLOAT32, 0};
const fr_op_linear fr_op_gated_linear_int8 = {DESCRIPTION, "GatedLinearInt8", &fr_linear_int8, ORT_FLOAT32, 1};
const fr_op_linear fr_op_linear_int4 = {DESCRIPTION, "LinearInt4", &fr_linear_int4, ORT_BFLOAT16, 0};
const fr_op_linear fr_op_gated_linear_int4 = {DESCRIPTION, "GatedLinearInt4", &fr_linear_int4, ORT_BFLOAT16, 1};
