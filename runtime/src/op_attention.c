#include "op_attention.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define REFUSE FR_OP_ATTENTION_REFUSE

int fr_op_attention_is(const fr_op_tensor *it, size_t rank, const int64_t *sizes) {
    return it->rank == rank && memcmp(it->sizes, sizes, rank * sizeof *sizes) == 0;
}

OrtStatus *fr_op_attention_read(const fr_op_attention *self, OrtKernelContext *context, fr_op_tensor *out,
                                size_t count) {
    size_t given = 0;
    FR_OP_TRY(self->api.KernelContext_GetInputCount(context, &given));
    for (size_t i = 0; i < count; i++) {
        const OrtValue *value = NULL;
        if (i < given)
            FR_OP_TRY(self->api.KernelContext_GetInput(context, i, &value));
        FR_OP_TRY(fr_op_read(&self->api, value, &out[i]));
    }
    return NULL;
}

static OrtStatus *check_tokens(const fr_op_attention *self, const fr_op_attention_inputs *in) {
    const fr_attention *job = &self->job;
    const fr_op_tensor *qkv = in->qkv, *k = in->k_cache, *v = in->v_cache;
    char found[3][128];
    int64_t width = (int64_t)((job->heads + 2 * job->kv_heads) * job->dim);
    int64_t cache[] = {1, (int64_t)job->kv_heads, k->rank == 4 ? k->sizes[2] : 0, (int64_t)job->dim};
    if (qkv->rank != 3 || qkv->sizes[0] != 1 || qkv->sizes[2] != width || !fr_op_attention_is(k, 4, cache) ||
        !fr_op_attention_is(v, 4, cache))
        return REFUSE(self, "expected qkv [1, T, %lld] and caches [1, %zu, C, %zu]; found %s, %s and %s.",
                      (long long)width, job->kv_heads, job->dim, fr_op_show(qkv, found[0], sizeof found[0]),
                      fr_op_show(k, found[1], sizeof found[1]), fr_op_show(v, found[2], sizeof found[2]));
    if (!fr_op_attention_is(in->position, 1, &(int64_t){1}))
        return REFUSE(self, "expected position [1]; found %s.", fr_op_show(in->position, found[0], sizeof found[0]));
    int64_t position = *(const int64_t *)in->position->data, rows = qkv->sizes[1];
    if (position < 0 || position > cache[2] || rows > cache[2] - position)
        return REFUSE(self, "%lld rows at position %lld do not fit into a cache of %lld.", (long long)rows,
                      (long long)position, (long long)cache[2]);
    return NULL;
}

static OrtStatus *check_tables(const fr_op_attention *self, const fr_op_attention_inputs *in) {
    const fr_op_tensor *const norms[] = {in->q_norm, in->k_norm}, *cosine = in->cos, *sine = in->sin;
    const int64_t dim = (int64_t)self->job.dim, end = *(const int64_t *)in->position->data + in->qkv->sizes[1];
    char found[2][128];
    for (size_t i = 0; i < 2; i++)
        if (norms[i]->data != NULL && !fr_op_attention_is(norms[i], 1, &dim))
            return REFUSE(self, "expected norms [%lld]; found %s.", (long long)dim,
                          fr_op_show(norms[i], found[0], sizeof found[0]));
    if (cosine->data == NULL && sine->data == NULL)
        return NULL;
    if (cosine->rank != 2 || !fr_op_attention_is(sine, 2, cosine->sizes) || cosine->sizes[1] > dim / 2 ||
        cosine->sizes[0] < end)
        return REFUSE(self, "expected cos and sin of equal shape, [at least %lld, at most %lld]; found %s and %s.",
                      (long long)end, (long long)(dim / 2), fr_op_show(cosine, found[0], sizeof found[0]),
                      fr_op_show(sine, found[1], sizeof found[1]));
    return NULL;
}

OrtStatus *fr_op_attention_take(const fr_op_attention *self, const fr_op_attention_inputs *in, fr_attention *job) {
    FR_OP_TRY(check_tokens(self, in));
    FR_OP_TRY(check_tables(self, in));
    *job = self->job;
    job->qkv = in->qkv->data, job->k_before = in->k_cache->data, job->v_before = in->v_cache->data;
    job->q_norm = in->q_norm->data, job->k_norm = in->k_norm->data;
    job->cos = in->cos->data, job->sin = in->sin->data;
    job->half = job->cos != NULL ? (size_t)in->cos->sizes[1] : 0;
    job->rows = (size_t)in->qkv->sizes[1], job->capacity = (size_t)in->k_cache->sizes[2];
    job->position = (size_t)*(const int64_t *)in->position->data;
    return NULL;
}

static void run_write(void *job, size_t part) {
    fr_attention_write(job, part);
}

static void run_attend(void *job, size_t part) {
    fr_attention_attend(job, part);
}

static OrtStatus *run_parts(const fr_op_attention *self, OrtKernelContext *context, void (*run)(void *, size_t),
                            size_t parts, fr_attention *job) {
    if (parts > 1)
        return self->api.KernelContext_ParallelFor(context, run, parts, 0, job);
    if (parts == 1)
        run(job, 0);
    return NULL;
}

enum { OUT, K_OUT, V_OUT, OUTPUTS };

size_t fr_op_attention_outputs(const OrtCustomOp *op) {
    (void)op;
    return OUTPUTS;
}

OrtStatus *fr_op_attention_run(const fr_op_attention *self, OrtKernelContext *context, const fr_op_attention_inputs *in,
                               fr_attention *job) {
    const int64_t out[] = {1, in->qkv->sizes[1], (int64_t)(job->heads * job->dim)};
    const int64_t *const sizes[OUTPUTS] = {out, in->k_cache->sizes, in->v_cache->sizes};
    float **const targets[OUTPUTS] = {&job->out, &job->k_cache, &job->v_cache};
    for (size_t i = 0; i < OUTPUTS; i++) {
        OrtValue *value = NULL;
        FR_OP_TRY(self->api.KernelContext_GetOutput(context, i, sizes[i], i == OUT ? 3 : 4, &value));
        FR_OP_TRY(self->api.GetTensorMutableData(value, (void **)targets[i]));
    }
    FR_OP_TRY(run_parts(self, context, run_write, fr_attention_writes(job), job));
    return run_parts(self, context, run_attend, fr_attention_parts(job), job);
}

static OrtStatus *choose_path(fr_op_attention *self, const OrtKernelInfo *info) {
    const fr_attention_path *paths[FR_ATTENTION_MAX_PATHS];
    const char *names[FR_ATTENTION_MAX_PATHS];
    size_t n_paths = fr_attention_paths(paths), chosen = 0;
    for (size_t i = 0; i < n_paths; i++)
        names[i] = paths[i]->name;
    FR_OP_TRY(fr_op_choose_path(&self->api, self->op, self->name, info, names, n_paths, &chosen));
    self->job.path = paths[chosen];
    return NULL;
}

static OrtStatus *read_attributes(fr_op_attention *self, const OrtKernelInfo *info) {
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

OrtStatus *fr_op_attention_create(const char *op, const OrtApi *table, const OrtKernelInfo *info,
                                  fr_op_attention **out) {
    fr_ort_api api = {.version = ""};
    fr_ort_fill(table, &api);
    fr_op_attention *self = calloc(1, sizeof *self);
    if (self == NULL)
        return fr_op_refuse(&api, op, "", "no memory for a node.");
    self->api = api, self->op = op;
    fr_op_node_name(&api, info, self->name, sizeof self->name);
    OrtStatus *status = choose_path(self, info);
    if (status == NULL)
        status = read_attributes(self, info);
    if (status != NULL)
        fr_op_attention_destroy(self);
    else
        *out = self;
    return status;
}

void fr_op_attention_destroy(void *self) {
    free(self);
}
