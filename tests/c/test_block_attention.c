/* A block and the context before it: every path against the definition, and bits that no cut of the context changes. */
#include "attention_text.h"

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
            text it = make(shape, (int)(next_random(random) % 2), random);
            check_paths(&it, "block");
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
static void test_the_context_s_cut_does_not_matter(uint64_t *random) {
    const fr_attention_path *paths[FR_ATTENTION_MAX_PATHS];
    size_t n_paths = fr_attention_paths(paths);
    for (size_t first = 0; first <= 12; first += 3) {
        fr_attention shape = block(first % 2 == 0 ? 7 : 40, 2, 3, 32, 60, 12);
        shape.half = 16;
        text it = make(shape, 1, random);
        size_t cache = cache_of(&shape), size = shape.rows * shape.heads * shape.dim;
        for (size_t p = 0; p < n_paths; p++) {
            float *k = copy_of(it.k, cache), *v = copy_of(it.v, cache), *out = take(size);
            float *k_cut = copy_of(it.k, cache), *v_cut = copy_of(it.v, cache), *out_cut = take(size);
            run(it.shape, paths[p], k, v, out);
            fr_attention cut = it.shape;
            cut.context_rows = first, cut.position -= 12 - first;
            run(cut, paths[p], k_cut, v_cut, out_cut);
            size_t done = first * shape.kv_heads * shape.dim;
            cut = it.shape;
            cut.context_rows -= first, cut.context_k += done, cut.context_v += done;
            run(cut, paths[p], k_cut, v_cut, out_cut);
            CHECK(memcmp(out, out_cut, size * sizeof(float)) == 0);
            CHECK(memcmp(k, k_cut, cache * sizeof(float)) == 0 && memcmp(v, v_cut, cache * sizeof(float)) == 0);
            float *const all[] = {k, v, out, k_cut, v_cut, out_cut};
            for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
                free(all[i]);
        }
        release(&it);
    }
}

/* Caches that are not the ones before: copied around what is written, in both ways of writing. */
static void test_other_caches(uint64_t *random) {
    const fr_attention_path *paths[FR_ATTENTION_MAX_PATHS];
    fr_attention_paths(paths);
    for (size_t rows = 0; rows <= 40; rows += 20) {
        fr_attention shape = block(rows, 2, 3, 16, 20, 6);
        shape.capacity += 9;
        text it = make(shape, 0, random);
        size_t cache = cache_of(&shape), size = rows * shape.heads * shape.dim;
        float *k = copy_of(it.k, cache), *v = copy_of(it.v, cache), *out = take(size), *same = take(size);
        float *other_k = take_random(cache, random), *other_v = take_random(cache, random);
        run(it.shape, paths[0], k, v, out);
        CHECK(cache_error(&it, k, v) <= TOLERANCE);
        fr_attention other = it.shape;
        other.path = paths[0], other.out = same;
        other.k_before = it.k, other.v_before = it.v, other.k_cache = other_k, other.v_cache = other_v;
        run_parts(&other);
        CHECK(memcmp(out, same, size * sizeof(float)) == 0);
        CHECK(memcmp(k, other_k, cache * sizeof(float)) == 0 && memcmp(v, other_v, cache * sizeof(float)) == 0);
        float *const all[] = {k, v, out, same, other_k, other_v};
        for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
            free(all[i]);
        release(&it);
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
