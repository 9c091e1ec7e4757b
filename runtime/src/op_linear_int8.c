#include "op_linear_int8.h"

#include "kernels/linear_int8.h"
#include "op_support.h"

#include <stdlib.h>

enum { X, WEIGHT, SCALE, REQUIRED, NORM = REQUIRED, GATED_INPUTS, ADDEND = GATED_INPUTS, INPUTS };

/* One node. Its scratch comes from the session's own allocator, which keeps what was freed for the next node, and each
 * run takes its own: runs of one session may overlap. */
typedef struct kernel {
    fr_ort_api api;
    OrtAllocator *allocator;
    const fr_int8_path *path;
    int gated;
    float epsilon;
    fr_op_tensor weight, scale; /* without data where they are no constants, and are read anew each run */
    char name[128];
} kernel;

static const char *op_name(const kernel *self) {
    return self->gated ? "GatedLinearInt8" : "LinearInt8";
}

#define REFUSE(self, ...) fr_op_refuse(&(self)->api, op_name(self), (self)->name, __VA_ARGS__)

static OrtStatus *read_weights(kernel *self, const OrtValue *weight, const OrtValue *scale) {
    FR_OP_TRY(fr_op_read(&self->api, weight, &self->weight));
    return fr_op_read(&self->api, scale, &self->scale);
}

static OrtStatus *check_weights(const kernel *self, const fr_op_tensor *x) {
    const fr_op_tensor *weight = &self->weight, *scale = &self->scale;
    if (x->rank < 1 || scale->rank != 1)
        return REFUSE(self, "expected x [..., K] and weight_scale [N]; found %zu dimensions and %zu dimensions.",
                      x->rank, scale->rank);
    int64_t k = x->sizes[x->rank - 1], n = scale->sizes[0];
    if (k < 1 || k > FR_INT8_MAX_K || n < 1)
        return REFUSE(self, "expected K from 1 to %d and N of at least 1; found K %lld and N %lld.", FR_INT8_MAX_K,
                      (long long)k, (long long)n);
    if (self->gated && n % (2 * FR_INT8_OUTPUTS) != 0)
        return REFUSE(self, "expected N as a multiple of %d, gates and values in turn; found %lld.",
                      2 * FR_INT8_OUTPUTS, (long long)n);
    int64_t columns = (n + FR_INT8_OUTPUTS - 1) / FR_INT8_OUTPUTS, blocks = (k + FR_INT8_INPUTS - 1) / FR_INT8_INPUTS;
    if (weight->rank == 3 && weight->sizes[0] == columns && weight->sizes[1] == blocks &&
        weight->sizes[2] == FR_INT8_BLOCK)
        return NULL;
    return REFUSE(self,
                  "for x [..., %lld] and weight_scale [%lld] expected a packed weight [%lld, %lld, %d]; found %zu "
                  "dimensions, [%lld, %lld, %lld]. Build the bundle again.",
                  (long long)k, (long long)n, (long long)columns, (long long)blocks, FR_INT8_BLOCK, weight->rank,
                  (long long)(weight->rank > 0 ? weight->sizes[0] : 0),
                  (long long)(weight->rank > 1 ? weight->sizes[1] : 0),
                  (long long)(weight->rank > 2 ? weight->sizes[2] : 0));
}

static int64_t elements(const fr_op_tensor *it) {
    int64_t count = 1;
    for (size_t i = 0; i < it->rank; i++)
        count *= it->sizes[i];
    return count;
}

static OrtStatus *check_around(const kernel *self, const fr_linear_int8 *job, const fr_op_tensor *norm,
                               const fr_op_tensor *addend) {
    if (norm->data != NULL && (norm->rank != 1 || norm->sizes[0] != (int64_t)job->k))
        return REFUSE(self, "expected norm [%zu]; found %zu dimensions, %lld elements.", job->k, norm->rank,
                      (long long)elements(norm));
    if (norm->data != NULL && !(self->epsilon >= 0.0f))
        return REFUSE(self, "a norm needs the attribute epsilon, zero or more.");
    int64_t count = elements(addend), n = (int64_t)job->n;
    if (addend->data != NULL && count != n && count != (int64_t)job->rows * n)
        return REFUSE(self, "expected an addend of %lld elements, or of %lld for each row; found %lld.",
                      (long long)((int64_t)job->rows * n), (long long)n, (long long)count);
    return NULL;
}

static void run_part(void *job, size_t part) {
    fr_linear_int8_part(job, part);
}

static OrtStatus *multiply(const kernel *self, OrtKernelContext *context, fr_linear_int8 *job) {
    FR_OP_TRY(self->api.AllocatorAlloc(self->allocator, fr_linear_int8_scratch(job), &job->scratch));
    OrtStatus *status = NULL;
    size_t parts = fr_linear_int8_begin(job);
    if (parts > 1)
        status = self->api.KernelContext_ParallelFor(context, run_part, parts, 0, job);
    else if (parts == 1)
        fr_linear_int8_part(job, 0);
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

static OrtStatus *take_output(const kernel *self, OrtKernelContext *context, const fr_op_tensor *x,
                              fr_linear_int8 *job) {
    int64_t sizes[FR_OP_MAX_RANK];
    for (size_t i = 0; i < x->rank; i++)
        sizes[i] = x->sizes[i];
    sizes[x->rank - 1] = (int64_t)(self->gated ? job->n / 2 : job->n);
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
    FR_OP_TRY(check_weights(self, &x));
    fr_linear_int8 job = {.path = self->path,
                          .x = x.data,
                          .weights = self->weight.data,
                          .weight_scales = self->scale.data,
                          .rows = (size_t)(elements(&x) / x.sizes[x.rank - 1]),
                          .n = (size_t)self->scale.sizes[0],
                          .k = (size_t)x.sizes[x.rank - 1],
                          .norm = norm.data,
                          .epsilon = self->epsilon,
                          .addend = addend.data,
                          .gated = self->gated};
    FR_OP_TRY(check_around(self, &job, &norm, &addend));
    job.addend_stride = elements(&addend) == (int64_t)job.n ? 0 : job.n;
    FR_OP_TRY(take_output(self, context, &x, &job));
    return job.rows > 0 ? multiply(self, context, &job) : NULL;
}

static OrtStatus *choose_path(kernel *self, const OrtKernelInfo *info) {
    const fr_int8_path *paths[FR_INT8_MAX_PATHS];
    const char *names[FR_INT8_MAX_PATHS];
    size_t n_paths = fr_int8_paths(paths), chosen = 0;
    for (size_t i = 0; i < n_paths; i++)
        names[i] = paths[i]->name;
    FR_OP_TRY(fr_op_choose_path(&self->api, op_name(self), self->name, info, names, n_paths, &chosen));
    self->path = paths[chosen];
    return NULL;
}

static OrtStatus *set_up(kernel *self, const OrtKernelInfo *info) {
    fr_op_node_name(&self->api, info, self->name, sizeof self->name);
    FR_OP_TRY(choose_path(self, info));
    OrtStatus *absent = self->api.KernelInfoGetAttribute_float(info, "epsilon", &self->epsilon);
    if (absent != NULL) {
        self->api.ReleaseStatus(absent);
        self->epsilon = -1.0f; /* a norm is then refused */
    }
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

static OrtStatus *create(const OrtCustomOp *op, const OrtApi *table, const OrtKernelInfo *info, void **out) {
    fr_ort_api api = {.version = ""};
    fr_ort_fill(table, &api);
    kernel *self = calloc(1, sizeof *self);
    if (self == NULL)
        return api.CreateStatus(ORT_INVALID_ARGUMENT, "LinearInt8: no memory for a node.");
    self->api = api;
    self->gated = op == &fr_op_gated_linear_int8;
    OrtStatus *status = set_up(self, info);
    if (status != NULL)
        destroy(self);
    else
        *out = self;
    return status;
}

static const char *get_name(const OrtCustomOp *op) {
    const kernel asked = {.gated = op == &fr_op_gated_linear_int8};
    return op_name(&asked);
}

static int get_input_type(const OrtCustomOp *op, size_t index) {
    (void)op;
    return index == WEIGHT ? ORT_UINT8 : ORT_FLOAT32;
}

static size_t count_inputs(const OrtCustomOp *op) {
    return op == &fr_op_gated_linear_int8 ? GATED_INPUTS : INPUTS;
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

const OrtCustomOp fr_op_linear_int8 = DESCRIPTION;
const OrtCustomOp fr_op_gated_linear_int8 = DESCRIPTION;
