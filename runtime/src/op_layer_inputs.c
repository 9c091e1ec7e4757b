/* Attributes and inputs of a decoder layer: each part reads and checks its own, here is what is between them. */
#include "op_layer.h"

#include <stdio.h>

#define REFUSE(self, ...) fr_op_refuse(&(self)->api, (self)->kind->name, (self)->name, __VA_ARGS__)

static const char *const PARTS[FR_LAYER_PRODUCTS] = {"qkv", "output", "gate", "down"};

OrtStatus *fr_op_layer_set_up(fr_op_layer *self, const OrtKernelInfo *info) {
    for (size_t i = 0; i < FR_LAYER_PRODUCTS; i++) {
        const fr_linear_part_name name = {.part = PARTS[i], .node = self->name, .is_gated = i == FR_LAYER_GATED};
        FR_OP_TRY(fr_linear_node_set_up_part(&self->products[i], &self->api, info, &name));
    }
    self->attention.kind = self->kind->attention, self->attention.api = self->api;
    snprintf(self->attention.name, sizeof self->attention.name, "%s", self->name);
    return fr_op_attention_set_up(&self->attention, info);
}

/* A product of rows [B, T, width]; *width becomes that of what it writes. */
static OrtStatus *take_product(const fr_op_layer *self, const fr_op_tensor *of, size_t i, int64_t *width,
                               fr_linear *job) {
    static const int norms[FR_LAYER_PRODUCTS] = {[FR_LAYER_QKV] = FR_LAYER_QKV_NORM,
                                                 [FR_LAYER_GATED] = FR_LAYER_GATE_NORM};
    fr_linear_tensors in = {
        .x = of[FR_LAYER_X], .weight = of[FR_LAYER_WEIGHTS + 2 * i], .scale = of[FR_LAYER_WEIGHTS + 2 * i + 1]};
    in.x.sizes[2] = *width;
    if (norms[i] != 0)
        in.norm = of[norms[i]];
    FR_OP_TRY(fr_linear_node_take(&self->products[i], &in, job));
    *width = (int64_t)(job->gated ? job->n / 2 : job->n);
    return NULL;
}

/* The attention of rows of qkv, which are made in the run. */
static OrtStatus *take_attention(const fr_op_layer *self, fr_op_tensor *of, int64_t *width, fr_attention_batch *job) {
    of[FR_QKV] = of[FR_LAYER_X];
    of[FR_QKV].sizes[2] = *width;
    FR_OP_TRY(fr_op_attention_take(&self->attention, of, job));
    *width = (int64_t)(job->first.heads * job->first.dim);
    return NULL;
}

static OrtStatus *check_residual(const fr_op_layer *self, int64_t width, const fr_op_tensor *of, size_t i) {
    const int64_t wanted = of[FR_LAYER_X].sizes[2];
    if (width == wanted)
        return NULL;
    return REFUSE(self, "expected %lld outputs of %s, as x has; found %lld.", (long long)wanted, PARTS[i],
                  (long long)width);
}

OrtStatus *fr_op_layer_take(const fr_op_layer *self, fr_op_tensor *of, fr_layer *job) {
    if (of[FR_LAYER_X].rank != 3)
        return REFUSE(self, "expected x [B, T, E]; found %zu dimensions.", of[FR_LAYER_X].rank);
    int64_t width = of[FR_LAYER_X].sizes[2];
    job->x = of[FR_LAYER_X].data, job->seats = fr_op_seats();
    for (size_t i = 0; i < FR_LAYER_PRODUCTS; i++) {
        FR_OP_TRY(take_product(self, of, i, &width, &job->products[i]));
        if (i == FR_LAYER_QKV)
            FR_OP_TRY(take_attention(self, of, &width, &job->attention));
        if (i == FR_LAYER_OUTPUT || i == FR_LAYER_DOWN)
            FR_OP_TRY(check_residual(self, width, of, i));
    }
    return NULL;
}
