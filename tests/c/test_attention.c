/* Every path of the attention against the definition in double, and a row's bits whatever runs beside it. */
#include "attention_text.h"

/* Every head dim, every size of a group, positions around the blocks' boundaries, the cache full to its last row. */
static void test_sizes(uint64_t *random) {
    const size_t positions[] = {0, 1, 15, 63, 64, 100, 127, 130};
    for (size_t dim = 16; dim <= 128; dim += 16)
        for (size_t group = 1; group <= 8; group++) {
            size_t rows = 1 + next_random(random) % 11;
            fr_attention shape = plain(rows, group, 1 + next_random(random) % 3, dim, positions[group - 1]);
            shape.capacity += next_random(random) % 2 * 37;
            shape.half = next_random(random) % 3 == 0 ? 0 : dim / 2;
            text it = make(shape, (int)(next_random(random) % 2), random);
            check_paths(&it, "sizes");
            release(&it);
        }
}

static void test_fuzz(uint64_t *random) {
    for (int round = 0; round < 150; round++) {
        fr_attention shape =
            plain(1 + next_random(random) % (round % 10 == 0 ? 90 : 12), 1 + next_random(random) % 8,
                  1 + next_random(random) % 2, 16 * (1 + next_random(random) % 4), next_random(random) % 200);
        shape.capacity += next_random(random) % 70;
        shape.half = next_random(random) % (shape.dim / 2 + 1); /* partial rotation, odd halves too */
        shape.window = next_random(random) % 3 == 0 ? 1 + next_random(random) % 90 : 0;
        shape.softcap = next_random(random) % 3 == 0 ? 0.5f + (float)(next_random(random) % 40) : 0.0f;
        shape.causal = next_random(random) % 4 != 0;
        shape.scale = next_random(random) % 2 == 0 ? 1.0f : shape.scale;
        text it = make(shape, (int)(next_random(random) % 2), random);
        check_paths(&it, "fuzz");
        release(&it);
    }
}

static void test_largest_head(uint64_t *random) {
    fr_attention shape = plain(40, 2, 1, FR_ATTENTION_MAX_DIM, 70);
    shape.half = 128;
    text it = make(shape, 1, random);
    check_paths(&it, "largest head");
    release(&it);
}

/* Scores so far apart that the largest moves from block to block and most weights vanish. */
static void test_peaked(uint64_t *random) {
    fr_attention shape = plain(5, 2, 2, 32, 300);
    shape.scale = 40.0f;
    text it = make(shape, 0, random);
    const fr_attention_path *paths[FR_ATTENTION_MAX_PATHS];
    size_t n_paths = fr_attention_paths(paths), size = shape.rows * shape.heads * shape.dim;
    double *expected = calloc(size, sizeof(double));
    REQUIRE(expected != NULL);
    for (size_t p = 0; p < n_paths; p++) {
        float *k = copy_of(it.k, cache_of(&shape)), *v = copy_of(it.v, cache_of(&shape)), *out = take(size);
        run(it.shape, paths[p], k, v, out);
        for (size_t token = 0; token < shape.rows; token++)
            reference(&it.shape, k, v, token, expected + token * shape.heads * shape.dim);
        for (size_t i = 0; i < size; i++) /* scores near 200 are rounded to 2e-5 */
            CHECK(fabs((double)out[i] - expected[i]) <= 2e-4);
        free(k);
        free(v);
        free(out);
    }
    free(expected);
    release(&it);
}

/* All rows in one run, and in runs of one: the same bits, in the caches too. Later rows hold NaNs and infinities. */
static void check_alone(const text *it) {
    const fr_attention_path *paths[FR_ATTENTION_MAX_PATHS];
    size_t n_paths = fr_attention_paths(paths), width = it->shape.heads * it->shape.dim;
    size_t cache = cache_of(&it->shape);
    for (size_t p = 0; p < n_paths; p++) {
        float *k = copy_of(it->k, cache), *v = copy_of(it->v, cache), *together = take(it->shape.rows * width);
        float *k_alone = copy_of(it->k, cache), *v_alone = copy_of(it->v, cache), *alone = take(width);
        run(it->shape, paths[p], k, v, together);
        for (size_t row = 0; row < it->shape.rows; row++) {
            fr_attention one = it->shape;
            one.rows = 1, one.position += row, one.qkv += row * width_of(&one);
            run(one, paths[p], k_alone, v_alone, alone);
            CHECK(memcmp(alone, together + row * width, width * sizeof(float)) == 0);
            for (size_t i = 0; i < width; i++)
                CHECK(isfinite(alone[i]) || row + 2 >= it->shape.rows);
        }
        CHECK(memcmp(k, k_alone, cache * sizeof(float)) == 0 && memcmp(v, v_alone, cache * sizeof(float)) == 0);
        float *const all[] = {k, v, together, k_alone, v_alone, alone};
        for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
            free(all[i]);
    }
}

static void test_rows_are_independent(uint64_t *random) {
    for (int round = 0; round < 40; round++) {
        fr_attention shape = plain(round % 8 == 0 ? 50 : 8, 1 + next_random(random) % 4, 2,
                                   16 * (1 + next_random(random) % 5), next_random(random) % 150);
        shape.half = shape.dim / 2;
        shape.window = round % 3 == 0 ? 1 + next_random(random) % 70 : 0;
        shape.softcap = round % 4 == 0 ? 3.0f : 0.0f;
        text it = make(shape, 1, random);
        size_t width = width_of(&shape);
        for (size_t i = 0; i < width; i++) {
            it.qkv[(shape.rows - 2) * width + i] = INFINITY;
            it.qkv[(shape.rows - 1) * width + i] = NAN;
        }
        check_alone(&it);
        release(&it);
    }
}

/* Caches that are not the ones before: copied around the new rows, in both ways of writing. */
static void test_other_caches(uint64_t *random) {
    const fr_attention_path *paths[FR_ATTENTION_MAX_PATHS];
    fr_attention_paths(paths);
    for (size_t rows = 3; rows <= 43; rows += 40) {
        fr_attention shape = plain(rows, 2, 3, 16, 20);
        shape.capacity += 9;
        text it = make(shape, 0, random);
        size_t cache = cache_of(&shape), size = rows * shape.heads * shape.dim;
        float *k = copy_of(it.k, cache), *v = copy_of(it.v, cache), *out = take(size);
        run(it.shape, paths[0], k, v, out);
        fr_attention other = it.shape;
        other.path = paths[0], other.k_before = it.k, other.v_before = it.v;
        other.k_cache = take_random(cache, random), other.v_cache = take_random(cache, random);
        other.out = take(size);
        CHECK((rows == 3) == (fr_attention_writes(&other) == 0));
        for (size_t part = 0; part < fr_attention_writes(&other); part++)
            fr_attention_write(&other, part);
        for (size_t part = 0; part < fr_attention_parts(&other); part++)
            fr_attention_attend(&other, part);
        CHECK(memcmp(out, other.out, size * sizeof(float)) == 0);
        CHECK(memcmp(k, other.k_cache, cache * sizeof(float)) == 0);
        CHECK(memcmp(v, other.v_cache, cache * sizeof(float)) == 0);
        float *const all[] = {k, v, out, other.k_cache, other.v_cache, other.out};
        for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
            free(all[i]);
        release(&it);
    }
}

int main(void) {
    const fr_attention_path *paths[FR_ATTENTION_MAX_PATHS];
    size_t n_paths = fr_attention_paths(paths);
    CHECK(n_paths > 0 && strcmp(paths[n_paths - 1]->name, "portable") == 0);
    for (size_t i = 0; i < n_paths; i++)
        printf("path %s\n", paths[i]->name);
    uint64_t random = 20260729;
    test_sizes(&random);
    test_fuzz(&random);
    test_largest_head(&random);
    test_peaked(&random);
    test_rows_are_independent(&random);
    test_other_caches(&random);
    return check_failures != 0;
}
