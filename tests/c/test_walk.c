/* A greedy walk in one: the tokens of its products and steps one by one, whatever the path and the threads are. */
#include "linear_product.h"

#include "kernels/walk.h"
#include "sampler.h"

#include <pthread.h>

enum { MOST_SLOTS = 9, MOST_THREADS = 4 };

typedef struct sizes {
    size_t state, rank, width, vocab, slots;
} sizes;

/* A head, a block of hidden rows and logits, and where the walk begins. */
typedef struct walk_case {
    sizes of;
    product joint, output;
    float *bias, *table, *hidden, *logits;
    int64_t anchor;
} walk_case;

static float *floats(size_t count, float scale, uint64_t *random) {
    float *found = take(count, sizeof(float));
    for (size_t i = 0; i < count; i++)
        found[i] = scale * random_float(random);
    return found;
}

static walk_case make_case(sizes of, size_t group_size, uint64_t *random) {
    walk_case it = {.of = of};
    it.joint = make(1, 3 * of.state, of.state + of.rank + of.width, group_size);
    it.output = make(1, of.vocab, of.state, group_size);
    fill(&it.joint, random);
    fill(&it.output, random);
    it.bias = floats(3 * of.state, 1.0f, random);
    it.table = floats(of.vocab * of.rank, 1.0f, random);
    it.hidden = floats(of.slots * of.width, 1.0f, random);
    it.logits = floats(of.slots * of.vocab, 3.0f, random);
    it.anchor = (int64_t)(next_random(random) % of.vocab);
    return it;
}

static void release_case(walk_case *it) {
    release(&it->joint);
    release(&it->output);
    free(it->bias);
    free(it->table);
    free(it->hidden);
    free(it->logits);
}

/* Product by product, step by step, by the definition of each. */
static void walk_by_steps(walk_case *it, int64_t *tokens) {
    const sizes of = it->of;
    float *state = take(of.state, sizeof(float)), *next = take(of.state, sizeof(float));
    int64_t token = it->anchor;
    for (size_t slot = 0; slot < of.slots; slot++) {
        memcpy(it->joint.x, state, of.state * sizeof(float));
        memcpy(it->joint.x + of.state, it->table + (size_t)token * of.rank, of.rank * sizeof(float));
        memcpy(it->joint.x + of.state + of.rank, it->hidden + slot * of.width, of.width * sizeof(float));
        float *z = reference(&it->joint);
        for (size_t i = 0; i < 3 * of.state; i++)
            z[i] += it->bias[i];
        fr_float_steps_portable.recur(z, state, of.state, next, it->output.x);
        memcpy(state, next, of.state * sizeof(float));
        float *scores = reference(&it->output);
        for (size_t i = 0; i < of.vocab; i++)
            scores[i] += it->logits[slot * of.vocab + i];
        tokens[slot] = token = fr_argmax(scores, of.vocab);
        free(z);
        free(scores);
    }
    free(state);
    free(next);
}

static void *seat(void *walk) {
    fr_walk_seat(walk);
    return NULL;
}

static void walk_by_threads(const walk_case *it, const fr_linear_path *path, size_t threads, int64_t *tokens) {
    fr_walk walk = {.joint = begin(&it->joint, path, NULL),
                    .output = begin(&it->output, path, NULL),
                    .table = it->table,
                    .hidden = it->hidden,
                    .logits = it->logits,
                    .anchor = it->anchor,
                    .tokens = tokens,
                    .slots = it->of.slots,
                    .state_size = it->of.state,
                    .rank = it->of.rank,
                    .width = it->of.width};
    walk.joint.addend = it->bias;
    const size_t bytes = fr_walk_scratch(&walk);
    walk.scratch = take(bytes, 1);
    memset(walk.scratch, 0x7F, bytes);
    CHECK(fr_walk_begin(&walk) >= (it->of.slots > 0));
    pthread_t all[MOST_THREADS];
    for (size_t i = 0; i < threads; i++)
        REQUIRE(pthread_create(&all[i], NULL, seat, &walk) == 0);
    for (size_t i = 0; i < threads; i++)
        pthread_join(all[i], NULL);
    fr_walk_seat(&walk); /* one that comes late */
    free(walk.scratch);
}

static void check_walk(sizes of, size_t group_size, uint64_t *random) {
    walk_case it = make_case(of, group_size, random);
    int64_t expected[MOST_SLOTS], found[MOST_SLOTS];
    walk_by_steps(&it, expected);
    const fr_linear_path *paths[FR_LINEAR_MAX_PATHS];
    const size_t n_paths = fr_linear_paths(format_of(group_size), paths);
    for (size_t p = 0; p < n_paths; p++)
        for (size_t threads = 1; threads <= MOST_THREADS; threads++) {
            memset(found, 0x55, sizeof found);
            walk_by_threads(&it, paths[p], threads, found);
            CHECK(memcmp(found, expected, of.slots * sizeof *found) == 0);
        }
    release_case(&it);
}

/* Equal logits, and weights of zero: the first of the largest, in whatever part it is. */
static void test_ties(uint64_t *random) {
    enum { VOCAB = 9000, FIRST = 700, LAST = 8500 };
    walk_case it = make_case((sizes){256, 3, 5, VOCAB, 2}, 0, random);
    memset(it.output.w, 0, it.output.n * it.output.k);
    pack(&it.output);
    memset(it.logits, 0, 2 * VOCAB * sizeof(float));
    for (size_t slot = 0; slot < 2; slot++)
        it.logits[slot * VOCAB + FIRST] = it.logits[slot * VOCAB + LAST] = 1.0f;
    const fr_linear_path *paths[FR_LINEAR_MAX_PATHS];
    fr_linear_paths(&fr_linear_int8, paths);
    int64_t found[2];
    walk_by_threads(&it, paths[0], 2, found);
    CHECK(found[0] == FIRST && found[1] == FIRST);
    release_case(&it);
}

int main(void) {
    uint64_t random = 20261121;
    for (size_t i = 0; i < N_GROUP_SIZES; i++) {
        check_walk((sizes){1, 1, 1, 1, 1}, GROUP_SIZES[i], &random);
        check_walk((sizes){19, 7, 33, 100, MOST_SLOTS}, GROUP_SIZES[i], &random);
        check_walk((sizes){128, 64, 500, 3000, 4}, GROUP_SIZES[i], &random); /* more than one part */
        check_walk((sizes){5, 3, 8, 40, 0}, GROUP_SIZES[i], &random);
    }
    test_ties(&random);
    return check_failures > 0;
}
