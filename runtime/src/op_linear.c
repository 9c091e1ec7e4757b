#include "op_linear_node.h"

#include <stdlib.h>

enum { X, WEIGHT, SCALE, REQUIRED, NORM = REQUIRED, GATED_INPUTS, ADDEND = GATED_INPUTS, INPUTS };

/* Its scratch comes from the session's own allocator, which keeps what was freed for the next node, and each run takes
 * its own: runs of one session may overlap. */
typedef struct kernel {
    fr_linear_node node;
    OrtAllocator *allocator;
    fr_op_tensor weight, scale; /* without data where they are no constants, and are read anew each run */
} kernel;

static void run_part(void *job, size_t part) {
    fr_linear_part(job, part);
}

static OrtStatus *multiply(const kernel *self, OrtKernelContext *context, fr_linear *job) {
    const fr_ort_api *api = &self->node.api;
    FR_OP_TRY(api->AllocatorAlloc(self->allocator, fr_linear_scratch(job), &job->scratch));
    OrtStatus *status = fr_op_run(api, context, run_part, fr_linear_begin(job), job);
    return fr_op_free(api, self->allocator, job->scratch, status);
}

static OrtStatus *take_inputs(const kernel *self, OrtKernelContext *context, fr_linear_tensors *of) {
    fr_op_tensor *const inputs[INPUTS] = {&of->x, &of->weight, &of->scale, &of->norm, &of->addend};
    const int constant = self->weight.data != NULL;
    size_t count = 0;
    *of = (fr_linear_tensors){.weight = self->weight, .scale = self->scale};
    FR_OP_TRY(self->node.api.KernelContext_GetInputCount(context, &count));
    for (size_t i = 0; i < INPUTS && i < count; i++)
        if (!constant || (i != WEIGHT && i != SCALE))
            FR_OP_TRY(fr_op_read_input(&self->node.api, context, i, inputs[i]));
    return NULL;
}

static OrtStatus *take_output(const kernel *self, OrtKernelContext *context, const fr_op_tensor *x, fr_linear *job) {
    int64_t sizes[FR_OP_MAX_RANK];
    for (size_t i = 0; i < x->rank; i++)
        sizes[i] = x->sizes[i];
    sizes[x->rank - 1] = (int64_t)(job->gated ? job->n / 2 : job->n);
    return fr_op_output(&self->node.api, context, 0, sizes, x->rank, (void **)&job->y);
}

static OrtStatus *compute(void *data, OrtKernelContext *context) {
    const kernel *self = data;
    fr_linear_tensors of;
    fr_linear job;
    FR_OP_TRY(take_inputs(self, context, &of));
    FR_OP_TRY(fr_linear_node_take(&self->node, &of, &job));
    FR_OP_TRY(take_output(self, context, &of.x, &job));
    return job.rows > 0 ? multiply(self, context, &job) : NULL;
}

static OrtStatus *set_up(kernel *self, const OrtKernelInfo *info) {
    const fr_ort_api *api = &self->node.api;
    fr_op_node_name(api, info, self->node.name, sizeof self->node.name);
    FR_OP_TRY(fr_linear_node_set_up(&self->node, info, ""));
    FR_OP_TRY(api->KernelInfoGetAllocator(info, ORT_MEMORY_DEFAULT, &self->allocator));
    FR_OP_TRY(fr_op_constant(api, info, WEIGHT, &self->weight));
    FR_OP_TRY(fr_op_constant(api, info, SCALE, &self->scale));
    if (self->scale.data == NULL)
        self->weight.data = NULL; /* both or none */
    return NULL;
}

static void destroy(void *data) {
    kernel *self = data;
    if (self->allocator != NULL)
        self->node.api.ReleaseAllocator(self->allocator);
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
    self->node.api = api;
    self->node.op = ours(op);
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

#define CALLBACKS FR_OP_CALLBACKS(get_input_type, fr_op_float, is_optional, destroy)

const fr_op_linear fr_op_linear_int8 = {CALLBACKS, "LinearInt8", &fr_linear_int8, ORT_FLOAT32, 0};
const fr_op_linear fr_op_gated_linear_int8 = {CALLBACKS, "GatedLinearInt8", &fr_linear_int8, ORT_FLOAT32, 1};
const fr_op_linear fr_op_linear_int4 = {CALLBACKS, "LinearInt4", &fr_linear_int4, ORT_BFLOAT16, 0};
const fr_op_linear fr_op_gated_linear_int4 = {CALLBACKS, "GatedLinearInt4", &fr_linear_int4, ORT_BFLOAT16, 1};
