#include "op_attention.h"

#include <math.h>
#include <stdlib.h>

#define REFUSE FR_OP_ATTENTION_REFUSE

enum { OUT, K_OUT, V_OUT, K_SCALE_OUT, V_SCALE_OUT, OUTPUTS };

/* The kind that a table of callbacks begins. */
static const fr_op_attention_kind *kind_of(const OrtCustomOp *op) {
    return (const fr_op_attention_kind *)op;
}

static OrtStatus *read_inputs(const fr_op_attention *self, OrtKernelContext *context, fr_op_tensor *of) {
    size_t given = 0;
    FR_OP_TRY(self->api.KernelContext_GetInputCount(context, &given));
    for (size_t i = 0; i < FR_ATTENTION_ROLES; i++)
        of[i] = (fr_op_tensor){.rank = 0};
    for (size_t i = 0; i < self->kind->n_roles && i < given; i++) {
        const OrtValue *value = NULL;
        FR_OP_TRY(self->api.KernelContext_GetInput(context, i, &value));
        FR_OP_TRY(fr_op_read(&self->api, value, &of[self->kind->roles[i]]));
    }
    return NULL;
}

static OrtStatus *take_outputs(const fr_op_attention *self, OrtKernelContext *context, const fr_op_tensor *of,
                               fr_attention *job) {
    const int64_t out[] = {of[FR_QKV].sizes[0], of[FR_QKV].sizes[1], (int64_t)(job->heads * job->dim)};
    const int64_t *const cache = of[FR_K_CACHE].sizes, *const sizes[OUTPUTS] = {out, cache, cache, cache, cache};
    static const size_t ranks[OUTPUTS] = {3, 4, 4, 3, 3};
    void *found[OUTPUTS] = {NULL};
    for (size_t i = 0; i < (self->kind->is_int8 ? OUTPUTS : K_SCALE_OUT); i++) {
        OrtValue *value = NULL;
        FR_OP_TRY(self->api.KernelContext_GetOutput(context, i, sizes[i], ranks[i], &value));
        FR_OP_TRY(self->api.GetTensorMutableData(value, &found[i]));
    }
    job->out = found[OUT], job->k.rows = found[K_OUT], job->v.rows = found[V_OUT];
    job->k.scales = found[K_SCALE_OUT], job->v.scales = found[V_SCALE_OUT];
    return NULL;
}

static void run_write(void *job, size_t part) {
    fr_attention_batch_write(job, part);
}

static void run_attend(void *job, size_t part) {
    fr_attention_batch_attend(job, part);
}

static OrtStatus *run_parts(const fr_op_attention *self, OrtKernelContext *context, void (*run)(void *, size_t),
                            size_t parts, fr_attention_batch *job) {
    if (parts > 1)
        return self->api.KernelContext_ParallelFor(context, run, parts, 0, job);
    if (parts == 1)
        run(job, 0);
    return NULL;
}

static OrtStatus *compute(void *data, OrtKernelContext *context) {
    const fr_op_attention *self = data;
    fr_op_tensor of[FR_ATTENTION_ROLES];
    fr_attention_batch job;
    FR_OP_TRY(read_inputs(self, context, of));
    FR_OP_TRY(fr_op_attention_take(self, of, &job));
    FR_OP_TRY(take_outputs(self, context, of, &job.first));
    FR_OP_TRY(run_parts(self, context, run_write, fr_attention_batch_writes(&job), &job));
    return run_parts(self, context, run_attend, fr_attention_batch_parts(&job), &job);
}

static OrtStatus *choose_path(fr_op_attention *self, const OrtKernelInfo *info) {
    const fr_attention_path *paths[FR_ATTENTION_MAX_PATHS];
    const char *names[FR_ATTENTION_MAX_PATHS];
    size_t n_paths = fr_attention_paths(paths), chosen = 0;
    for (size_t i = 0; i < n_paths; i++)
        names[i] = paths[i]->name;
    FR_OP_TRY(fr_op_choose_path(&self->api, self->kind->name, self->name, info, names, n_paths, &chosen));
    self->job.path = paths[chosen];
    return NULL;
}

static OrtStatus *read_heads(fr_op_attention *self, const OrtKernelInfo *info) {
    enum { HEADS, KV_HEADS, DIM, INTS };
    static const char *const names[INTS] = {"num_heads", "kv_num_heads", "head_dim"};
    int64_t found[INTS];
    fr_attention *job = &self->job;
    for (size_t i = 0; i < INTS; i++)
        FR_OP_TRY(self->api.KernelInfoGetAttribute_int64(info, names[i], &found[i]));
    FR_OP_TRY(self->api.KernelInfoGetAttribute_float(info, "scale", &job->scale));
    FR_OP_TRY(self->api.KernelInfoGetAttribute_float(info, "epsilon", &job->epsilon));
    FR_OP_TRY(self->api.KernelInfoGetAttribute_float(info, "softcap", &job->softcap));
    const int64_t most = 65536; /* heads: far above any model's, far below what overflows */
    if (found[KV_HEADS] < 1 || found[HEADS] < 1 || found[HEADS] > most || found[HEADS] % found[KV_HEADS] != 0 ||
        found[DIM] < 1 || found[DIM] > FR_ATTENTION_MAX_DIM || found[DIM] % FR_ATTENTION_MULTIPLE != 0 ||
        !(job->softcap >= 0.0f) || !isfinite(job->scale) || !(job->epsilon >= 0.0f))
        return REFUSE(self,
                      "expected num_heads a multiple of kv_num_heads, head_dim a multiple of %d of at most %d, softcap "
                      "and epsilon of at least 0 and a finite scale; found %lld, %lld, %lld, %g, %g, %g.",
                      FR_ATTENTION_MULTIPLE, FR_ATTENTION_MAX_DIM, (long long)found[HEADS], (long long)found[KV_HEADS],
                      (long long)found[DIM], (double)job->softcap, (double)job->epsilon, (double)job->scale);
    job->heads = (size_t)found[HEADS], job->kv_heads = (size_t)found[KV_HEADS], job->dim = (size_t)found[DIM];
    return NULL;
}

/* A block has no window and is not causal: what `job` is when nothing says otherwise. */
static OrtStatus *read_mask(fr_op_attention *self, const OrtKernelInfo *info) {
    int64_t window = 0, causal = 0;
    if (self->kind->is_block)
        return NULL;
    FR_OP_TRY(self->api.KernelInfoGetAttribute_int64(info, "window", &window));
    FR_OP_TRY(self->api.KernelInfoGetAttribute_int64(info, "causal", &causal));
    if (window < 0)
        return REFUSE(self, "expected a window of at least 0; found %lld.", (long long)window);
    self->job.window = (size_t)window, self->job.causal = causal != 0;
    return NULL;
}

static OrtStatus *create(const OrtCustomOp *op, const OrtApi *table, const OrtKernelInfo *info, void **out) {
    fr_ort_api api = {.version = ""};
    fr_ort_fill(table, &api);
    fr_op_attention *self = calloc(1, sizeof *self);
    if (self == NULL)
        return fr_op_refuse(&api, kind_of(op)->name, "", "no memory for a node.");
    self->api = api, self->kind = kind_of(op);
    fr_op_node_name(&api, info, self->name, sizeof self->name);
    OrtStatus *status = choose_path(self, info);
    if (status == NULL)
        status = read_heads(self, info);
    if (status == NULL)
        status = read_mask(self, info);
    if (status != NULL)
        free(self);
    else
        *out = self;
    return status;
}

static const char *get_name(const OrtCustomOp *op) {
    return kind_of(op)->name;
}

static int get_input_type(const OrtCustomOp *op, size_t index) {
    switch (kind_of(op)->roles[index]) {
    case FR_START:
    case FR_POSITION:
    case FR_PARENTS:
    case FR_ROWS:
        return ORT_INT64;
    case FR_K_CACHE:
    case FR_V_CACHE:
        return kind_of(op)->is_int8 ? ORT_INT8 : ORT_FLOAT32;
    default:
        return ORT_FLOAT32;
    }
}

static int get_output_type(const OrtCustomOp *op, size_t index) {
    return kind_of(op)->is_int8 && (index == K_OUT || index == V_OUT) ? ORT_INT8 : ORT_FLOAT32;
}

static size_t count_inputs(const OrtCustomOp *op) {
    return kind_of(op)->n_roles;
}

static size_t count_outputs(const OrtCustomOp *op) {
    return kind_of(op)->is_int8 ? OUTPUTS : K_SCALE_OUT;
}

static int is_optional(const OrtCustomOp *op, size_t index) {
    return kind_of(op)->roles[index] >= FR_Q_NORM;
}

#define CALLBACKS                                                                                                      \
    {.version = ORT_API_VERSION_USED,                                                                                  \
     .GetName = get_name,                                                                                              \
     .GetExecutionProviderType = fr_op_provider,                                                                       \
     .GetInputType = get_input_type,                                                                                   \
     .GetInputTypeCount = count_inputs,                                                                                \
     .GetOutputType = get_output_type,                                                                                 \
     .GetOutputTypeCount = count_outputs,                                                                              \
     .KernelDestroy = free,                                                                                            \
     .GetInputCharacteristic = is_optional,                                                                            \
     .GetOutputCharacteristic = fr_op_required,                                                                        \
     .GetInputMemoryType = fr_op_required,                                                                             \
     .CreateKernelV2 = create,                                                                                         \
     .KernelComputeV2 = compute}
#define KIND(variable, text, int8, block, ...)                                                                         \
    static const fr_op_attention_role variable##_roles[] = {__VA_ARGS__};                                              \
    const fr_op_attention_kind variable = {.op = CALLBACKS,                                                            \
                                           .name = (text),                                                             \
                                           .roles = variable##_roles,                                                  \
                                           .n_roles = sizeof variable##_roles / sizeof variable##_roles[0],            \
                                           .is_int8 = (int8),                                                          \
                                           .is_block = (block)};
#define SCALES FR_K_SCALE, FR_V_SCALE
#define TURNS FR_Q_NORM, FR_K_NORM, FR_COS, FR_SIN

KIND(fr_op_cached_attention, "CachedAttention", 0, 0, FR_QKV, FR_K_CACHE, FR_V_CACHE, FR_POSITION, TURNS, FR_PARENTS,
     FR_ROWS)
KIND(fr_op_cached_attention_int8, "CachedAttentionInt8", 1, 0, FR_QKV, FR_K_CACHE, FR_V_CACHE, SCALES, FR_POSITION,
     TURNS, FR_PARENTS, FR_ROWS)
KIND(fr_op_block_attention, "BlockAttention", 0, 1, FR_QKV, FR_CONTEXT_K, FR_CONTEXT_V, FR_K_CACHE, FR_V_CACHE,
     FR_START, FR_POSITION, TURNS)
KIND(fr_op_block_attention_int8, "BlockAttentionInt8", 1, 1, FR_QKV, FR_CONTEXT_K, FR_CONTEXT_V, FR_K_CACHE, FR_V_CACHE,
     SCALES, FR_START, FR_POSITION, TURNS)
