#define _POSIX_C_SOURCE 200809L /* barriers */
/* Every path of the int8 and int4 products against a triple loop over the definition: bit for bit. */
#include "linear_product.h"

#include <pthread.h>

/* All of them. */
static void check_paths(const product *it, const char *what) {
    const fr_linear_path *paths[FR_LINEAR_MAX_PATHS];
    size_t n_paths = fr_linear_paths(format_of(it->group_size), paths);
    float *expected = reference(it);
    for (size_t p = 0; p < n_paths; p++) {
        float *y = take(it->rows * it->n, sizeof(float));
        memset(y, 0x55, it->rows * it->n * sizeof(float));
        fr_linear job = begin(it, paths[p], y);
        run(&job);
        if (!same(y, expected, it->rows * it->n)) {
            check_failures++;
            printf("%s: path %s, groups of %zu, %zu rows, n %zu, k %zu: not the definition's bits\n", what,
                   paths[p]->name, it->group_size, it->rows, it->n, it->k);
        }
        free(y);
    }
    free(expected);
}

static void test_every_row_count(size_t group_size, uint64_t *random) {
    for (size_t rows = 1; rows <= 64; rows++) {
        product it = make(rows, 1 + next_random(random) % 40, 1 + next_random(random) % 200, group_size);
        fill(&it, random);
        check_paths(&it, "row counts");
        release(&it);
    }
}

static void test_fuzz(size_t group_size, uint64_t *random) {
    for (int round = 0; round < 150; round++) {
        size_t longest = round % 10 == 0 ? 3000 : 150;
        product it = make(1 + next_random(random) % 20, 1 + next_random(random) % 70, 1 + next_random(random) % longest,
                          group_size);
        fill(&it, random);
        for (size_t row = 0; row < it.rows; row++) { /* any bits at all in some rows, any size in others */
            uint64_t kind = next_random(random) % 4;
            float size = ldexpf(1.0f, (int)(next_random(random) % 240) - 120);
            for (size_t k = 0; k < it.k; k++) {
                uint32_t bits = (uint32_t)next_random(random);
                if (kind == 0)
                    memcpy(it.x + row * it.k + k, &bits, sizeof bits);
                else if (kind == 1)
                    it.x[row * it.k + k] *= size;
            }
        }
        check_paths(&it, "fuzz");
        release(&it);
    }
}

static void test_extremes(size_t group_size, uint64_t *random) {
    product it = make(9, 33, 4097, group_size);
    fill(&it, random);
    const int8_t largest = group_size == 0 ? 127 : 7, smallest = (int8_t)(-largest - 1);
    for (size_t i = 0; i < it.n * it.k; i++) /* nothing may saturate in between */
        it.w[i] = i / it.k % 2 == 0 ? largest : smallest;
    for (size_t i = 0; i < it.rows * it.k; i++)
        it.x[i] = i / it.k % 2 == 0 ? 3.5f : -3.5f;
    pack(&it);
    check_paths(&it, "extremes");
    release(&it);
    it = make(2, 1, FR_LINEAR_MAX_K, group_size); /* the longest sum */
    memset(it.w, smallest, it.k);
    for (size_t group = 0; group < it.groups; group++)
        it.weight_scales[group] = 1.0f;
    for (size_t k = 0; k < it.k; k++)
        it.x[k] = 1.0f, it.x[it.k + k] = -1.0f;
    pack(&it);
    check_paths(&it, "longest");
    release(&it);
}

static void test_special_rows(size_t group_size, uint64_t *random) {
    product it = make(10, 20, 70, group_size);
    fill(&it, random);
    const float first[9] = {0.0f, INFINITY, -INFINITY, NAN, 0x1p-101f, 0x1p-149f, 0x1p-100f, 0x1.fffffep127f, -0.0f};
    for (size_t row = 0; row < 9; row++) {
        if (row != 1 && row != 2 && row != 3)
            memset(it.x + row * it.k, 0, it.k * sizeof(float));
        it.x[row * it.k + 69] = first[row];
    }
    for (size_t k = 0; k < it.k; k++) /* every tie: 127 is the largest, so that the codes are k/2 */
        it.x[9 * it.k + k] = k == 0 ? 127.0f : (k % 2 == 0 ? -0.5f : 0.5f) * (float)k;
    check_paths(&it, "special rows");
    float *y = reference(&it);
    for (size_t n = 0; n < it.n; n++) {
        CHECK(y[n] == 0.0f && isnan(y[it.n + n]) && isnan(y[2 * it.n + n]) && isnan(y[3 * it.n + n]));
        CHECK(y[4 * it.n + n] == 0.0f && y[5 * it.n + n] == 0.0f && y[8 * it.n + n] == 0.0f);
        CHECK(isfinite(y[6 * it.n + n]));
    }
    free(y);
    release(&it);
}

/* A row alone and the same row among others. */
static void test_rows_are_independent(size_t group_size, uint64_t *random) {
    const fr_linear_path *paths[FR_LINEAR_MAX_PATHS];
    size_t n_paths = fr_linear_paths(format_of(group_size), paths);
    product all = make(37, 50, 333, group_size);
    fill(&all, random);
    float *together = take(all.rows * all.n, sizeof(float)), *alone = take(all.n, sizeof(float));
    for (size_t p = 0; p < n_paths; p++) {
        fr_linear job = begin(&all, paths[p], together);
        run(&job);
        for (size_t row = 0; row < all.rows; row++) {
            product one = all;
            one.rows = 1, one.x = all.x + row * all.k;
            job = begin(&one, paths[p], alone);
            run(&job);
            CHECK(same(alone, together + row * all.n, all.n));
        }
    }
    free(together);
    free(alone);
    release(&all);
}

typedef struct crew {
    fr_linear *job;
    pthread_barrier_t start;
    atomic_size_t next;
    size_t parts;
} crew;

static void *worker(void *data) {
    crew *it = data;
    pthread_barrier_wait(&it->start);
    for (size_t part; (part = atomic_fetch_add(&it->next, 1)) < it->parts;)
        fr_linear_part(it->job, part);
    return NULL;
}

/* Rows are quantized by whichever threads come; nobody may start before all are. Long rows give them time to. */
static void test_threads(size_t group_size, size_t rows, uint64_t *random) {
    enum { THREADS = 4 };
    const fr_linear_path *paths[FR_LINEAR_MAX_PATHS];
    fr_linear_paths(format_of(group_size), paths);
    product it = make(rows, 150, 20000, group_size);
    fill(&it, random);
    float *expected = reference(&it), *y = take(it.rows * it.n, sizeof(float));
    fr_linear job = begin(&it, paths[0], y);
    void *scratch = take(fr_linear_scratch(&job), 1);
    for (int round = 0; round < 30; round++) {
        memset(scratch, 0x7F, fr_linear_scratch(&job));
        memset(y, 0, it.rows * it.n * sizeof(float));
        job.scratch = scratch;
        crew all = {.job = &job};
        all.parts = fr_linear_begin(&job);
        REQUIRE(all.parts > THREADS && pthread_barrier_init(&all.start, NULL, THREADS) == 0);
        atomic_init(&all.next, 0);
        pthread_t threads[THREADS];
        for (int i = 0; i < THREADS; i++)
            REQUIRE(pthread_create(&threads[i], NULL, worker, &all) == 0);
        for (int i = 0; i < THREADS; i++)
            pthread_join(threads[i], NULL);
        pthread_barrier_destroy(&all.start);
        CHECK(same(y, expected, it.rows * it.n));
    }
    free(expected);
    free(y);
    free(scratch);
    release(&it);
}

int main(void) {
    uint64_t random = 20260729;
    for (size_t i = 0; i < N_GROUP_SIZES; i++) {
        const size_t group_size = GROUP_SIZES[i];
        const fr_linear_path *paths[FR_LINEAR_MAX_PATHS];
        size_t n_paths = fr_linear_paths(format_of(group_size), paths);
        CHECK(n_paths > 0 && strcmp(paths[n_paths - 1]->name, "portable") == 0);
        printf("groups of %zu:", group_size);
        for (size_t p = 0; p < n_paths; p++)
            printf(" %s", paths[p]->name);
        printf("\n");
        test_every_row_count(group_size, &random);
        test_fuzz(group_size, &random);
        test_extremes(group_size, &random);
        test_special_rows(group_size, &random);
        test_rows_are_independent(group_size, &random);
        test_threads(group_size, 1, &random);
        test_threads(group_size, 5, &random);
    }
    return check_failures != 0;
}
