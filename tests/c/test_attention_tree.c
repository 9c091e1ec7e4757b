/* Rows that are nodes of a tree: every path against the definition, and the bits of each node's chain alone. */
#include "attention_reference.h"

/* Random parents: after a chain of `chain` rows each row continues one of the last `reach` rows before it, or the text
 * where there is no chain. */
static void grow(text *it, size_t chain, size_t reach, uint64_t *random) {
    const size_t rows = it->shape.rows;
    it->parents = take_bytes(rows * sizeof(int64_t));
    for (size_t row = 0; row < rows; row++) {
        int64_t parent = (int64_t)row - 1 - (row < chain ? 0 : (int64_t)(next_random(random) % reach));
        int64_t least = chain > 0 ? (int64_t)chain - 1 : -1;
        it->parents[row] = row < chain || parent > least ? parent : least;
    }
    it->shape.parents = it->parents;
    it->shape.nodes = fr_attention_count_nodes(it->parents, rows);
}

/* Each row of the run, and a run of its ancestors and itself as a chain: the same bits, written ones too. */
static void check_chains(const text *it, const fr_attention_path *path) {
    const fr_attention *s = &it->shape;
    const size_t width = width_of(s), out_width = s->heads * s->dim, row_bytes = bytes_of(it) / rows_of(s);
    caches c = copy_caches(it);
    float *out = take(s->rows * out_width), *rows = take(s->rows * width), *chain_out = take(s->rows * out_width);
    run(*s, path, &c, out);
    for (size_t token = 0; token < s->rows; token++) {
        size_t count = position_of(it, token) - s->position + 1;
        int64_t at = (int64_t)token;
        for (size_t i = count; i > 0; i--, at = it->parents[at])
            memcpy(rows + (i - 1) * width, s->qkv + (size_t)at * width, width * sizeof(float));
        caches alone = copy_caches(it);
        fr_attention chain = *s;
        chain.qkv = rows, chain.rows = count, chain.nodes = 0;
        run(chain, path, &alone, chain_out);
        CHECK(memcmp(out + token * out_width, chain_out + (count - 1) * out_width, out_width * sizeof(float)) == 0);
        size_t to = (s->position + token) * row_bytes, from = (s->position + count - 1) * row_bytes;
        CHECK(memcmp((char *)c.k + to, (char *)alone.k + from, row_bytes) == 0);
        CHECK(memcmp((char *)c.v + to, (char *)alone.v + from, row_bytes) == 0);
        free_caches(&alone);
    }
    free_caches(&c);
    free(out);
    free(rows);
    free(chain_out);
}

static void test_fuzz(uint64_t *random) {
    const fr_attention_path *paths[FR_ATTENTION_MAX_PATHS];
    size_t n_paths = fr_attention_paths(paths);
    for (int round = 0; round < 90; round++) {
        size_t nodes = 1 + next_random(random) % (round % 10 == 0 ? FR_ATTENTION_NODES : 20);
        size_t chain = next_random(random) % 4 * (next_random(random) % 30);
        fr_attention shape = plain(chain + nodes, 1 + next_random(random) % 4, 1 + next_random(random) % 2,
                                   16 * (1 + next_random(random) % 4), next_random(random) % 150);
        shape.capacity += next_random(random) % 70;
        shape.half = next_random(random) % (shape.dim / 2 + 1);
        shape.window = round % 3 == 0 ? 1 + next_random(random) % 90 : 0;
        shape.softcap = round % 4 == 0 ? 3.0f : 0.0f;
        text it = make_in(round % 2, shape, (int)(next_random(random) % 2), random);
        grow(&it, chain, 1 + next_random(random) % 12, random);
        CHECK(it.shape.nodes <= nodes);
        check_paths(&it, round % 2 ? "tree, int8" : "tree");
        check_chains(&it, paths[(size_t)round % n_paths]);
        release(&it);
    }
}

static void test_largest_head(uint64_t *random) {
    fr_attention shape = plain(FR_ATTENTION_NODES, 2, 1, FR_ATTENTION_MAX_DIM, 63);
    shape.half = 128;
    for (int is_int8 = 0; is_int8 < 2; is_int8++) {
        text it = make_in(is_int8, shape, 1, random);
        grow(&it, 0, 5, random);
        CHECK(it.shape.nodes == shape.rows);
        check_paths(&it, "largest head");
        release(&it);
    }
}

/* A chain has no nodes; and taken for nodes all the same, it has the bits of the chain. */
static void test_a_chain_is_causal(uint64_t *random) {
    const fr_attention_path *paths[FR_ATTENTION_MAX_PATHS];
    size_t n_paths = fr_attention_paths(paths);
    for (size_t nodes = 1; nodes <= 70; nodes += 23)
        for (int is_int8 = 0; is_int8 < 2; is_int8++) {
            text it = make_in(is_int8, plain(70, 2, 2, 32, 50), 1, random);
            grow(&it, 70, 1, random);
            CHECK(it.shape.nodes == 0);
            it.shape.nodes = nodes;
            for (size_t p = 0; p < n_paths; p++)
                check_chains(&it, paths[p]);
            release(&it);
        }
}

/* A node that is no ancestor may hold anything. */
static void test_others_are_not_seen(uint64_t *random) {
    const fr_attention_path *paths[FR_ATTENTION_MAX_PATHS];
    size_t n_paths = fr_attention_paths(paths);
    for (size_t p = 0; p < n_paths; p++) {
        text it = make(plain(12, 2, 2, 32, 60), 1, random);
        grow(&it, 3, 4, random);
        it.parents[11] = 4, it.parents[10] = 5;
        it.shape.nodes = fr_attention_count_nodes(it.parents, 12);
        for (size_t i = 0; i < width_of(&it.shape); i++)
            it.qkv[10 * width_of(&it.shape) + i] = NAN;
        caches c = copy_caches(&it);
        float *out = take(12 * it.shape.heads * it.shape.dim);
        run(it.shape, paths[p], &c, out);
        for (size_t i = 0; i < 12 * it.shape.heads * it.shape.dim; i++)
            CHECK(isfinite(out[i]) == (i / (it.shape.heads * it.shape.dim) != 10));
        free_caches(&c);
        free(out);
        release(&it);
    }
}

static void test_nodes_are_counted(void) {
    CHECK(fr_attention_count_nodes((const int64_t[]){-1, 0, 1}, 3) == 0);
    CHECK(fr_attention_count_nodes((const int64_t[]){-1, 0, 1, 1}, 4) == 2);
    CHECK(fr_attention_count_nodes((const int64_t[]){-1, 0, 1, 2, 2, 4}, 6) == 3);
    CHECK(fr_attention_count_nodes((const int64_t[]){-1, 0, 1, 2, -1}, 5) == 5);
    CHECK(fr_attention_count_nodes((const int64_t[]){-1, -1, 0}, 3) == 3);
}

int main(void) {
    uint64_t random = 20260731;
    test_nodes_are_counted();
    test_fuzz(&random);
    test_largest_head(&random);
    test_a_chain_is_causal(&random);
    test_others_are_not_seen(&random);
    return check_failures != 0;
}
