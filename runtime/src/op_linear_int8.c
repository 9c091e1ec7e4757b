#include "op_linear_int8.h"

#include "kernels/linear_int8.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { X, WEIGHT, SCALE, INPUTS, MAX_RANK = 8 };

typedef struct shape {
    size_t rank;
    int64_t sizes[MAX_RANK];
} shape;

/* One node. Its scratch comes from the session's own allocator, which keeps what was freed for the next node, and each
 * run takes its own: runs of one session may overlap. */
typedef struct kernel {
    fr_ort_api api;
    OrtAllocator *allocator;
    const fr_int8_path *path;
    const uint8_t *weight; /* NULL where it is no constant, and is read anew each run */
    const float *scale;
    shape weight_shape, scale_shape;
    char name[128];
} kernel;

#define TRY(call)                                                                                                      \
    do {                                                                                                               \
        OrtStatus *status_ = (call);                                                                                   \
        if (status_ != NULL)                                                                                           \
            return status_;                                                                                            \
    } while (0)

__attribute__((format(printf, 2, 3))) static OrtStatus *refuse(const kernel *self, const char *format, ...) {
    char message[640];
    size_t used = (size_t)snprintf(message, sizeof message, "LinearInt8 %s: ", self->name);
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(message + used, sizeof message - used, format, arguments);
    va_end(arguments);
    return self->api.CreateStatus(ORT_INVALID_ARGUMENT, message);
}

static OrtStatus *read_shape(const kernel *self, const OrtValue *value, shape *out) {
    OrtTensorTypeAndShapeInfo *info = NULL;
    TRY(self->api.GetTensorTypeAndShape(value, &info));
    OrtStatus *status = self->api.GetDimensionsCount(info, &out->rank);
    if (status == NULL && out->rank > MAX_RANK)
        status = refuse(self, "an input has more than 8 dimensions.");
    if (status == NULL)
        status = self->api.GetDimensions(info, out->sizes, out->rank);
    self->api.ReleaseTensorTypeAndShapeInfo(info);
    return status;
}

static const void *data_of(const kernel *self, const OrtValue *value, OrtStatus **status) {
    void *data = NULL;
    /* The library has one function for both; what is const stays so. */
    *status = self->api.GetTensorMutableData((OrtValue *)(uintptr_t)value, &data);
    return data;
}

static OrtStatus *read_weights(kernel *self, const OrtValue *weight, const OrtValue *scale) {
    OrtStatus *status = NULL;
    TRY(read_shape(self, weight, &self->weight_shape));
    TRY(read_shape(self, scale, &self->scale_shape));
    self->weight = data_of(self, weight, &status);
    TRY(status);
    self->scale = data_of(self, scale, &status);
    return status;
}

static OrtStatus *check_shapes(const kernel *self, const shape *x) {
    const shape *weight = &self->weight_shape, *scale = &self->scale_shape;
    if (x->rank < 1 || scale->rank != 1)
        return refuse(self, "expected x [..., K] and weight_scale [N]; found %zu dimensions and %zu dimensions.",
                      x->rank, scale->rank);
    int64_t k = x->sizes[x->rank - 1], n = scale->sizes[0];
    if (k < 1 || k > FR_INT8_MAX_K || n < 1)
        return refuse(self, "expected K from 1 to %d and N of at least 1; found K %lld and N %lld.", FR_INT8_MAX_K,
                      (long long)k, (long long)n);
    int64_t columns = (n + FR_INT8_OUTPUTS - 1) / FR_INT8_OUTPUTS, blocks = (k + FR_INT8_INPUTS - 1) / FR_INT8_INPUTS;
    if (weight->rank == 3 && weight->sizes[0] == columns && weight->sizes[1] == blocks &&
        weight->sizes[2] == FR_INT8_BLOCK)
        return NULL;
    return refuse(self,
                  "for x [..., %lld] and weight_scale [%lld] expected a packed weight [%lld, %lld, %d]; found %zu "
                  "dimensions, [%lld, %lld, %lld]. Build the bundle again.",
                  (long long)k, (long long)n, (long long)columns, (long long)blocks, FR_INT8_BLOCK, weight->rank,
                  (long long)(weight->rank > 0 ? weight->sizes[0] : 0),
                  (long long)(weight->rank > 1 ? weight->sizes[1] : 0),
                  (long long)(weight->rank > 2 ? weight->sizes[2] : 0));
}

static void run_part(void *job, size_t part) {
    fr_linear_int8_part(job, part);
}

static OrtStatus *multiply(const kernel *self, OrtKernelContext *context, fr_linear_int8 *job) {
    TRY(self->api.AllocatorAlloc(self->allocator, fr_linear_int8_scratch(job->rows, job->k), &job->scratch));
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

static OrtStatus *compute(void *data, OrtKernelContext *context) {
    const kernel *self = data;
    kernel with_weights;
    const OrtValue *inputs[INPUTS];
    for (size_t i = 0; i < INPUTS; i++)
        TRY(self->api.KernelContext_GetInput(context, i, &inputs[i]));
    if (self->weight == NULL) { /* no constant */
        with_weights = *self;
        TRY(read_weights(&with_weights, inputs[WEIGHT], inputs[SCALE]));
        self = &with_weights;
    }
    shape x;
    TRY(read_shape(self, inputs[X], &x));
    TRY(check_shapes(self, &x));
    fr_linear_int8 job = {.path = self->path,
                          .weights = self->weight,
                          .weight_scales = self->scale,
                          .rows = 1,
                          .n = (size_t)self->scale_shape.sizes[0],
                          .k = (size_t)x.sizes[x.rank - 1]};
    for (size_t i = 0; i + 1 < x.rank; i++)
        job.rows *= (size_t)x.sizes[i];
    x.sizes[x.rank - 1] = self->scale_shape.sizes[0];
    OrtValue *y = NULL;
    OrtStatus *status = NULL;
    job.x = data_of(self, inputs[X], &status);
    TRY(status);
    TRY(self->api.KernelContext_GetOutput(context, 0, x.sizes, x.rank, &y));
    TRY(self->api.GetTensorMutableData(y, (void **)&job.y));
    return job.rows > 0 ? multiply(self, context, &job) : NULL;
}

static OrtStatus *choose_path(kernel *self, const OrtKernelInfo *info) {
    const fr_int8_path *paths[FR_INT8_MAX_PATHS];
    size_t n_paths = fr_int8_paths(paths);
    self->path = paths[0];
    char wanted[32];
    size_t size = sizeof wanted;
    OrtStatus *status = self->api.KernelInfoGetAttribute_string(info, "path", wanted, &size);
    if (status != NULL) { /* there is no such attribute */
        self->api.ReleaseStatus(status);
        return NULL;
    }
    char names[128] = "";
    for (size_t i = 0, used = 0; i < n_paths; i++) {
        if (strcmp(paths[i]->name, wanted) == 0) {
            self->path = paths[i];
            return NULL;
        }
        used += (size_t)snprintf(names + used, sizeof names - used, " %s", paths[i]->name);
    }
    return refuse(self, "this processor has no path \"%s\"; it has%s.", wanted, names);
}

static OrtStatus *set_up(kernel *self, const OrtKernelInfo *info) {
    size_t size = sizeof self->name;
    OrtStatus *status = self->api.KernelInfo_GetNodeName(info, self->name, &size);
    if (status != NULL) { /* too long: messages go without it */
        self->api.ReleaseStatus(status);
        self->name[0] = '\0';
    }
    TRY(choose_path(self, info));
    TRY(self->api.KernelInfoGetAllocator(info, ORT_MEMORY_DEFAULT, &self->allocator));
    int constant[2] = {0, 0};
    const OrtValue *weight = NULL, *scale = NULL;
    TRY(self->api.KernelInfoGetConstantInput_tensor(info, WEIGHT, &constant[0], &weight));
    TRY(self->api.KernelInfoGetConstantInput_tensor(info, SCALE, &constant[1], &scale));
    return constant[0] && constant[1] ? read_weights(self, weight, scale) : NULL;
}

static void destroy(void *data) {
    kernel *self = data;
    if (self->allocator != NULL)
        self->api.ReleaseAllocator(self->allocator);
    free(self);
}

static OrtStatus *create(const OrtCustomOp *op, const OrtApi *table, const OrtKernelInfo *info, void **out) {
    (void)op;
    fr_ort_api api = {.version = ""};
    fr_ort_fill(table, &api);
    kernel *self = calloc(1, sizeof *self);
    if (self == NULL)
        return api.CreateStatus(ORT_INVALID_ARGUMENT, "LinearInt8: no memory for a node.");
    self->api = api;
    OrtStatus *status = set_up(self, info);
    if (status != NULL)
        destroy(self);
    else
        *out = self;
    return status;
}

static const char *get_name(const OrtCustomOp *op) {
    (void)op;
    return "LinearInt8";
}

static const char *get_provider(const OrtCustomOp *op) {
    (void)op;
    return "CPUExecutionProvider";
}

static int get_input_type(const OrtCustomOp *op, size_t index) {
    (void)op;
    return index == WEIGHT ? ORT_UINT8 : ORT_FLOAT32;
}

static size_t count_inputs(const OrtCustomOp *op) {
    (void)op;
    return INPUTS;
}

static int get_output_type(const OrtCustomOp *op, size_t index) {
    (void)op, (void)index;
    return ORT_FLOAT32;
}

static size_t count_outputs(const OrtCustomOp *op) {
    (void)op;
    return 1;
}

static int zero(const OrtCustomOp *op, size_t index) {
    (void)op, (void)index;
    return 0;
}

const OrtCustomOp fr_op_linear_int8 = {.version = ORT_API_VERSION_USED,
                                       .GetName = get_name,
                                       .GetExecutionProviderType = get_provider,
                                       .GetInputType = get_input_type,
                                       .GetInputTypeCount = count_inputs,
                                       .GetOutputType = get_output_type,
                                       .GetOutputTypeCount = count_outputs,
                                       .KernelDestroy = destroy,
                                       .GetInputCharacteristic = zero,
                                       .GetOutputCharacteristic = zero,
                                       .GetInputMemoryType = zero,
                                       .CreateKernelV2 = create,
                                       .KernelComputeV2 = compute};
