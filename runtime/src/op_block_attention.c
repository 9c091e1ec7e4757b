#include "op_block_attention.h"

#include "op_attention.h"

static const char NAME[] = "BlockAttention";

enum { QKV, CONTEXT_K, CONTEXT_V, K_CACHE, V_CACHE, START, POSITION, Q_NORM, K_NORM, COS, SIN, INPUTS };

/* `job` has the block's position, which is not negative. */
static OrtStatus *take_context(const fr_op_attention *self, const fr_op_tensor *of, fr_attention *job) {
    const fr_op_tensor *k = &of[CONTEXT_K], *v = &of[CONTEXT_V];
    const int64_t shape[] = {1, k->rank == 3 ? k->sizes[1] : 0, (int64_t)(job->kv_heads * job->dim)};
    char found[2][128];
    if (!fr_op_attention_is(k, 3, shape) || !fr_op_attention_is(v, 3, shape))
        return FR_OP_ATTENTION_REFUSE(self, "expected context_k and context_v [1, T, %lld]; found %s and %s.",
                                      (long long)shape[2], fr_op_show(k, found[0], sizeof found[0]),
                                      fr_op_show(v, found[1], sizeof found[1]));
    if (!fr_op_attention_is(&of[START], 1, &(int64_t){1}))
        return FR_OP_ATTENTION_REFUSE(self, "expected context_position [1]; found %s.",
                                      fr_op_show(&of[START], found[0], sizeof found[0]));
    int64_t start = *(const int64_t *)of[START].data, position = (int64_t)job->position;
    if (start < 0 || start > position || position - start > shape[1])
        return FR_OP_ATTENTION_REFUSE(
            self,
            "expected the block to begin within the %lld rows of the context at position %lld or at their end; "
            "found it at position %lld.",
            (long long)shape[1], (long long)start, (long long)position);
    job->context_k = k->data, job->context_v = v->data;
    job->context_rows = (size_t)(position - start);
    return NULL;
}

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
    FR_OP_TRY(take_context(self, of, &job));
    return fr_op_attention_run(self, context, &in, &job);
}

/* Without a window and not causal: what `job` is when nothing says otherwise. */
static OrtStatus *create(const OrtCustomOp *op, const OrtApi *table, const OrtKernelInfo *info, void **out) {
    (void)op;
    fr_op_attention *self = NULL;
    FR_OP_TRY(fr_op_attention_create(NAME, table, info, &self));
    *out = self;
    return NULL;
}

static const char *get_name(const OrtCustomOp *op) {
    (void)op;
    return NAME;
}

static int get_input_type(const OrtCustomOp *op, size_t index) {
    (void)op;
    return index == START || index == POSITION ? ORT_INT64 : ORT_FLOAT32;
}

static size_t count_inputs(const OrtCustomOp *op) {
    (void)op;
    return INPUTS;
}

static int is_optional(const OrtCustomOp *op, size_t index) {
    (void)op;
    return index >= Q_NORM;
}

const OrtCustomOp fr_op_block_attention = {.version = ORT_API_VERSION_USED,
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
