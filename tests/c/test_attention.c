/* Every path of the attention against the definition in double, and a row's bits whatever runs beside it. */
#include "attention_reference.h"

/* Every head dim, every size of a group, positions around the blocks' boundaries, the cache full to its last row. */
static void test_sizes(uint64_t *random) {
    const size_t positions[] = {0, 1, 15, 63, 64, 100, 127, 130};
    for (size_t dim = 16; dim <= 128; dim += 16)
        for (size_t group = 1; group <= 8; group++) {
            size_t rows = 1 + next_random(random) % 11;
            fr_attention shape = plain(rows, group, 1 + next_random(random) % 3, dim, positions[group - 1]);
            shape.capacity += next_random(random) % 2 * 37;
            shape.half = next_random(random) % 3 == 0 ? 0 : dim / 2;
            for (int is_int8 = 0; is_int8 < 2; is_int8++) {
                text it = make_in(is_int8, shape, (int)(next_random(random) % 2), random);
                check_paths(&it, is_int8 ? "sizes, int8" : "sizes");
                release(&it);
            }
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
        text it = make_in(round % 2, shape, (int)(next_random(random) % 2), random);
        check_paths(&it, round % 2 ? "fuzz, int8" : "fuzz");
        release(&it);
    }
}

static void test_largest_head(uint64_t *random) {
    fr_attention shape = plain(40, 2, 1, FR_ATTENTION_MAX_DIM, 70);
    shape.half = 128;
    for (int is_int8 = 0; is_int8 < 2; is_int8++) {
        text it = make_in(is_int8, shape, 1, random);
        check_paths(&it, "largest head");
        release(&it);
    }
}

/* Scores so far apart that the largest moves from block to block and most weights vanish. */
static void test_peaked(uint64_t *random) {
    fr_attention shape = plain(5, 2, 2, 32, 300);
    shape.scale = 40.0f;
    text it = make(shape, 0, random);
    const fr_attention_path *paths[FR_ATTENTION_MAX_PATHS];
    size_t n_paths = fr_attention_paths(paths), size = shape.rows * shape.heads * shape.dim;
    for (size_t p = 0; p < n_paths; p++) {
        caches c = copy_caches(&it);
        float *out = take(size);
        run(it.shape, paths[p], &c, out);
        CHECK(run_error(&it, &c, out) <= 2e-4); /* scores near 200 are rounded to 2e-5 */
        free_caches(&c);
        free(out);
    }
    release(&it);
}

/* All rows in one run, and in runs of one: the same bits, in the caches too. Later rows hold NaNs and infinities. */
static void check_alone(const text *it) {
    const fr_attention_path *paths[FR_ATTENTION_MAX_PATHS];
    size_t n_paths = fr_attention_paths(paths), width = it->shape.heads * it->shape.dim;
    for (size_t p = 0; p < n_paths; p++) {
        caches c = copy_caches(it), c_alone = copy_caches(it);
        float *together = take(it->shape.rows * width), *alone = take(width);
        run(it->shape, paths[p], &c, together);
        for (size_t row = 0; row < it->shape.rows; row++) {
            fr_attention one = it->shape;
            one.rows = 1, one.position += row, one.qkv += row * width_of(&one);
            run(one, paths[p], &c_alone, alone);
            for (size_t i = 0; i < width; i++) {
                const float *found = &together[row * width + i];
                CHECK(isnan(alone[i]) ? isnan(*found) : memcmp(&alone[i], found, sizeof *found) == 0);
                CHECK(isfinite(alone[i]) || row + 2 >= it->shape.rows);
            }
        }
        CHECK(same_caches(it, &c, &c_alone));
        free_caches(&c);
        free_caches(&c_alone);
        free(together);
        free(alone);
    }
}

static void test_rows_are_independent(uint64_t *random) {
    for (int round = 0; round < 40; round++) {
        fr_attention shape = plain(round % 8 == 0 ? 50 : 8, 1 + next_random(random) % 4, 2,
                                   16 * (1 + next_random(random) % 5), next_random(random) % 150);
        shape.half = shape.dim / 2;
        shape.window = round % 3 == 0 ? 1 + next_random(random) % 70 : 0;
        shape.softcap = round % 4 == 0 ? 3.0f : 0.0f;
        text it = make_in(round % 2, shape, 1, random);
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
static void check_other_caches(fr_attention shape, int is_int8, uint64_t *random) {
    const fr_attention_path *paths[FR_ATTENTION_MAX_PATHS];
    fr_attention_paths(paths);
    text it = make_in(is_int8, shape, 0, random), unlike = make_in(is_int8, shape, 0, random);
    size_t size = shape.rows * shape.heads * shape.dim * sizeof(float);
    float *out = take_bytes(size), *same = take_bytes(size);
    caches c = copy_caches(&it), other = copy_caches(&unlike);
    run(it.shape, paths[0], &c, out);
    run_between(it.shape, paths[0], &it.before, &other, same);
    CHECK(memcmp(out, same, size) == 0 && same_caches(&it, &c, &other));
    free_caches(&c);
    free_caches(&other);
    free(out);
    free(same);
    release(&it);
    release(&unlike);
}

static void test_other_caches(uint64_t *random) {
    for (size_t rows = 3; rows <= 43; rows += 40) {
        fr_attention shape = plain(rows, 2, 3, 16, 20);
        shape.capacity += 9;
        CHECK((rows == 3) == (fr_attention_writes(&shape) == 0));
        check_other_caches(shape, 0, random);
        check_other_caches(shape, 1, random);
    }
}

/* Rows of int8 at the ends of what they can hold: zeros, subnormals, halves between two codes, infinities and NaNs. */
static void test_codes(void) {
    const fr_attention_path *paths[FR_ATTENTION_MAX_PATHS];
    size_t n_paths = fr_attention_paths(paths);
    const struct {
        float x[16];
        int8_t codes[16];
        float scale;
    } rows[] = {{{0}, {0}, 0.0f},
                {{0x1p-101f, -0x1p-120f}, {0}, 0.0f},
                {{127.0f, 0.5f, 1.5f, 2.5f, -0.5f, -1.5f, -127.0f, 126.5f}, {127, 0, 2, 2, 0, -2, -127, 126}, 1.0f},
                {{[15] = -254.0f, [3] = 100.0f}, {[15] = -127, [3] = 50}, 2.0f},
                {{1.0f, INFINITY}, {0}, NAN},
                {{1.0f, [9] = NAN}, {0}, NAN}};
    for (size_t p = 0; p < n_paths; p++)
        for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
            int8_t codes[16];
            const float *x = rows[i].x;
            int32_t sum = -1, expected = 0;
            float scale;
            paths[p]->encode(&x, 1, 16, codes, &scale, &sum);
            for (size_t d = 0; d < 16; d++)
                expected += rows[i].codes[d];
            CHECK(memcmp(codes, rows[i].codes, sizeof codes) == 0 && sum == expected);
            CHECK(scale == rows[i].scale || (isnan(scale) && isnan(rows[i].scale)));
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
    test_codes();
    return check_failures != 0;
}
