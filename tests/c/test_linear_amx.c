/* The kernels for the matrix units, on tiles in C: the definition's bits. */
#include "emulated_tiles.h"
#include "linear_product.h"

#define TARGET
#include "kernels/linear_amx_path.h"

static int usable(void) {
    return 1;
}

/* Every product by it, also of few rows. */
static const fr_linear_path INT8 = {
    .name = "emulated int8",
    .usable = usable,
    .format = &fr_linear_int8,
    .max_rows = FR_LINEAR_MAX_ROWS,
    .row_major = 1,
    .enter = enter,
    .leave = leave,
    .steps = &fr_float_steps_portable,
    .codes = &fr_row_codes_portable,
    .multiply = multiply_int8,
};
static const fr_linear_path INT4 = {
    .name = "emulated int4",
    .usable = usable,
    .format = &fr_linear_int4,
    .max_rows = FR_LINEAR_MAX_ROWS,
    .row_major = 1,
    .enter = enter,
    .leave = leave,
    .steps = &fr_float_steps_portable,
    .codes = &fr_row_codes_portable,
    .multiply = multiply_int4,
};

static void check(const product *it, const char *what) {
    float *expected = reference(it), *y = take(it->rows * it->n, sizeof(float));
    fr_linear job = begin(it, it->group_size == 0 ? &INT8 : &INT4, y);
    run(&job);
    CHECK(tiles.begun == 0);
    if (!same(y, expected, it->rows * it->n)) {
        check_failures++;
        printf("%s: %s, groups of %zu, %zu rows, n %zu, k %zu: not the definition's bits\n", what, job.path->name,
               it->group_size, it->rows, it->n, it->k);
    }
    free(expected);
    free(y);
}

static void test_every_row_count(size_t group_size, uint64_t *random) {
    for (size_t rows = 1; rows <= 50; rows++) {
        product it = make(rows, 1 + next_random(random) % 40, 1 + next_random(random) % 300, group_size);
        fill(&it, random);
        if (rows > 2) { /* zeros, and a number that is none */
            memset(it.x + it.k, 0, it.k * sizeof(float));
            it.x[2 * it.k] = NAN;
        }
        check(&it, "row counts");
        release(&it);
    }
}

static void test_extremes(size_t group_size, uint64_t *random) {
    product it = make(3, 17, group_size == 0 ? FR_LINEAR_MAX_K : 4097, group_size);
    fill(&it, random);
    const int8_t smallest = group_size == 0 ? -128 : -8;
    for (size_t i = 0; i < it.n * it.k; i++) /* stored as 0, and as the largest */
        it.w[i] = i / it.k % 2 == 0 ? smallest : (int8_t)(-smallest - 1);
    for (size_t i = 0; i < it.rows * it.k; i++)
        it.x[i] = i / it.k % 2 == 0 ? 3.5f : -3.5f;
    pack(&it);
    check(&it, "extremes");
    release(&it);
}

/* Gates and values: two columns, between one begin and one end. */
static void test_gated(size_t group_size, uint64_t *random) {
    enum { MOST_ROWS = 33, N = 64 };
    float plain[MOST_ROWS * N / 2], found[MOST_ROWS * N / 2];
    for (size_t rows = 1; rows <= MOST_ROWS; rows += 8) {
        product it = make(rows, N, 130, group_size);
        fill(&it, random);
        const fr_linear_path *paths[FR_LINEAR_MAX_PATHS];
        size_t n_paths = fr_linear_paths(format_of(group_size), paths);
        fr_linear job = begin(&it, paths[n_paths - 1], plain);
        job.gated = 1;
        run(&job);
        job = begin(&it, group_size == 0 ? &INT8 : &INT4, found);
        job.gated = 1;
        run(&job);
        CHECK(same(found, plain, rows * N / 2));
        release(&it);
    }
}

/* A product of fewer rows than a path takes goes to the path that it names. */
static void test_fewer_rows(uint64_t *random) {
    fr_linear_path few = INT4, many = INT4;
    few.row_major = 0, few.enter = NULL, few.leave = NULL, few.multiply = fr_int4_portable.multiply;
    many.min_rows = 3, many.fewer = &few;
    for (size_t rows = 1; rows <= 4; rows++) {
        product it = make(rows, 20, 100, 64);
        fill(&it, random);
        float *expected = reference(&it), *y = take(rows * it.n, sizeof(float));
        fr_linear job = begin(&it, &many, y);
        run(&job);
        CHECK(job.path == (rows < 3 ? &few : &many) && same(y, expected, rows * it.n));
        free(expected);
        free(y);
        release(&it);
    }
}

int main(void) {
    uint64_t random = 20261123;
    for (size_t i = 0; i < N_GROUP_SIZES; i++) {
        test_every_row_count(GROUP_SIZES[i], &random);
        test_extremes(GROUP_SIZES[i], &random);
        test_gated(GROUP_SIZES[i], &random);
    }
    test_fewer_rows(&random);
    return check_failures != 0;
}
