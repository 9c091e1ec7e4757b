/* A product with what stands around it: bit for bit as the steps one after another. */
#include "linear_product.h"

static void check_around(size_t rows, size_t n, size_t k, size_t group_size, const fr_linear_path *path,
                         uint64_t *random) {
    const float epsilon = 1e-5f;
    product it = make(rows, n, k, group_size);
    fill(&it, random);
    float *norm = take(k, sizeof(float)), *addend = take(rows * n, sizeof(float)), *y = take(rows * n, sizeof(float));
    for (size_t i = 0; i < k; i++)
        norm[i] = random_float(random);
    for (size_t i = 0; i < rows * n; i++)
        addend[i] = random_float(random);
    product before = it;
    before.x = take(rows * k, sizeof(float));
    for (size_t row = 0; row < rows; row++)
        fr_float_steps_portable.normalize(it.x + row * k, norm, k, epsilon, before.x + row * k);
    float *expected = reference(&before);
    for (size_t stride = 0; stride <= n; stride += n) { /* a bias, then a residual stream */
        fr_linear job = begin(&it, path, y);
        job.norm = norm, job.epsilon = epsilon, job.addend = addend, job.addend_stride = stride;
        run(&job);
        for (size_t i = 0; i < rows * n; i++)
            CHECK(y[i] == expected[i] + addend[i / n * stride + i % n]);
    }
    if (n % 32 == 0) {
        fr_linear job = begin(&it, path, y);
        job.norm = norm, job.epsilon = epsilon, job.gated = 1;
        float *gated = take(rows * n / 2, sizeof(float)), sides[2][16];
        for (size_t place = 0; place < rows * n; place += 32) {
            memcpy(sides, expected + place, sizeof sides);
            fr_float_steps_portable.gate(sides[0], sides[1], 1, gated + place / 2, 16);
        }
        run(&job);
        CHECK(same(y, gated, rows * n / 2));
        free(gated);
    }
    free(before.x);
    free(expected);
    free(norm);
    free(addend);
    free(y);
    release(&it);
}

static void test_around(size_t group_size, uint64_t *random) {
    const fr_linear_path *paths[FR_LINEAR_MAX_PATHS];
    size_t n_paths = fr_linear_paths(format_of(group_size), paths);
    for (size_t p = 0; p < n_paths; p++) {
        for (size_t rows = 1; rows <= 35; rows++)
            check_around(rows, rows % 2 == 0 ? 32 * (1 + rows % 3) : 1 + next_random(random) % 70,
                         1 + next_random(random) % 200, group_size, paths[p], random);
        check_around(3, 96, 10000, group_size, paths[p], random); /* more than one part */
    }
}

int main(void) {
    uint64_t random = 20261122;
    for (size_t i = 0; i < N_GROUP_SIZES; i++)
        test_around(GROUP_SIZES[i], &random);
    return check_failures != 0;
}
