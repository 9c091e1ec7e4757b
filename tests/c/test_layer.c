/* A whole decoder layer against its parts one after the other: bit for bit, by one thread and by many. */
#include "linear_product.h"

#include "kernels/layer.h"

#include <pthread.h>

enum { WIDTH = 48, INNER = 2048, HEADS = 4, KV_HEADS = 2, DIM = 16, CAPACITY = 40, POSITION = 20, THREADS = 4 };
enum { CACHE = KV_HEADS * CAPACITY * DIM, SCALES = KV_HEADS * CAPACITY };

/* Both caches, of float32 or of codes with scales. */
typedef struct caches {
    float rows[2][CACHE], scales[2][SCALES];
} caches;

typedef struct layer {
    product products[FR_LAYER_PRODUCTS];
    float norms[2][WIDTH];
    caches before;
    int is_int8;
    int64_t position;
    size_t rows;
} layer;

static layer make_layer(size_t rows, int is_int8, const size_t group_sizes[FR_LAYER_PRODUCTS], uint64_t *random) {
    static const size_t n[] = {(HEADS + 2 * KV_HEADS) * DIM, WIDTH, 2 * INNER, WIDTH};
    static const size_t k[] = {WIDTH, HEADS * DIM, WIDTH, INNER};
    layer it = {.is_int8 = is_int8, .position = POSITION, .rows = rows};
    for (size_t i = 0; i < FR_LAYER_PRODUCTS; i++) {
        it.products[i] = make(rows, n[i], k[i], group_sizes[i]);
        fill(&it.products[i], random);
    }
    for (size_t i = 0; i < 2 * WIDTH; i++)
        it.norms[i / WIDTH][i % WIDTH] = random_float(random);
    for (size_t i = 0; i < 2 * CACHE; i++)
        it.before.rows[i / CACHE][i % CACHE] = is_int8 ? 0.0f : random_float(random);
    for (size_t i = 0; i < 2 * SCALES; i++)
        it.before.scales[i / SCALES][i % SCALES] = random_float(random);
    return it;
}

static fr_linear linear_of(const layer *it, size_t i) {
    const fr_linear_path *paths[FR_LINEAR_MAX_PATHS];
    fr_linear_paths(format_of(it->products[i].group_size), paths);
    fr_linear made = begin(&it->products[i], paths[0], NULL);
    if (i == FR_LAYER_QKV || i == FR_LAYER_GATED)
        made.norm = it->norms[i == FR_LAYER_GATED], made.epsilon = 1e-5f;
    made.gated = i == FR_LAYER_GATED;
    return made;
}

static fr_attention_batch attention_of(const layer *it, caches *after) {
    const fr_attention_path *paths[FR_ATTENTION_MAX_PATHS];
    fr_attention_paths(paths);
    fr_attention_batch made = {.sequences = 1, .positions = &it->position};
    made.first = (fr_attention){.path = paths[0],
                                .rows = it->rows,
                                .heads = HEADS,
                                .kv_heads = KV_HEADS,
                                .dim = DIM,
                                .capacity = CAPACITY,
                                .scale = 0.25f,
                                .causal = 1};
    fr_attention_cache *const of[] = {&made.first.k, &made.first.v};
    for (size_t i = 0; i < 2; i++) {
        *of[i] = (fr_attention_cache){.before = it->before.rows[i], .rows = after->rows[i]};
        if (it->is_int8)
            of[i]->scales_before = it->before.scales[i], of[i]->scales = after->scales[i];
    }
    return made;
}

static void run_product(const layer *it, size_t i, const float *x, const float *addend, float *y) {
    fr_linear job = linear_of(it, i);
    job.x = x, job.y = y, job.addend = addend, job.addend_stride = job.n;
    run(&job);
}

/* The parts, each alone. */
static float *run_chain(const layer *it, const float *x, caches *after) {
    fr_attention_batch attention = attention_of(it, after);
    float *qkv = take(it->rows * it->products[FR_LAYER_QKV].n, sizeof(float));
    float *out = take(it->rows * HEADS * DIM, sizeof(float)), *h = take(it->rows * WIDTH, sizeof(float));
    float *gated = take(it->rows * INNER, sizeof(float)), *y = take(it->rows * WIDTH, sizeof(float));
    run_product(it, FR_LAYER_QKV, x, NULL, qkv);
    attention.first.qkv = qkv, attention.first.out = out;
    for (size_t part = 0; part < fr_attention_batch_writes(&attention); part++)
        fr_attention_batch_write(&attention, part);
    for (size_t part = 0; part < fr_attention_batch_parts(&attention); part++)
        fr_attention_batch_attend(&attention, part);
    run_product(it, FR_LAYER_OUTPUT, out, x, h);
    run_product(it, FR_LAYER_GATED, h, NULL, gated);
    run_product(it, FR_LAYER_DOWN, gated, h, y);
    float *const used[] = {qkv, out, h, gated};
    for (size_t i = 0; i < sizeof used / sizeof used[0]; i++)
        free(used[i]);
    return y;
}

typedef struct crew {
    fr_layer *job;
    atomic_size_t next;
} crew;

static void *come(void *data) {
    crew *it = data;
    for (size_t seat; (seat = atomic_fetch_add(&it->next, 1)) < it->job->seats;)
        fr_layer_seat(it->job, seat);
    return NULL;
}

static void run_layer(const layer *it, const float *x, size_t seats, size_t threads, caches *after, float *y) {
    fr_layer job = {.x = x, .y = y, .attention = attention_of(it, after), .seats = seats};
    for (size_t i = 0; i < FR_LAYER_PRODUCTS; i++)
        job.products[i] = linear_of(it, i);
    job.scratch = take(fr_layer_scratch(&job), 1);
    memset(job.scratch, 0x7F, fr_layer_scratch(&job));
    fr_layer_begin(&job);
    crew all = {.job = &job};
    pthread_t others[THREADS];
    for (size_t i = 1; i < threads; i++)
        REQUIRE(pthread_create(&others[i], NULL, come, &all) == 0);
    come(&all);
    for (size_t i = 1; i < threads; i++)
        pthread_join(others[i], NULL);
    free(job.scratch);
}

static void test_layer(size_t rows, int is_int8, const size_t group_sizes[FR_LAYER_PRODUCTS], uint64_t *random) {
    static const struct {
        size_t seats, threads;
    } ways[] = {{1, 1}, {2, 1}, {2, 2}, {THREADS, THREADS}, {64, 3}};
    static caches expected_after, after;
    layer it = make_layer(rows, is_int8, group_sizes, random);
    float *x = it.products[FR_LAYER_QKV].x, *y = take(rows * WIDTH, sizeof(float));
    memset(&expected_after, 0, sizeof expected_after);
    float *expected = run_chain(&it, x, &expected_after);
    for (size_t i = 0; i < sizeof ways / sizeof ways[0]; i++) {
        memset(&after, 0, sizeof after);
        memset(y, 0x55, rows * WIDTH * sizeof(float));
        run_layer(&it, x, ways[i].seats, ways[i].threads, &after, y);
        CHECK(memcmp(y, expected, rows * WIDTH * sizeof(float)) == 0);
        CHECK(memcmp(&after, &expected_after, sizeof after) == 0);
    }
    free(expected);
    free(y);
    for (size_t i = 0; i < FR_LAYER_PRODUCTS; i++)
        release(&it.products[i]);
}

int main(void) {
    static const size_t rows[] = {0, 1, 2, 3, 17};
    static const size_t precisions[][FR_LAYER_PRODUCTS] = {{0, 0, 0, 0}, {128, 128, 128, 128}, {32, 0, 64, 0}};
    uint64_t random = 20261121;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        for (size_t j = 0; j < sizeof precisions / sizeof precisions[0]; j++)
            for (int is_int8 = 0; is_int8 < 2; is_int8++)
                test_layer(rows[i], is_int8, precisions[j], &random);
    return check_failures != 0;
}
