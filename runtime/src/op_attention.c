#include "op_attention.h"

#include <stdlib.h>

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
    for (size_t i = 0; i < self->kind->n_roles && i < given; i++)
        FR_OP_TRY(fr_op_read_input(&self->api, context, i, &of[self->kind->roles[i]]));
    return NULL;
}

OrtStatus *fr_op_attention_outputs(const fr_op_attention *self, OrtKernelContext *context, const fr_op_tensor *of,
                                   fr_attention *job) {
    const int64_t *cache = of[FR_K_CACHE].sizes;
    static const size_t ranks[OUTPUTS] = {0, 4, 4, 3, 3};
    void *found[OUTPUTS] = {NULL};
    for (size_t i = K_OUT; i < (self->kind->is_int8 ? OUTPUTS : K_SCALE_OUT); i++)
        FR_OP_TRY(fr_op_output(&self->api, context, i, cache, ranks[i], &found[i]));
    job->k.rows = found[K_OUT], job->v.rows = found[V_OUT];
    job->k.scales = found[K_SCALE_OUT], job->v.scales = found[V_SCALE_OUT];
    return NULL;
}

static OrtStatus *take_outputs(const fr_op_attention *self, OrtKernelContext *context, const fr_op_tensor *of,
                               fr_attention *job) {
    const int64_t out[] = {of[FR_QKV].sizes[0], of[FR_QKV].sizes[1], (int64_t)(job->heads * job->dim)};
    FR_OP_TRY(fr_op_output(&self->api, context, OUT, out, 3, (void **)&job->out));
    return fr_op_attention_outputs(self, context, of, job);
}

static void run_write(void *job, size_t part) {
    fr_attention_batch_write(job, part);
}

static void run_attend(void *job, size_t part) {
    fr_attention_batch_attend(job, part);
}

static OrtStatus *compute(void *data, OrtKernelContext *context) {
    const fr_op_attention *self = data;
    fr_op_tensor of[FR_ATTENTION_ROLES];
    fr_attention_batch job;
    FR_OP_TRY(read_inputs(self, context, of));
    FR_OP_TRY(fr_op_attention_take(self, of, &job));
    FR_OP_TRY(take_outputs(self, context, of, &job.first));
    FR_OP_TRY(fr_op_run(&self->api, context, run_write, fr_attention_batch_writes(&job), &job));
    return fr_op_run(&self->api, context, run_attend, fr_attention_batch_parts(&job), &job);
}

static OrtStatus *create(const OrtCustomOp *op, const OrtApi *table, const OrtKernelInfo *info, void **out) {
    fr_ort_api api = {.version = ""};
    fr_ort_fill(table, &api);
    fr_op_attention *self = calloc(1, sizeof *self);
    if (self == NULL)
        return fr_op_refuse(&api, kind_of(op)->name, "", "no memory for a node.");
    self->api = api, self->kind = kind_of(op);
    fr_op_node_name(&api, info, self->name, sizeof self->name);
    OrtStatus *status = fr_op_attention_set_up(self, info);
    if (status != NULL)
        free(self);
    else
        *out = self;
    return status;
}

static const char *get_name(const OrtCustomOp *op) {
    return kind_of(op)->name;
}

int fr_op_attention_type(const fr_op_attention_kind *kind, fr_op_attention_role role) {
    switch (role) {
    case FR_START:
    case FR_POSITION:
    case FR_PARENTS:
    case FR_ROWS:
        return ORT_INT64;
    case FR_K_CACHE:
    case FR_V_CACHE:
        return kind->is_int8 ? ORT_INT8 : ORT_FLOAT32;
    default:
        return ORT_FLOAT32;
    }
}

static int get_input_type(const OrtCustomOp *op, size_t index) {
    return fr_op_attention_type(kind_of(op), kind_of(op)->roles[index]);
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

#define CALLBACKS FR_OP_CALLBACKS(get_input_type, get_output_type, is_optional, free)
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
