#include "op_layer.h"

#include <stdlib.h>
#include <string.h>

/* The kind that a table of callbacks begins. */
static const fr_op_layer_kind *kind_of(const OrtCustomOp *op) {
    return (const fr_op_layer_kind *)op;
}

static OrtStatus *read_inputs(const fr_op_layer *self, const OrtKernelContext *context, fr_op_tensor *of) {
    size_t given = 0;
    FR_OP_TRY(self->api.KernelContext_GetInputCount(context, &given));
    memcpy(of, self->constants, sizeof self->constants);
    for (size_t i = 0; i < self->kind->n_roles && i < given; i++) {
        fr_op_tensor *found = &of[self->kind->roles[i]];
        if (found->data == NULL)
            FR_OP_TRY(fr_op_read_input(&self->api, context, i, found));
    }
    return NULL;
}

static OrtStatus *take_outputs(const fr_op_layer *self, OrtKernelContext *context, const fr_op_tensor *of,
                               fr_layer *job) {
    FR_OP_TRY(fr_op_output(&self->api, context, 0, of[FR_LAYER_X].sizes, 3, (void **)&job->y));
    return fr_op_attention_outputs(&self->attention, context, of, &job->attention.first);
}

static void run_seat(void *job, size_t seat) {
    fr_layer_seat(job, seat);
}

static OrtStatus *compute(void *data, OrtKernelContext *context) {
    const fr_op_layer *self = data;
    fr_op_tensor of[FR_LAYER_ROLES];
    fr_layer job;
    FR_OP_TRY(read_inputs(self, context, of));
    FR_OP_TRY(fr_op_layer_take(self, of, &job));
    FR_OP_TRY(take_outputs(self, context, of, &job));
    FR_OP_TRY(self->api.AllocatorAlloc(self->allocator, fr_layer_scratch(&job), &job.scratch));
    fr_layer_begin(&job);
    OrtStatus *status = fr_op_sit(&self->api, context, run_seat, job.seats, &job);
    return fr_op_free(&self->api, self->allocator, job.scratch, status);
}

static OrtStatus *set_up(fr_op_layer *self, const OrtKernelInfo *info) {
    size_t given = 0;
    fr_op_node_name(&self->api, info, self->name, sizeof self->name);
    FR_OP_TRY(fr_op_layer_set_up(self, info));
    FR_OP_TRY(self->api.KernelInfoGetAllocator(info, ORT_MEMORY_DEFAULT, &self->allocator));
    FR_OP_TRY(self->api.KernelInfo_GetInputCount(info, &given));
    for (size_t i = 0; i < self->kind->n_roles && i < given; i++)
        FR_OP_TRY(fr_op_constant(&self->api, info, i, &self->constants[self->kind->roles[i]]));
    return NULL;
}

static void destroy(void *data) {
    fr_op_layer *self = data;
    if (self->allocator != NULL)
        self->api.ReleaseAllocator(self->allocator);
    free(self);
}

static OrtStatus *create(const OrtCustomOp *op, const OrtApi *table, const OrtKernelInfo *info, void **out) {
    fr_ort_api api = {.version = ""};
    fr_ort_fill(table, &api);
    fr_op_layer *self = calloc(1, sizeof *self);
    if (self == NULL)
        return fr_op_refuse(&api, kind_of(op)->name, "", "no memory for a node.");
    self->api = api, self->kind = kind_of(op);
    OrtStatus *status = set_up(self, info);
    if (status != NULL)
        destroy(self);
    else
        *out = self;
    return status;
}

static const char *get_name(const OrtCustomOp *op) {
    return kind_of(op)->name;
}

static int get_input_type(const OrtCustomOp *op, size_t index) {
    const int role = kind_of(op)->roles[index];
    if (role < FR_ATTENTION_ROLES)
        return fr_op_attention_type(kind_of(op)->attention, (fr_op_attention_role)role);
    if (role >= FR_LAYER_WEIGHTS && role < FR_LAYER_QKV_NORM)
        return (role - FR_LAYER_WEIGHTS) % 2 == 0 ? ORT_UINT8 : ORT_ANY_TYPE;
    return ORT_FLOAT32;
}

/* The first output is of the same type, and the others are the same ones. */
static int get_output_type(const OrtCustomOp *op, size_t index) {
    const OrtCustomOp *attention = &kind_of(op)->attention->op;
    return attention->GetOutputType(attention, index);
}

static size_t count_inputs(const OrtCustomOp *op) {
    return kind_of(op)->n_roles;
}

static size_t count_outputs(const OrtCustomOp *op) {
    const OrtCustomOp *attention = &kind_of(op)->attention->op;
    return attention->GetOutputTypeCount(attention);
}

static int is_optional(const OrtCustomOp *op, size_t index) {
    const int role = kind_of(op)->roles[index];
    return role >= FR_LAYER_QKV_NORM || (role >= FR_Q_NORM && role < FR_ATTENTION_ROLES);
}

#define CALLBACKS FR_OP_CALLBACKS(get_input_type, get_output_type, is_optional, destroy)
#define KIND(variable, text, attention_kind, ...)                                                                      \
    static const int variable##_roles[] = {__VA_ARGS__};                                                               \
    const fr_op_layer_kind variable = {.op = CALLBACKS,                                                                \
                                       .attention = &(attention_kind),                                                 \
                                       .name = (text),                                                                 \
                                       .roles = variable##_roles,                                                      \
                                       .n_roles = sizeof variable##_roles / sizeof variable##_roles[0]};
#define WEIGHT(i) FR_LAYER_WEIGHTS + 2 * (i), FR_LAYER_WEIGHTS + 2 * (i) + 1
#define FIRST FR_LAYER_X, WEIGHT(0), WEIGHT(1), WEIGHT(2), WEIGHT(3), FR_K_CACHE, FR_V_CACHE
#define LAST                                                                                                           \
    FR_POSITION, FR_LAYER_QKV_NORM, FR_LAYER_GATE_NORM, FR_Q_NORM, FR_K_NORM, FR_COS, FR_SIN, FR_PARENTS, FR_ROWS

KIND(fr_op_decoder_layer, "DecoderLayer", fr_op_cached_attention, FIRST, LAST)
KIND(fr_op_decoder_layer_int8, "DecoderLayerInt8", fr_op_cached_attention_int8, FIRST, FR_K_SCALE, FR_V_SCALE, LAST)
