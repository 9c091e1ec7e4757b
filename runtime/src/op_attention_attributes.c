/* The attributes of our operators of attention. */
#include "op_attention.h"

#include <math.h>

#define REFUSE FR_OP_ATTENTION_REFUSE

static OrtStatus *choose_path(fr_op_attention *self, const OrtKernelInfo *info) {
    const fr_attention_path *paths[FR_ATTENTION_MAX_PATHS];
    const char *names[FR_ATTENTION_MAX_PATHS];
    size_t n_paths = fr_attention_paths(paths), chosen = 0;
    for (size_t i = 0; i < n_paths; i++)
        names[i] = paths[i]->name;
    FR_OP_TRY(fr_op_choose_path(&self->api, self->kind->name, self->name, info, "path", names, n_paths, &chosen));
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

OrtStatus *fr_op_attention_set_up(fr_op_attention *self, const OrtKernelInfo *info) {
    FR_OP_TRY(choose_path(self, info));
    FR_OP_TRY(read_heads(self, info));
    return read_mask(self, info);
}
