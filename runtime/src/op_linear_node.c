#include "op_linear_node.h"

#include <stdio.h>

enum { MAX_NAME = 32 }; /* of an attribute, with its end */

#define REFUSE(self, ...) fr_op_refuse(&(self)->api, (self)->op->name, (self)->name, __VA_ARGS__)

/* 0 where there is none. */
static int64_t read_integer(const fr_linear_node *self, const OrtKernelInfo *info, const char *prefix,
                            const char *name) {
    char full[MAX_NAME];
    int64_t value = 0;
    snprintf(full, sizeof full, "%s%s", prefix, name);
    OrtStatus *absent = self->api.KernelInfoGetAttribute_int64(info, full, &value);
    if (absent == NULL)
        return value;
    self->api.ReleaseStatus(absent);
    return 0;
}

static void read_epsilon(fr_linear_node *self, const OrtKernelInfo *info, const char *prefix) {
    char full[MAX_NAME];
    snprintf(full, sizeof full, "%sepsilon", prefix);
    OrtStatus *absent = self->api.KernelInfoGetAttribute_float(info, full, &self->epsilon);
    if (absent != NULL) {
        self->api.ReleaseStatus(absent);
        self->epsilon = -1.0f; /* a norm is then refused */
    }
}

static OrtStatus *choose_path(fr_linear_node *self, const OrtKernelInfo *info, const char *prefix) {
    const fr_linear_path *paths[FR_LINEAR_MAX_PATHS];
    const char *names[FR_LINEAR_MAX_PATHS];
    char full[MAX_NAME];
    size_t n_paths = fr_linear_paths(self->op->format, paths), chosen = 0;
    for (size_t i = 0; i < n_paths; i++)
        names[i] = paths[i]->name;
    snprintf(full, sizeof full, "%spath", prefix);
    FR_OP_TRY(fr_op_choose_path(&self->api, self->op->name, self->name, info, full, names, n_paths, &chosen));
    self->path = paths[chosen];
    return NULL;
}

OrtStatus *fr_linear_node_set_up(fr_linear_node *self, const OrtKernelInfo *info, const char *prefix) {
    FR_OP_TRY(choose_path(self, info, prefix));
    read_epsilon(self, info, prefix);
    if (self->op->format != &fr_linear_int4)
        return NULL;
    self->group_size = read_integer(self, info, prefix, "group_size");
    self->outputs = read_integer(self, info, prefix, "outputs");
    if ((self->group_size == 32 || self->group_size == 64 || self->group_size == 128) && self->outputs >= 1)
        return NULL;
    return REFUSE(
        self,
        "expected the attributes %sgroup_size, of 32, 64 or 128, and %soutputs, of at least 1; found %lld and "
        "%lld. Build the bundle again.",
        prefix, prefix, (long long)self->group_size, (long long)self->outputs);
}

/* Of int4 where the node has the prefix's group_size. */
static const fr_op_linear *kind_of(const fr_ort_api *api, const OrtKernelInfo *info, const char *prefix, int is_gated) {
    char full[MAX_NAME];
    int64_t found = 0;
    snprintf(full, sizeof full, "%sgroup_size", prefix);
    OrtStatus *absent = api->KernelInfoGetAttribute_int64(info, full, &found);
    if (absent == NULL)
        return is_gated ? &fr_op_gated_linear_int4 : &fr_op_linear_int4;
    api->ReleaseStatus(absent);
    return is_gated ? &fr_op_gated_linear_int8 : &fr_op_linear_int8;
}

OrtStatus *fr_linear_node_set_up_part(fr_linear_node *self, const fr_ort_api *api, const OrtKernelInfo *info,
                                      const fr_linear_part_name *name) {
    char prefix[16];
    snprintf(prefix, sizeof prefix, "%s_", name->part);
    self->api = *api;
    self->op = kind_of(api, info, prefix, name->is_gated);
    snprintf(self->name, sizeof self->name, "%s of %.100s", name->part, name->node);
    return fr_linear_node_set_up(self, info, prefix);
}

/* An operator for both precisions cannot say to the library of which type its scales are. */
static OrtStatus *check_scale(const fr_linear_node *self, const fr_op_tensor *scale) {
    if (scale->type == self->op->scale_type)
        return NULL;
    return REFUSE(self, "expected scales of ONNX's type %d; found %d. Build the bundle again.", self->op->scale_type,
                  scale->type);
}

/* Int8: the scales are [N]. Int4: N is an attribute. */
static OrtStatus *check_sizes(const fr_linear_node *self, const fr_linear_tensors *of, fr_linear *job) {
    const fr_op_tensor *x = &of->x, *scale = &of->scale;
    const int known = self->outputs > 0;
    if (x->rank < 1 || (!known && scale->rank != 1))
        return REFUSE(self, "expected x [..., K] and weight_scale %s; found %zu dimensions and %zu dimensions.",
                      known ? "of three" : "[N]", x->rank, scale->rank);
    int64_t k = x->sizes[x->rank - 1], n = known ? self->outputs : scale->sizes[0];
    if (k < 1 || k > FR_LINEAR_MAX_K || n < 1)
        return REFUSE(self, "expected K from 1 to %d and N of at least 1; found K %lld and N %lld.", FR_LINEAR_MAX_K,
                      (long long)k, (long long)n);
    if (self->op->gated && n % (2 * FR_LINEAR_OUTPUTS) != 0)
        return REFUSE(self, "expected N as a multiple of %d, gates and values in turn; found %lld.",
                      2 * FR_LINEAR_OUTPUTS, (long long)n);
    job->n = (size_t)n;
    job->k = (size_t)k;
    job->rows = (size_t)fr_op_elements(x) / job->k;
    return NULL;
}

static int is(const fr_op_tensor *it, size_t first, size_t second, size_t third) {
    return it->rank == 3 && it->sizes[0] == (int64_t)first && it->sizes[1] == (int64_t)second &&
           it->sizes[2] == (int64_t)third;
}

static OrtStatus *check_packed(const fr_linear_node *self, const fr_linear_tensors *of, const fr_linear *job) {
    const size_t columns = (job->n + FR_LINEAR_OUTPUTS - 1) / FR_LINEAR_OUTPUTS;
    const size_t blocks = (job->k + FR_LINEAR_INPUTS - 1) / FR_LINEAR_INPUTS, bytes = self->op->format->block_bytes;
    const size_t groups = fr_linear_groups(job->k, (size_t)self->group_size);
    char found[2][128];
    if (!is(&of->weight, columns, blocks, bytes))
        return REFUSE(self,
                      "for x [..., %zu] and weight_scale %s expected a packed weight [%zu, %zu, %zu]; found %zu "
                      "dimensions, %s. Build the bundle again.",
                      job->k, fr_op_show(&of->scale, found[1], sizeof found[1]), columns, blocks, bytes,
                      of->weight.rank, fr_op_show(&of->weight, found[0], sizeof found[0]));
    if (self->outputs > 0 && !is(&of->scale, columns, groups, FR_LINEAR_OUTPUTS))
        return REFUSE(
            self,
            "for x [..., %zu] in groups of %lld and %zu outputs expected a weight_scale [%zu, %zu, %d]; found "
            "%zu dimensions, %s. Build the bundle again.",
            job->k, (long long)self->group_size, job->n, columns, groups, FR_LINEAR_OUTPUTS, of->scale.rank,
            fr_op_show(&of->scale, found[1], sizeof found[1]));
    return NULL;
}

/* Fills the addend's stride. */
static OrtStatus *check_around(const fr_linear_node *self, const fr_linear_tensors *of, fr_linear *job) {
    const fr_op_tensor *norm = &of->norm, *addend = &of->addend;
    if (norm->data != NULL && (norm->rank != 1 || norm->sizes[0] != (int64_t)job->k))
        return REFUSE(self, "expected norm [%zu]; found %zu dimensions, %lld elements.", job->k, norm->rank,
                      (long long)fr_op_elements(norm));
    if (norm->data != NULL && !(self->epsilon >= 0.0f))
        return REFUSE(self, "a norm needs the attribute epsilon, zero or more.");
    int64_t count = fr_op_elements(addend), n = (int64_t)job->n;
    if (addend->data != NULL && count != n && count != (int64_t)job->rows * n)
        return REFUSE(self, "expected an addend of %lld elements, or of %lld for each row; found %lld.",
                      (long long)((int64_t)job->rows * n), (long long)n, (long long)count);
    job->addend_stride = count == n ? 0 : job->n;
    return NULL;
}

OrtStatus *fr_linear_node_take(const fr_linear_node *self, const fr_linear_tensors *of, fr_linear *job) {
    *job = (fr_linear){.path = self->path,
                       .x = of->x.data,
                       .weights = of->weight.data,
                       .weight_scales = of->scale.data,
                       .group_size = (size_t)self->group_size,
                       .norm = of->norm.data,
                       .epsilon = self->epsilon,
                       .addend = of->addend.data,
                       .gated = self->op->gated};
    FR_OP_TRY(check_scale(self, &of->scale));
    FR_OP_TRY(check_sizes(self, of, job));
    FR_OP_TRY(check_packed(self, of, job));
    return check_around(self, of, job);
}
