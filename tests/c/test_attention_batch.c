/* Several sequences in one run: each has the bits of a run of its own, at its own position, with its own rows. */
#include "attention_text.h"

#include "kernels/attention_batch.h"

enum { SEQUENCES = 4 };

/* A sequence of a batch, with room for more rows than it has. */
typedef struct sequence {
    text it;
    caches after;
    float *out;
} sequence;

static sequence run_alone(int is_int8, fr_attention shape, int tree, uint64_t *random) {
    sequence made = {.it = make_in(is_int8, shape, 0, random)};
    if (tree) {
        made.it.parents = take_bytes(shape.rows * sizeof(int64_t));
        for (size_t row = 0; row < shape.rows; row++)
            made.it.parents[row] = (int64_t)row - 1 - (int64_t)(row > 2 ? next_random(random) % 2 : 0);
        made.it.shape.parents = made.it.parents;
        made.it.shape.nodes = fr_attention_count_nodes(made.it.parents, shape.rows);
    }
    const fr_attention_path *paths[FR_ATTENTION_MAX_PATHS];
    fr_attention_paths(paths);
    made.after = copy_caches(&made.it);
    made.out = take(shape.rows * shape.heads * shape.dim);
    run(made.it.shape, paths[0], &made.after, made.out);
    return made;
}

/* One buffer of every sequence, one after another with `room` bytes each; what a sequence lacks holds NaNs. */
static void *join(const void *const *from, const sequence *all, size_t (*size)(const text *it), size_t room) {
    char *made = take_bytes(SEQUENCES * room);
    memset(made, 0xFF, SEQUENCES * room);
    for (size_t b = 0; b < SEQUENCES; b++)
        memcpy(made + b * room, from[b], size(&all[b].it));
    return made;
}

#define JOIN(field, size, room)                                                                                        \
    join((const void *[]){all[0].field, all[1].field, all[2].field, all[3].field}, all, size, room)

typedef struct joined {
    float *qkv, *context_k, *context_v, *out;
    caches c;
    int64_t *parents, positions[SEQUENCES], starts[SEQUENCES], rows[SEQUENCES];
} joined;

static size_t qkv_bytes(const text *it) {
    return it->shape.rows * width_of(&it->shape) * sizeof(float);
}

static size_t context_bytes(const text *it) {
    return it->shape.context_rows * it->shape.kv_heads * it->shape.dim * sizeof(float);
}

static size_t parents_bytes(const text *it) {
    return it->shape.rows * sizeof(int64_t);
}

static size_t scales_bytes(const text *it) {
    return rows_of(&it->shape) * sizeof(float);
}

static joined join_all(const sequence *all, size_t rows, size_t context) {
    const fr_attention *s = &all[0].it.shape;
    const size_t context_room = context * s->kv_heads * s->dim * sizeof(float), cache = bytes_of(&all[0].it);
    joined made = {.qkv = JOIN(it.qkv, qkv_bytes, rows * width_of(s) * sizeof(float)),
                   .context_k = JOIN(it.context_k, context_bytes, context_room),
                   .context_v = JOIN(it.context_v, context_bytes, context_room),
                   .out = take(SEQUENCES * rows * s->heads * s->dim),
                   .c = {JOIN(it.before.k, bytes_of, cache), JOIN(it.before.v, bytes_of, cache), NULL, NULL}};
    if (all[0].it.is_int8) {
        made.c.k_scales = JOIN(it.before.k_scales, scales_bytes, scales_bytes(&all[0].it));
        made.c.v_scales = JOIN(it.before.v_scales, scales_bytes, scales_bytes(&all[0].it));
    }
    if (all[0].it.parents != NULL)
        made.parents = JOIN(it.parents, parents_bytes, rows * sizeof(int64_t));
    for (size_t b = 0; b < SEQUENCES; b++) {
        made.positions[b] = (int64_t)all[b].it.shape.position;
        made.starts[b] = made.positions[b] - (int64_t)all[b].it.shape.context_rows;
        made.rows[b] = (int64_t)all[b].it.shape.rows;
    }
    return made;
}

static void check_sequence(const sequence *alone, const joined *all, size_t b, size_t rows) {
    const text *it = &alone->it;
    const size_t width = it->shape.heads * it->shape.dim, cache = bytes_of(it), count = rows_of(&it->shape);
    const float *out = all->out + b * rows * width;
    caches own = {(char *)all->c.k + b * cache, (char *)all->c.v + b * cache, NULL, NULL};
    if (it->is_int8)
        own.k_scales = all->c.k_scales + b * count, own.v_scales = all->c.v_scales + b * count;
    CHECK(memcmp(out, alone->out, it->shape.rows * width * sizeof(float)) == 0);
    CHECK(same_caches(it, &own, &alone->after));
    for (size_t i = it->shape.rows * width; i < rows * width; i++)
        CHECK(out[i] == 0.0f);
}

static void check_batch(const sequence *all, size_t rows, size_t context, int all_rows) {
    const fr_attention_path *paths[FR_ATTENTION_MAX_PATHS];
    fr_attention_paths(paths);
    joined made = join_all(all, rows, context);
    fr_attention_batch batch = {.first = all[0].it.shape,
                                .sequences = SEQUENCES,
                                .context_room = context,
                                .positions = made.positions,
                                .starts = context > 0 ? made.starts : NULL,
                                .rows = all_rows ? NULL : made.rows};
    fr_attention *first = &batch.first;
    first->path = paths[0], first->rows = rows, first->qkv = made.qkv, first->out = made.out;
    first->context_k = made.context_k, first->context_v = made.context_v, first->parents = made.parents;
    first->k = (fr_attention_cache){made.c.k, made.c.k, made.c.k_scales, made.c.k_scales};
    first->v = (fr_attention_cache){made.c.v, made.c.v, made.c.v_scales, made.c.v_scales};
    for (size_t part = fr_attention_batch_writes(&batch); part > 0; part--)
        fr_attention_batch_write(&batch, part - 1);
    for (size_t part = fr_attention_batch_parts(&batch); part > 0; part--)
        fr_attention_batch_attend(&batch, part - 1);
    for (size_t b = 0; b < SEQUENCES; b++)
        check_sequence(&all[b], &made, b, rows);
    void *const used[] = {made.qkv, made.context_k, made.context_v, made.out, made.parents};
    for (size_t i = 0; i < sizeof used / sizeof used[0]; i++)
        free(used[i]);
    free_caches(&made.c);
}

static void test_batches(uint64_t *random) {
    for (int round = 0; round < 48; round++) {
        const size_t most = round % 4 == 0 ? 40 : 9, context = round % 3 == 0 ? 6 : 0;
        const size_t group = 1 + next_random(random) % 3, dim = 16 * (1 + next_random(random) % 3);
        const int all_rows = round % 5 == 0, tree = context == 0 && round % 2 == 0;
        sequence all[SEQUENCES];
        for (size_t b = 0; b < SEQUENCES; b++) {
            size_t rows = all_rows ? most : next_random(random) % (most + 1),
                   kept = next_random(random) % (context + 1);
            fr_attention shape = plain(rows, group, 2, dim, kept + next_random(random) % 100);
            shape.context_rows = kept, shape.capacity = 150, shape.causal = context == 0;
            all[b] = run_alone(round / 2 % 2, shape, tree, random);
        }
        check_batch(all, most, context, all_rows);
        for (size_t b = 0; b < SEQUENCES; b++) {
            free_caches(&all[b].after);
            free(all[b].out);
            release(&all[b].it);
        }
    }
}

int main(void) {
    uint64_t random = 20260801;
    test_batches(&random);
    return check_failures != 0;
}
