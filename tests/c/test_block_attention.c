/* A block and the context before it: every path against the definition, and bits that no cut of the context changes. */
#include "attention_reference.h"

static fr_attention block(size_t rows, size_t group, size_t kv_heads, size_t dim, size_t start, size_t context_rows) {
    fr_attention shape = plain(rows, group, kv_heads, dim, start + context_rows);
    shape.context_rows = context_rows, shape.causal = 0;
    return shape;
}

/* Blocks of one part and of several, contexts of none to many rows, the cache full to its last row. */
static void test_sizes(uint64_t *random) {
    const size_t rows[] = {1, 2, 7, 16, 33, 70}, contexts[] = {0, 1, 2, 8, 63, 64, 100}, starts[] = {0, 1, 63, 64};
    for (size_t r = 0; r < sizeof rows / sizeof rows[0]; r++)
        for (size_t c = 0; c < sizeof contexts / sizeof contexts[0]; c++) {
            size_t dim = 16 * (1 + next_random(random) % 8), group = 1 + next_random(random) % 8;
            size_t kv_heads = 1 + next_random(random) % 3, start = starts[next_random(random) % 4];
            fr_attention shape = block(rows[r], group, kv_heads, dim, start, contexts[c]);
            shape.capacity += next_random(random) % 2 * 37;
            shape.half = next_random(random) % 3 == 0 ? next_random(random) % (dim / 2) : dim / 2;
            shape.softcap = next_random(random) % 3 == 0 ? 5.0f : 0.0f;
            int is_int8 = (int)(next_random(random) % 2);
            text it = make_in(is_int8, shape, (int)(next_random(random) % 2), random);
            check_paths(&it, is_int8 ? "block, int8" : "block");
            release(&it);
        }
}

static void test_largest_head(uint64_t *random) {
    fr_attention shape = block(7, 4, 2, FR_ATTENTION_MAX_DIM, 30, 40);
    shape.half = 128;
    text it = make(shape, 1, random);
    check_paths(&it, "largest head");
    release(&it);
}

/* The context in one run, and in two with a block after each: the same bits, in the caches too. */
static void check_cut(const text *it, const fr_attention_path *path, size_t first) {
    size_t size = it->shape.rows * it->shape.heads * it->shape.dim * sizeof(float);
    size_t done = first * it->shape.kv_heads * it->shape.dim;
    float *out = take_bytes(size), *out_cut = take_bytes(size);
    caches c = copy_caches(it), c_cut = copy_caches(it);
    run(it->shape, path, &c, out);
    fr_attention cut = it->shape;
    cut.context_rows = first, cut.position -= it->shape.context_rows - first;
    run(cut, path, &c_cut, out_cut);
    cut = it->shape;
    cut.context_rows -= first, cut.context_k += done, cut.context_v += done;
    run(cut, path, &c_cut, out_cut);
    CHECK(memcmp(out, out_cut, size) == 0 && same_caches(it, &c, &c_cut));
    free_caches(&c);
    free_caches(&c_cut);
    free(out);
    free(out_cut);
}

static void test_the_context_s_cut_does_not_matter(uint64_t *random) {
    const fr_attention_path *paths[FR_ATTENTION_MAX_PATHS];
    size_t n_paths = fr_attention_paths(paths);
    for (size_t first = 0; first <= 12; first += 3)
        for (int is_int8 = 0; is_int8 < 2; is_int8++) {
            fr_attention shape = block(first % 2 == 0 ? 7 : 40, 2, 3, 32, 60, 12);
            shape.half = 16;
            text it = make_in(is_int8, shape, 1, random);
            for (size_t p = 0; p < n_paths; p++)
                check_cut(&it, paths[p], first);
            release(&it);
        }
}

/* Caches that are not the ones before: copied around what is written, in both ways of writing. */
static void test_other_caches(uint64_t *random) {
    const fr_attention_path *paths[FR_ATTENTION_MAX_PATHS];
    fr_attention_paths(paths);
    for (size_t round = 0; round < 6; round++) {
        fr_attention shape = block(round / 2 * 20, 2, 3, 16, 20, 6);
        shape.capacity += 9;
        text it = make_in((int)(round % 2), shape, 0, random), unlike = make_in((int)(round % 2), shape, 0, random);
        size_t size = shape.rows * shape.heads * shape.dim * sizeof(float);
        float *out = take_bytes(size), *same = take_bytes(size);
        caches c = copy_caches(&it), other = copy_caches(&unlike);
        run(it.shape, paths[0], &c, out);
        CHECK(cache_error(&it, &c) <= TOLERANCE);
        run_between(it.shape, paths[0], &it.before, &other, same);
        CHECK(memcmp(out, same, size) == 0 && same_caches(&it, &c, &other));
        free_caches(&c);
        free_caches(&other);
        free(out);
        free(same);
        release(&it);
        release(&unlike);
    }
}

int main(void) {
    uint64_t random = 20260730;
    test_sizes(&random);
    test_largest_head(&random);
    test_the_context_s_cut_does_not_matter(&random);
    test_other_caches(&random);
    return check_failures != 0;
}
