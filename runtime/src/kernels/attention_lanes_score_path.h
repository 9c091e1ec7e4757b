/* Scores over keys of int8 for many query rows, of one path: a vector holds rows and not keys, so that keys need no
 * turning. Included by attention_path.h, which says what is defined before. */

enum {
    SOME_ROWS = 2 * LANES,  /* most rows that go together */
    KEYS_AT_ONCE = 4 * TILE /* that a step takes a multiple of */
};

/* A block for some rows, of which `vectors` and `whole`, whether all of them see the whole block, are constants where
 * functions of this file are inlined. */
typedef struct lanes_block {
    const fr_attention_codes *block;
    const int8_t *keys;               /* [keys_of()][dim], as dot_four() takes them, zero beyond count */
    const float *k_scales, *v_scales; /* [KEYS] */
    float *steps; /* [KEYS][SOME_ROWS] scores, then weights times scales, then pairs of their codes */
    ints from[2], to[2];
} lanes_block;

INLINE float *step_of(const lanes_block *it, size_t key, size_t vector) {
    return it->steps + key * SOME_ROWS + vector * LANES;
}

INLINE ints ints_at(const void *p) {
    ints x;
    memcpy(&x, p, sizeof x);
    return x;
}

INLINE ints seen_by_lanes(const lanes_block *it, size_t key, size_t vector) {
    const ints number = (ints){0} + (int32_t)key;
    return (number >= it->from[vector]) & (number < it->to[vector]);
}

INLINE size_t keys_of(const fr_attention_codes *block) {
    return (block->count + KEYS_AT_ONCE - 1) / KEYS_AT_ONCE * KEYS_AT_ONCE;
}

INLINE void flip_keys(const fr_attention_codes *block, int8_t *keys) {
    const size_t size = block->count * block->dim, end = keys_of(block) * block->dim;
    size_t i = 0;
    for (; i + sizeof(ints) <= size; i += sizeof(ints)) {
        const ints x = ints_at(block->k + i) ^ KEY_FLIP;
        memcpy(keys + i, &x, sizeof x);
    }
    for (; i < size; i++)
        keys[i] = (int8_t)(block->k[i] ^ KEY_FLIP);
    memset(keys + size, 0, end - size);
}

/* Scores of `count` keys from number `first` on, a constant; where the block is whole, peaks become the largest. */
INLINE void score_lanes_tile(const lanes_block *it, const int32_t *q, const ints starts[2], const vec q_scales[2],
                             size_t first, size_t count, vec peaks[2], size_t vectors, int whole) {
    const size_t dim = it->block->dim;
    ints sums[KEYS_AT_ONCE][2];
    const int8_t *keys = it->keys + first * dim;
#pragma GCC unroll 16
    for (size_t i = 0; i < count; i++)
#pragma GCC unroll 2
        for (size_t v = 0; v < vectors; v++)
            sums[i][v] = starts[v];
    for (size_t d = 0; d < dim; d += FOUR, q += KEYS) {
        ints x[2];
#pragma GCC unroll 2
        for (size_t v = 0; v < vectors; v++)
            x[v] = ints_at(q + v * LANES);
#pragma GCC unroll 16
        for (size_t i = 0; i < count; i++) {
            const ints key = all_fours(keys + i * dim + d);
#pragma GCC unroll 2
            for (size_t v = 0; v < vectors; v++)
                sums[i][v] = dot_four(sums[i][v], key, x[v]);
        }
    }
#pragma GCC unroll 16
    for (size_t i = 0; i < count; i++)
#pragma GCC unroll 2
        for (size_t v = 0; v < vectors; v++) {
            const vec score = floats_of(sums[i][v]) * q_scales[v] * all(it->k_scales[first + i]);
            store(step_of(it, first + i, v), score);
            if (whole)
                peaks[v] = larger(score, peaks[v]);
        }
}

INLINE void score_lanes(const lanes_block *it, const fr_attention_query *q, size_t row, vec peaks[2], size_t vectors,
                        int whole) {
    const size_t count = KEYS_AT_ONCE / vectors, tiles = keys_of(it->block) / count;
    ints starts[2];
    vec q_scales[2];
#pragma GCC unroll 2
    for (size_t v = 0; v < vectors; v++) {
        starts[v] = ints_at(q->sums + row + v * LANES) * -KEY_EXCESS;
        q_scales[v] = load(q->scales + row + v * LANES);
    }
    for (size_t tile = 0; tile < tiles; tile++) {
        share ahead = share_of(it->block->next_values, tile, tiles, 1);
        if (row == 0)
            fetch_some(&ahead);
        score_lanes_tile(it, q->turned + row, starts, q_scales, tile * count, count, peaks, vectors, whole);
    }
}
