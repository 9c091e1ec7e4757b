/* Checks of the inputs of our operators of attention. */
#include "op_attention.h"

#include <string.h>

#define REFUSE FR_OP_ATTENTION_REFUSE

static int has_shape(const fr_op_tensor *it, size_t rank, const int64_t *sizes) {
    return it->rank == rank && memcmp(it->sizes, sizes, rank * sizeof *sizes) == 0;
}

static int64_t at(const fr_op_tensor *it, int64_t index) {
    return ((const int64_t *)it->data)[index];
}

/* Rows of a sequence that are there. */
static int64_t rows_of(const fr_op_tensor *of, int64_t sequence) {
    return of[FR_ROWS].data != NULL ? at(&of[FR_ROWS], sequence) : of[FR_QKV].sizes[1];
}

static OrtStatus *check_shapes(const fr_op_attention *self, const fr_op_tensor *of) {
    const fr_attention *job = &self->job;
    const fr_op_tensor *qkv = &of[FR_QKV], *k = &of[FR_K_CACHE], *v = &of[FR_V_CACHE];
    char found[3][128];
    const int64_t width = (int64_t)((job->heads + 2 * job->kv_heads) * job->dim), batch = qkv->sizes[0];
    const int64_t cache[] = {batch, (int64_t)job->kv_heads, k->rank == 4 ? k->sizes[2] : 0, (int64_t)job->dim};
    if (qkv->rank != 3 || qkv->sizes[2] != width || !has_shape(k, 4, cache) || !has_shape(v, 4, cache))
        return REFUSE(self, "expected qkv [B, T, %lld] and caches [B, %zu, C, %zu]; found %s, %s and %s.",
                      (long long)width, job->kv_heads, job->dim, fr_op_show(qkv, found[0], sizeof found[0]),
                      fr_op_show(k, found[1], sizeof found[1]), fr_op_show(v, found[2], sizeof found[2]));
    for (int role = FR_K_SCALE; self->kind->is_int8 && role <= FR_V_SCALE; role++)
        if (!has_shape(&of[role], 3, cache))
            return REFUSE(self, "expected scales [%lld, %zu, %lld], one of each row of the caches; found %s.",
                          (long long)batch, job->kv_heads, (long long)cache[2],
                          fr_op_show(&of[role], found[0], sizeof found[0]));
    if (!has_shape(&of[FR_POSITION], 1, &batch))
        return REFUSE(self, "expected position [%lld]; found %s.", (long long)batch,
                      fr_op_show(&of[FR_POSITION], found[0], sizeof found[0]));
    if (of[FR_ROWS].data != NULL && !has_shape(&of[FR_ROWS], 1, &batch))
        return REFUSE(self, "expected rows [%lld]; found %s.", (long long)batch,
                      fr_op_show(&of[FR_ROWS], found[0], sizeof found[0]));
    return NULL;
}

/* All rows of every sequence within its cache; `end` is the largest position after them. */
static OrtStatus *check_rows(const fr_op_attention *self, const fr_op_tensor *of, int64_t *end) {
    const int64_t room = of[FR_QKV].sizes[1], capacity = of[FR_K_CACHE].sizes[2];
    *end = 0;
    for (int64_t b = 0; b < of[FR_QKV].sizes[0]; b++) {
        const int64_t position = at(&of[FR_POSITION], b), rows = rows_of(of, b);
        if (rows < 0 || rows > room)
            return REFUSE(self, "expected rows of 0 to %lld; found %lld in sequence %lld.", (long long)room,
                          (long long)rows, (long long)b);
        if (position < 0 || position > capacity || rows > capacity - position)
            return REFUSE(self, "%lld rows at position %lld do not fit into a cache of %lld.", (long long)rows,
                          (long long)position, (long long)capacity);
        *end = position + rows > *end ? position + rows : *end;
    }
    return NULL;
}

static OrtStatus *check_tables(const fr_op_attention *self, const fr_op_tensor *of, int64_t end) {
    const fr_op_tensor *cosine = &of[FR_COS], *sine = &of[FR_SIN];
    const int64_t dim = (int64_t)self->job.dim;
    char found[2][128];
    for (int role = FR_Q_NORM; role <= FR_K_NORM; role++)
        if (of[role].data != NULL && !has_shape(&of[role], 1, &dim))
            return REFUSE(self, "expected norms [%lld]; found %s.", (long long)dim,
                          fr_op_show(&of[role], found[0], sizeof found[0]));
    if (cosine->data == NULL && sine->data == NULL)
        return NULL;
    if (cosine->rank != 2 || !has_shape(sine, 2, cosine->sizes) || cosine->sizes[1] > dim / 2 || cosine->sizes[0] < end)
        return REFUSE(self, "expected cos and sin of equal shape, [at least %lld, at most %lld]; found %s and %s.",
                      (long long)end, (long long)(dim / 2), fr_op_show(cosine, found[0], sizeof found[0]),
                      fr_op_show(sine, found[1], sizeof found[1]));
    return NULL;
}

static OrtStatus *check_tree(const fr_op_attention *self, const fr_op_tensor *of) {
    const int64_t batch = of[FR_QKV].sizes[0], room = of[FR_QKV].sizes[1], sizes[] = {batch, room};
    char found[128];
    if (of[FR_PARENTS].data == NULL)
        return NULL;
    if (!self->job.causal || !has_shape(&of[FR_PARENTS], 2, sizes))
        return REFUSE(self, "expected causal 1 and parents [%lld, %lld]; found %d and %s.", (long long)batch,
                      (long long)room, self->job.causal, fr_op_show(&of[FR_PARENTS], found, sizeof found));
    for (int64_t b = 0; b < batch; b++) {
        const int64_t *parents = (const int64_t *)of[FR_PARENTS].data + b * room, rows = rows_of(of, b);
        for (int64_t row = 0; row < rows; row++)
            if (parents[row] < -1 || parents[row] >= row)
                return REFUSE(self, "expected a parent of -1 to %lld; found %lld of row %lld.", (long long)(row - 1),
                              (long long)parents[row], (long long)row);
        const size_t nodes = fr_attention_count_nodes(parents, (size_t)rows);
        if (nodes > FR_ATTENTION_NODES)
            return REFUSE(self, "expected at most %d rows that are no chain; found %zu.", FR_ATTENTION_NODES, nodes);
    }
    return NULL;
}

/* The block's positions are not negative. */
static OrtStatus *check_context(const fr_op_attention *self, const fr_op_tensor *of) {
    const fr_op_tensor *k = &of[FR_CONTEXT_K], *v = &of[FR_CONTEXT_V];
    const int64_t batch = of[FR_QKV].sizes[0], room = k->rank == 3 ? k->sizes[1] : 0;
    const int64_t shape[] = {batch, room, (int64_t)(self->job.kv_heads * self->job.dim)};
    char found[2][128];
    if (!has_shape(k, 3, shape) || !has_shape(v, 3, shape))
        return REFUSE(self, "expected context_k and context_v [B, N, %lld]; found %s and %s.", (long long)shape[2],
                      fr_op_show(k, found[0], sizeof found[0]), fr_op_show(v, found[1], sizeof found[1]));
    if (!has_shape(&of[FR_START], 1, &batch))
        return REFUSE(self, "expected context_position [%lld]; found %s.", (long long)batch,
                      fr_op_show(&of[FR_START], found[0], sizeof found[0]));
    for (int64_t b = 0; b < batch; b++) {
        const int64_t start = at(&of[FR_START], b), position = at(&of[FR_POSITION], b);
        if (start < 0 || start > position || position - start > room)
            return REFUSE(self,
                          "expected the block to begin within the %lld rows of the context at position %lld or at "
                          "their end; found it at position %lld.",
                          (long long)room, (long long)start, (long long)position);
    }
    return NULL;
}

OrtStatus *fr_op_attention_take(const fr_op_attention *self, const fr_op_tensor *of, fr_attention_batch *job) {
    int64_t end = 0;
    FR_OP_TRY(check_shapes(self, of));
    FR_OP_TRY(check_rows(self, of, &end));
    FR_OP_TRY(check_tables(self, of, end));
    FR_OP_TRY(check_tree(self, of));
    if (self->kind->is_block)
        FR_OP_TRY(check_context(self, of));
    *job = (fr_attention_batch){.first = self->job,
                                .sequences = (size_t)of[FR_QKV].sizes[0],
                                .positions = of[FR_POSITION].data,
                                .starts = of[FR_START].data,
                                .rows = of[FR_ROWS].data};
    fr_attention *first = &job->first;
    first->qkv = of[FR_QKV].data, first->context_k = of[FR_CONTEXT_K].data, first->context_v = of[FR_CONTEXT_V].data;
    first->k = (fr_attention_cache){.before = of[FR_K_CACHE].data, .scales_before = of[FR_K_SCALE].data};
    first->v = (fr_attention_cache){.before = of[FR_V_CACHE].data, .scales_before = of[FR_V_SCALE].data};
    first->q_norm = of[FR_Q_NORM].data, first->k_norm = of[FR_K_NORM].data;
    first->cos = of[FR_COS].data, first->sin = of[FR_SIN].data;
    first->half = first->cos != NULL ? (size_t)of[FR_COS].sizes[1] : 0;
    first->parents = of[FR_PARENTS].data;
    first->rows = (size_t)of[FR_QKV].sizes[1], first->capacity = (size_t)of[FR_K_CACHE].sizes[2];
    job->context_room = self->kind->is_block ? (size_t)of[FR_CONTEXT_K].sizes[1] : 0;
    return NULL;
}
