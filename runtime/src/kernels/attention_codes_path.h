/* Scores over keys of int8, of one path: sums of integers, which no order changes; included by attention_path.h, which
 * says what is defined before. */

enum { FOUR = 4 /* codes in four bytes, which one step multiplies */ };

/* Of the codes of a query with those of `keys`, which are `dim` bytes apart: four at a time, they turn as floats do. */
INLINE const float *fours_of(const int8_t *codes) {
    return (const float *)(const void *)codes;
}

INLINE ints all_fours(const int8_t *codes) {
    int32_t four_codes;
    memcpy(&four_codes, codes, sizeof four_codes);
    return (ints){0} + four_codes;
}

INLINE vec floats_of(ints x) {
    return __builtin_convertvector(x, vec);
}

/* The scales of a block's rows, zero beyond `count`: where they lie, or a copy. */
INLINE const float *scales_at(const float *scales, size_t count, float *room) {
    if (count == KEYS)
        return scales;
    memcpy(room, scales, count * sizeof(float));
    memset(room + count, 0, (KEYS - count) * sizeof(float));
    return room;
}

/* TILE vectors of keys by `rows` rows from number `row` on; `rows` is a constant where this is inlined. */
INLINE void score_codes_tile(const fr_attention_query *q, size_t row, size_t dim, const float *turned,
                             const float *scales, float *scores, share *ahead, size_t rows) {
    ints sums[ROWS][TILE];
    const int8_t *codes = q->codes + row * dim;
#pragma GCC unroll 4
    for (size_t r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (size_t i = 0; i < TILE; i++)
            sums[r][i] = (ints){0} - KEY_EXCESS * q->sums[row + r];
    for (size_t d = 0; d < dim; d += FOUR, turned += KEYS) {
        ints keys[TILE];
#pragma GCC unroll 4
        for (size_t i = 0; i < TILE; i++)
            keys[i] = (ints)load(turned + i * LANES);
        fetch_some(ahead);
#pragma GCC unroll 4
        for (size_t r = 0; r < rows; r++) {
            const ints x = all_fours(codes + r * dim + d);
#pragma GCC unroll 4
            for (size_t i = 0; i < TILE; i++)
                sums[r][i] = dot_four(sums[r][i], keys[i], x);
        }
    }
#pragma GCC unroll 4
    for (size_t r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (size_t i = 0; i < TILE; i++)
            store(scores + r * KEYS + i * LANES,
                  floats_of(sums[r][i]) * all(q->scales[row + r]) * load(scales + i * LANES));
}

#if LANES == 16
/* Few rows: as score_directly(). */
INLINE void score_codes_directly(const fr_attention_query *q, size_t dim, const float *k, const float *scales,
                                 size_t count, fr_attention_ahead next, float *scores, size_t rows) {
    enum { AT_ONCE = 2 * TURN_KEYS };
    const size_t fours = dim / FOUR;
    float room[AT_ONCE * FR_ATTENTION_MAX_DIM / FOUR];
    for (size_t key = 0; key < count; key += AT_ONCE) {
        const float *low = keys_at(k, count, fours, key, room);
        const float *high = keys_at(k, count, fours, key + TURN_KEYS, room + TURN_KEYS * fours);
        share ahead = share_of(next, key / AT_ONCE, (count + AT_ONCE - 1) / AT_ONCE, fours / TURN_DIMS);
        ints sums[2][2];
#pragma GCC unroll 2
        for (size_t r = 0; r < rows; r++)
            sums[r][0] = sums[r][1] = (ints){0} - KEY_EXCESS * q->sums[r];
        for (size_t d = 0; d < fours; d += TURN_DIMS) {
            vec turned[2][TURN_DIMS];
            fetch_some(&ahead);
            turn_eight(low + d, fours, turned[0]);
            turn_eight(high + d, fours, turned[1]);
#pragma GCC unroll 8
            for (size_t i = 0; i < TURN_DIMS; i++)
#pragma GCC unroll 2
                for (size_t r = 0; r < rows; r++) {
                    const ints x = all_fours(q->codes + r * dim + (d + i) * FOUR);
                    sums[r][0] = dot_four(sums[r][0], (ints)turned[0][i] ^ KEY_FLIP, x);
                    sums[r][1] = dot_four(sums[r][1], (ints)turned[1][i] ^ KEY_FLIP, x);
                }
        }
#pragma GCC unroll 2
        for (size_t r = 0; r < rows; r++)
#pragma GCC unroll 2
            for (size_t i = 0; i < 2; i++)
                store(scores + r * KEYS + key + i * TURN_KEYS,
                      floats_of(sums[r][i]) * all(q->scales[r]) * load(scales + key + i * TURN_KEYS));
    }
}
#endif

TARGET static void score_codes(const fr_attention_query *q, size_t rows, size_t dim, const int8_t *k,
                               const float *scales, size_t count, fr_attention_ahead next, float *scores) {
    _Alignas(LINE) float turned[KEYS * FR_ATTENTION_MAX_DIM / FOUR], room[KEYS];
    const float *const near = scales_at(scales, count, room);
#if LANES == 16
    if (rows <= 2 && dim % (FOUR * TURN_DIMS) == 0) {
        if (rows == 1)
            score_codes_directly(q, dim, fours_of(k), near, count, next, scores, 1);
        else
            score_codes_directly(q, dim, fours_of(k), near, count, next, scores, 2);
        return;
    }
#endif
    turn_keys(fours_of(k), count, dim / FOUR, KEY_FLIP, turned);
    const size_t tiles = (rows + ROWS - 1) / ROWS * ((count + TILE * LANES - 1) / (TILE * LANES));
    size_t tile = 0;
    for (size_t key = 0; key < count; key += TILE * LANES)
        for (size_t row = 0; row < rows; row += ROWS, tile++) {
            float *y = scores + row * KEYS + key;
            share ahead = share_of(next, tile, tiles, dim / FOUR);
            switch (rows - row) {
            case 1:
                score_codes_tile(q, row, dim, turned + key, near + key, y, &ahead, 1);
                break;
            case 2:
                score_codes_tile(q, row, dim, turned + key, near + key, y, &ahead, 2);
                break;
            case 3:
                score_codes_tile(q, row, dim, turned + key, near + key, y, &ahead, 3);
                break;
            default:
                score_codes_tile(q, row, dim, turned + key, near + key, y, &ahead, 4);
            }
        }
}
