#include "op_cached_attention.h"

#include "op_attention.h"

static const char NAME[] = "CachedAttention";

enum { QKV, K_CACHE, V_CACHE, POSITION, Q_NORM, K_NORM, COS, SIN, INPUTS };

static OrtStatus *compute(void *data, OrtKernelContext *context) {
    const fr_op_attention *self = data;
    fr_op_tensor of[INPUTS];
    FR_OP_TRY(fr_op_attention_read(self, context, of, INPUTS));
    const fr_op_attention_inputs in = {.qkv = &of[QKV],
                                       .k_cache = &of[K_CACHE],
                                       .v_cache = &of[V_CACHE],
                                       .position = &of[POSITION],
                                       .q_norm = &of[Q_NORM],
                                       .k_norm = &of[K_NORM],
                                       .cos = &of[COS],
                                       .sin = &of[SIN]};
    fr_attention job;
    FR_OP_TRY(fr_op_attention_take(self, &in, &job));
    return fr_op_attention_run(self, context, &in, &job);
}

static OrtStatus *read_mask(fr_op_attention *self, const OrtKernelInfo *info) {
    int64_t window = 0, causal = 0;
    FR_OP_TRY(self->api.KernelInfoGetAttribute_int64(info, "window", &window));
    FR_OP_TRY(self->api.KernelInfoGetAttribute_int64(info, "causal", &causal));
    if (window < 0)
        return FR_OP_ATTENTION_REFUSE(self, "expected a window of at least 0; found %lld.", (long long)window);
    self->job.window = (size_t)window, self->job.causal = causal != 0;
    return NULL;
}

static OrtStatus *create(const OrtCustomOp *op, const OrtApi *table, const OrtKernelInfo *info, void **out) {
    (void)op;
    fr_op_attention *self = NULL;
    FR_OP_TRY(fr_op_attention_create(NAME, table, info, &self));
    OrtStatus *status = read_mask(self, info);
    if (status != NULL)
        fr_op_attention_destroy(self);
    else
        *out = self;
    return status;
}

static const char *get_name(const OrtCustomOp *op) {
    (void)op;
    return NAME;
}

static int get_input_type(const OrtCustomOp *op, size_t index) {
    (void)op;
    return index == POSITION ? ORT_INT64 : ORT_FLOAT32;
}

static size_t count_inputs(const OrtCustomOp *op) {
    (void)op;
    return INPUTS;
}

static int is_optional(const OrtCustomOp *op, size_t index) {
    (void)op;
    return index >= Q_NORM;
}

const OrtCustomOp fr_op_cached_attention = {.version = ORT_API_VERSION_USED,
                                            .GetName = get_name,
                                            .GetExecutionProviderType = fr_op_provider,
                                            .GetInputType = get_input_type,
                                            .GetInputTypeCount = count_inputs,
                                            .GetOutputType = fr_op_float,
                                            .GetOutputTypeCount = fr_op_attention_outputs,
                                            .KernelDestroy = fr_op_attention_destroy,
                                            .GetInputCharacteristic = is_optional,
                                            .GetOutputCharacteristic = fr_op_required,
                                            .GetInputMemoryType = fr_op_required,
                                            .CreateKernelV2 = create,
                                            .KernelComputeV2 = compute};
