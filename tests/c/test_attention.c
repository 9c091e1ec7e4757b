/* Every path of the attention against the definition in double, and a row's bits whatever runs beside it. */
#include "check.h"
#include "kernels/attention.h"

#include <math.h>

/* Of an output near 1: float32 sums over at most 256 dims and some hundred keys. */
static const double TOLERANCE = 5e-6;

typedef struct text {
    fr_attention shape; /* without path and results */
    float *qkv, *q_norm, *k_norm, *cos, *sin, *k, *v;
} text;

/* Exactly as long as asked for, so that the sanitizer sees a read beyond the end. */
static float *take(size_t count) {
    float *found = malloc((count > 0 ? count : 1) * sizeof(float));
    REQUIRE(found != NULL);
    return found;
}

static float *take_random(size_t count, uint64_t *random) {
    float *found = take(count);
    for (size_t i = 0; i < count; i++)
        found[i] = (float)((double)(next_random(random) >> 40) / (double)(1u << 23) - 1.0);
    return found;
}

static float *copy_of(const float *from, size_t count) {
    float *found = take(count);
    memcpy(found, from, count * sizeof(float));
    return found;
}

static size_t width_of(const fr_attention *it) {
    return (it->heads + 2 * it->kv_heads) * it->dim;
}

static size_t cache_of(const fr_attention *it) {
    return it->kv_heads * it->capacity * it->dim;
}

/* Cache rows that were never written hold NaNs: a read of one must show. */
static text make(fr_attention shape, int norms, uint64_t *random) {
    text it = {.shape = shape};
    it.qkv = take_random(shape.rows * width_of(&shape), random);
    it.k = take_random(cache_of(&shape), random);
    it.v = take_random(cache_of(&shape), random);
    for (size_t i = 0; i < cache_of(&shape); i++)
        if (i / shape.dim % shape.capacity >= shape.position)
            it.k[i] = it.v[i] = NAN;
    if (norms) {
        it.q_norm = take_random(shape.dim, random);
        it.k_norm = take_random(shape.dim, random);
    }
    if (shape.half > 0) {
        size_t count = (shape.position + shape.rows) * shape.half;
        it.cos = take(count);
        it.sin = take(count);
        for (size_t i = 0; i < count; i++) {
            double angle = (double)(i / shape.half) * pow(100.0, -(double)(i % shape.half) / (double)shape.half);
            it.cos[i] = (float)cos(angle), it.sin[i] = (float)sin(angle);
        }
    }
    it.shape.qkv = it.qkv, it.shape.q_norm = it.q_norm, it.shape.k_norm = it.k_norm;
    it.shape.cos = it.cos, it.shape.sin = it.sin;
    it.shape.epsilon = 1e-6f;
    return it;
}

static void release(text *it) {
    float *const all[] = {it->qkv, it->q_norm, it->k_norm, it->cos, it->sin, it->k, it->v};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        free(all[i]);
}

/* The parts last to first: the order must not matter. */
static void run(fr_attention it, const fr_attention_path *path, float *k, float *v, float *out) {
    it.path = path, it.k_before = it.k_cache = k, it.v_before = it.v_cache = v, it.out = out;
    for (size_t part = fr_attention_writes(&it); part > 0; part--)
        fr_attention_write(&it, part - 1);
    for (size_t part = fr_attention_parts(&it); part > 0; part--)
        fr_attention_attend(&it, part - 1);
}

/* One head of q or k in double. */
static void turn(const fr_attention *it, const float *x, size_t row, const float *norm, double *y) {
    double squares = 0.0;
    for (size_t d = 0; d < it->dim; d++)
        squares += (double)x[d] * x[d];
    double inverse = 1.0 / sqrt(squares / (double)it->dim + (double)it->epsilon);
    for (size_t d = 0; d < it->dim; d++)
        y[d] = norm != NULL ? x[d] * inverse * norm[d] : x[d];
    for (size_t i = 0; i < it->half; i++) {
        double a = y[i], b = y[i + it->half];
        double c = it->cos[(it->position + row) * it->half + i], s = it->sin[(it->position + row) * it->half + i];
        y[i] = a * c - b * s;
        y[i + it->half] = a * s + b * c;
    }
}

static int sees(const fr_attention *it, size_t token, size_t key) {
    size_t at = it->position + token;
    return (!it->causal || key <= at) && (it->window == 0 || key + it->window > at);
}

/* out [heads * dim] of one token, from caches that are written already. */
static void reference(const fr_attention *it, const float *k, const float *v, size_t token, double *out) {
    size_t end = it->position + it->rows;
    double *scores = calloc(end, sizeof(double)), q[FR_ATTENTION_MAX_DIM];
    REQUIRE(scores != NULL);
    for (size_t head = 0; head < it->heads; head++) {
        size_t start = head / (it->heads / it->kv_heads) * it->capacity * it->dim;
        turn(it, it->qkv + token * width_of(it) + head * it->dim, token, it->q_norm, q);
        double largest = -INFINITY, sum = 0.0;
        for (size_t j = 0; j < end; j++) {
            scores[j] = 0.0;
            for (size_t d = 0; d < it->dim; d++)
                scores[j] += q[d] * (double)k[start + j * it->dim + d];
            scores[j] *= (double)it->scale;
            if (it->softcap > 0.0f)
                scores[j] = (double)it->softcap * tanh(scores[j] / (double)it->softcap);
            if (sees(it, token, j))
                largest = fmax(largest, scores[j]);
        }
        memset(out + head * it->dim, 0, it->dim * sizeof(double));
        for (size_t j = 0; j < end; j++) {
            double weight = sees(it, token, j) ? exp(scores[j] - largest) : 0.0;
            sum += weight;
            for (size_t d = 0; d < it->dim; d++)
                out[head * it->dim + d] += weight > 0.0 ? weight * (double)v[start + j * it->dim + d] : 0.0;
        }
        for (size_t d = 0; d < it->dim; d++)
            out[head * it->dim + d] /= sum;
    }
    free(scores);
}

/* New rows of the caches are what the definition says; all others keep their bits. */
static double cache_error(const text *it, const float *k, const float *v) {
    const fr_attention *s = &it->shape;
    double worst = 0.0, expected[FR_ATTENTION_MAX_DIM];
    for (size_t i = 0; i < s->kv_heads * s->capacity; i++) {
        size_t row = i % s->capacity, head = i / s->capacity, at = i * s->dim;
        if (row < s->position || row >= s->position + s->rows) {
            CHECK(memcmp(k + at, it->k + at, s->dim * sizeof(float)) == 0);
            CHECK(memcmp(v + at, it->v + at, s->dim * sizeof(float)) == 0);
            continue;
        }
        row -= s->position;
        const float *new_k = s->qkv + row * width_of(s) + (s->heads + head) * s->dim;
        CHECK(memcmp(v + at, new_k + s->kv_heads * s->dim, s->dim * sizeof(float)) == 0);
        turn(s, new_k, row, s->k_norm, expected);
        for (size_t d = 0; d < s->dim; d++)
            worst = fmax(worst, fabs((double)k[at + d] - expected[d]));
    }
    return worst;
}

/* All paths against the definition; those with fused multiply and add must agree in every bit. */
static void check_paths(const text *it, const char *what) {
    const fr_attention_path *paths[FR_ATTENTION_MAX_PATHS];
    size_t n_paths = fr_attention_paths(paths), size = it->shape.rows * it->shape.heads * it->shape.dim;
    double *expected = calloc(it->shape.heads * it->shape.dim, sizeof(double));
    float *first = NULL;
    REQUIRE(expected != NULL);
    for (size_t p = 0; p < n_paths; p++) {
        float *k = copy_of(it->k, cache_of(&it->shape)), *v = copy_of(it->v, cache_of(&it->shape)), *out = take(size);
        run(it->shape, paths[p], k, v, out);
        double worst = cache_error(it, k, v);
        for (size_t token = 0; token < it->shape.rows; token++) {
            size_t width = it->shape.heads * it->shape.dim;
            reference(&it->shape, k, v, token, expected);
            for (size_t i = 0; i < width; i++) {
                double error = fabs((double)out[token * width + i] - expected[i]);
                worst = error <= worst ? worst : error; /* a NaN stays */
            }
        }
        if (!(worst <= TOLERANCE)) {
            check_failures++;
            printf("%s: path %s: dim %zu, rows %zu, heads %zu/%zu, position %zu: error %g\n", what, paths[p]->name,
                   it->shape.dim, it->shape.rows, it->shape.heads, it->shape.kv_heads, it->shape.position, worst);
        }
        if (p > 0 && p + 1 < n_paths)
            CHECK(memcmp(first, out, size * sizeof(float)) == 0);
        free(k);
        free(v);
        if (p == 0)
            first = out;
        else
            free(out);
    }
    free(first);
    free(expected);
}

static fr_attention plain(size_t rows, size_t group, size_t kv_heads, size_t dim, size_t position) {
    return (fr_attention){.rows = rows,
                          .heads = group * kv_heads,
                          .kv_heads = kv_heads,
                          .dim = dim,
                          .capacity = position + rows,
                          .position = position,
                          .scale = 1.0f / sqrtf((float)dim),
                          .causal = 1};
}

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
