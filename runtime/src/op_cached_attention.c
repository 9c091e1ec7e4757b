#include "op_cached_attention.h"

#include "kernels/attention.h"
#include "op_support.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char NAME[] = "CachedAttention";

enum { QKV, K_CACHE, V_CACHE, POSITION, Q_NORM, K_NORM, COS, SIN, INPUTS };
enum { OUT, K_OUT, V_OUT, OUTPUTS };

/* One node: `job` holds its attributes; each run fills a copy, since runs of one session may overlap. */
typedef struct kernel {
    fr_ort_api api;
    fr_attention job;
    char name[128];
} kernel;

/* The inputs of one run. */
typedef struct inputs {
    fr_op_tensor of[INPUTS];
} inputs;

#define REFUSE(self, ...) fr_op_refuse(&(self)->api, NAME, (self)->name, __VA_ARGS__)

static int has_shape(const fr_op_tensor *it, size_t rank, const int64_t *sizes) {
    return it->rank == rank && memcmp(it->sizes, sizes, rank * sizeof *sizes) == 0;
}

static const char *show(const fr_op_tensor *it, char *out, size_t size) {
    size_t used = (size_t)snprintf(out, size, "[");
    for (size_t i = 0; i < it->rank && used < size; i++)
        used += (size_t)snprintf(out + used, size - used, i > 0 ? ", %lld" : "%lld", (long long)it->sizes[i]);
    if (used < size)
        snprintf(out + used, size - used, "]");
    return out;
}

static OrtStatus *check_tokens(const kernel *self, const inputs *in) {
    const fr_attention *job = &self->job;
    const fr_op_tensor *qkv = &in->of[QKV], *k = &in->of[K_CACHE], *v = &in->of[V_CACHE];
    char found[3][128];
    int64_t width = (int64_t)((job->heads + 2 * job->kv_heads) * job->dim);
    int64_t cache[] = {1, (int64_t)job->kv_heads, k->rank == 4 ? k->sizes[2] : 0, (int64_t)job->dim};
    if (qkv->rank != 3 || qkv->sizes[0] != 1 || qkv->sizes[2] != width || !has_shape(k, 4, cache) ||
        !has_shape(v, 4, cache))
        return REFUSE(self, "expected qkv [1, T, %lld] and caches [1, %zu, C, %zu]; found %s, %s and %s.",
                      (long long)width, job->kv_heads, job->dim, show(qkv, found[0], sizeof found[0]),
                      show(k, found[1], sizeof found[1]), show(v, found[2], sizeof found[2]));
    if (!has_shape(&in->of[POSITION], 1, &(int64_t){1}))
        return REFUSE(self, "expected position [1]; found %s.", show(&in->of[POSITION], found[0], sizeof found[0]));
    int64_t position = *(const int64_t *)in->of[POSITION].data, rows = qkv->sizes[1];
    if (position < 0 || position > cache[2] || rows > cache[2] - position)
        return REFUSE(self, "%lld rows at position %lld do not fit into a cache of %lld.", (long long)rows,
                      (long long)position, (long long)cache[2]);
    return NULL;
}

static OrtStatus *check_tables(const kernel *self, const inputs *in) {
    const fr_op_tensor *cosine = &in->of[COS], *sine = &in->of[SIN];
    const int64_t dim = (int64_t)self->job.dim, end = *(const int64_t *)in->of[POSITION].data + in->of[QKV].sizes[1];
    char found[2][128];
    for (size_t i = Q_NORM; i <= K_NORM; i++)
        if (in->of[i].data != NULL && !has_shape(&in->of[i], 1, &dim))
            return REFUSE(self, "expected norms [%lld]; found %s.", (long long)dim,
                          show(&in->of[i], found[0], sizeof found[0]));
    if (cosine->data == NULL && sine->data == NULL)
        return NULL;
    if (cosine->rank != 2 || !has_shape(sine, 2, cosine->sizes) || cosine->sizes[1] > dim / 2 || cosine->sizes[0] < end)
        return REFUSE(self, "expected cos and sin of equal shape, [at least %lld, at most %lld]; found %s and %s.",
                      (long long)end, (long long)(dim / 2), show(cosine, found[0], sizeof found[0]),
                      show(sine, found[1], sizeof found[1]));
    return NULL;
}

static OrtStatus *take_outputs(const kernel *self, OrtKernelContext *context, const inputs *in, fr_attention *job) {
    const int64_t out[] = {1, in->of[QKV].sizes[1], (int64_t)(job->heads * job->dim)};
    const int64_t *const sizes[OUTPUTS] = {out, in->of[K_CACHE].sizes, in->of[V_CACHE].sizes};
    float **const targets[OUTPUTS] = {&job->out, &job->k_cache, &job->v_cache};
    for (size_t i = 0; i < OUTPUTS; i++) {
        OrtValue *value = NULL;
        FR_OP_TRY(self->api.KernelContext_GetOutput(context, i, sizes[i], i == OUT ? 3 : 4, &value));
        FR_OP_TRY(self->api.GetTensorMutableData(value, (void **)targets[i]));
    }
    return NULL;
}

static void run_write(void *job, size_t part) {
    fr_attention_write(job, part);
}

static void run_attend(void *job, size_t part) {
    fr_attention_attend(job, part);
}

static OrtStatus *run_parts(const kernel *self, OrtKernelContext *context, void (*run)(void *, size_t), size_t parts,
                            fr_attention *job) {
    if (parts > 1)
        return self->api.KernelContext_ParallelFor(context, run, parts, 0, job);
    if (parts == 1)
        run(job, 0);
    return NULL;
}

static OrtStatus *compute(void *data, OrtKernelContext *context) {
    const kernel *self = data;
    inputs in;
    size_t count = 0;
    FR_OP_TRY(self->api.KernelContext_GetInputCount(context, &count));
    for (size_t i = 0; i < INPUTS; i++) { /* those at the end may be left out */
        const OrtValue *value = NULL;
        if (i < count)
            FR_OP_TRY(self->api.KernelContext_GetInput(context, i, &value));
        FR_OP_TRY(fr_op_read(&self->api, value, &in.of[i]));
    }
    FR_OP_TRY(check_tokens(self, &in));
    FR_OP_TRY(check_tables(self, &in));
    fr_attention job = self->job;
    job.qkv = in.of[QKV].data, job.k_before = in.of[K_CACHE].data, job.v_before = in.of[V_CACHE].data;
    job.q_norm = in.of[Q_NORM].data, job.k_norm = in.of[K_NORM].data;
    job.cos = in.of[COS].data, job.sin = in.of[SIN].data;
    job.half = job.cos != NULL ? (size_t)in.of[COS].sizes[1] : 0;
    job.rows = (size_t)in.of[QKV].sizes[1], job.capacity = (size_t)in.of[K_CACHE].sizes[2];
    job.position = (size_t)*(const int64_t *)in.of[POSITION].data;
    FR_OP_TRY(take_outputs(self, context, &in, &job));
    FR_OP_TRY(run_parts(self, context, run_write, fr_attention_writes(&job), &job));
    return run_parts(self, context, run_attend, fr_attention_parts(&job), &job);
}

static OrtStatus *choose_path(kernel *self, const OrtKernelInfo *info) {
    const fr_attention_path *paths[FR_ATTENTION_MAX_PATHS];
    const char *names[FR_ATTENTION_MAX_PATHS];
    size_t n_paths = fr_attention_paths(paths), chosen = 0;
    for (size_t i = 0; i < n_paths; i++)
        names[i] = paths[i]->name;
    FR_OP_TRY(fr_op_choose_path(&self->api, NAME, self->name, info, names, n_paths, &chosen));
    self->job.path = paths[chosen];
    return NULL;
}

static OrtStatus *read_attributes(kernel *self, const OrtKernelInfo *info) {
    enum { HEADS, KV_HEADS, DIM, WINDOW, CAUSAL, INTS };
    static const char *const names[INTS] = {"num_heads", "kv_num_heads", "head_dim", "window", "causal"};
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
        found[WINDOW] < 0 || !(job->softcap >= 0.0f) || !isfinite(job->scale) || !(job->epsilon >= 0.0f))
        return REFUSE(self,
                      "expected num_heads a multiple of kv_num_heads, head_dim a multiple of %d of at most %d, window, "
                      "softcap and epsilon of at least 0 and a finite scale; found %lld, %lld, %lld, %lld, %g, %g, %g.",
                      FR_ATTENTION_MULTIPLE, FR_ATTENTION_MAX_DIM, (long long)found[HEADS], (long long)found[KV_HEADS],
                      (long long)found[DIM], (long long)found[WINDOW], (double)job->softcap, (double)job->epsilon,
                      (double)job->scale);
    job->heads = (size_t)found[HEADS], job->kv_heads = (size_t)found[KV_HEADS], job->dim = (size_t)found[DIM];
    job->window = (size_t)found[WINDOW], job->causal = found[CAUSAL] != 0;
    return NULL;
}

static void destroy(void *data) {
    free(data);
}

static OrtStatus *create(const OrtCustomOp *op, const OrtApi *table, const OrtKernelInfo *info, void **out) {
    (void)op;
    fr_ort_api api = {.version = ""};
    fr_ort_fill(table, &api);
    kernel *self = calloc(1, sizeof *self);
    if (self == NULL)
        return api.CreateStatus(ORT_INVALID_ARGUMENT, "CachedAttention: no memory for a node.");
    self->api = api;
    fr_op_node_name(&api, info, self->name, sizeof self->name);
    OrtStatus *status = choose_path(self, info);
    if (status == NULL)
        status = read_attributes(self, info);
    if (status != NULL)
        destroy(self);
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

static size_t count_outputs(const OrtCustomOp *op) {
    (void)op;
    return OUTPUTS;
}

const OrtCustomOp fr_op_cached_attention = {.version = ORT_API_VERSION_USED,
                                            .GetName = get_name,
                                            .GetExecutionProviderType = fr_op_provider,
                                            .GetInputType = get_input_type,
                                            .GetInputTypeCount = count_inputs,
                                            .GetOutputType = fr_op_float,
                                            .GetOutputTypeCount = count_outputs,
                                            .KernelDestroy = destroy,
                                            .GetInputCharacteristic = is_optional,
                                            .GetOutputCharacteristic = fr_op_required,
                                            .GetInputMemoryType = fr_op_required,
                                            .CreateKernelV2 = create,
                                            .KernelComputeV2 = compute};
