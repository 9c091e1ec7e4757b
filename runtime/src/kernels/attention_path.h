/* The steps of one path, in vectors of LANES floats; included by the files of the paths, which define before
 *   LANES, TILE (vectors of a tile of four rows: what the registers hold), TARGET (the attribute of its functions),
 *   MADD(a, b, c) = a * b + c of vectors, VNNI where it has instructions for sums of products of bytes.
 * Sums are kept in sixteen parts whatever LANES is, so that the paths differ by MADD alone. */
#include "attention_rows_path.h"

#include "attention_score_path.h"
#include "attention_weigh_path.h"

#include "attention_codes_path.h"
#include "attention_values_path.h"

#include "attention_lanes_score_path.h"
#include "attention_lanes_path.h"

/* `vectors` vectors of the values of the keys from..to-1 by `rows` rows, both constants where this is inlined. */
INLINE void add_tile(const float *weights, int32_t from, int32_t to, const float *v, size_t dim, float *acc,
                     share *ahead, size_t rows, size_t vectors) {
    vec sums[ROWS][TILE];
#pragma GCC unroll 4
    for (size_t row = 0; row < rows; row++)
#pragma GCC unroll 4
        for (size_t i = 0; i < vectors; i++)
            sums[row][i] = load(acc + row * dim + i * LANES);
    for (size_t key = (size_t)from; key < (size_t)to; key++) {
        vec values[TILE];
#pragma GCC unroll 4
        for (size_t i = 0; i < vectors; i++)
            values[i] = load(v + key * dim + i * LANES);
        fetch_some(ahead);
#pragma GCC unroll 4
        for (size_t row = 0; row < rows; row++) {
            const vec weight = all(weights[row * KEYS + key]);
#pragma GCC unroll 4
            for (size_t i = 0; i < vectors; i++)
                sums[row][i] = MADD(weight, values[i], sums[row][i]);
        }
    }
#pragma GCC unroll 4
    for (size_t row = 0; row < rows; row++)
#pragma GCC unroll 4
        for (size_t i = 0; i < vectors; i++)
            store(acc + row * dim + i * LANES, sums[row][i]);
}

INLINE void add_rows(const float *weights, int32_t from, int32_t to, const float *v, size_t dim, float *acc,
                     share *ahead, size_t rows) {
    size_t d = 0;
    for (; d + TILE * LANES <= dim; d += TILE * LANES)
        add_tile(weights, from, to, v + d, dim, acc + d, ahead, rows, TILE);
    for (; d < dim; d += LANES)
        add_tile(weights, from, to, v + d, dim, acc + d, ahead, rows, 1);
}

/* Rows together over the keys that all of them see, each alone before and after: a weight of zero is not added, since
 * zero times an infinity is not zero. `count` is a constant where this is inlined. */
INLINE void add_some(const float *weights, fr_attention_rows rows, const float *v, size_t dim, float *acc, share ahead,
                     size_t count) {
    share none = {NULL, NULL, 0};
    int32_t from = 0, to = KEYS;
    for (size_t i = 0; i < count; i++) {
        from = rows.from[i] > from ? rows.from[i] : from;
        to = rows.to[i] < to ? rows.to[i] : to;
    }
    from = from < to ? from : to;
    for (size_t i = 0; count > 1 && i < count; i++)
        if (rows.from[i] < from)
            add_rows(weights + i * KEYS, rows.from[i], rows.to[i] < from ? rows.to[i] : from, v, dim, acc + i * dim,
                     &none, 1);
    add_rows(weights, from, to, v, dim, acc, &ahead, count);
    for (size_t i = 0; count > 1 && i < count; i++)
        if (rows.to[i] > to)
            add_rows(weights + i * KEYS, rows.from[i] > to ? rows.from[i] : to, rows.to[i], v, dim, acc + i * dim,
                     &none, 1);
}

TARGET static void add(const float *weights, fr_attention_rows rows, size_t count, const float *v, size_t dim,
                       fr_attention_ahead next, float *acc) {
    const size_t tiles = (count + ROWS - 1) / ROWS, columns = (dim + TILE * LANES - 1) / (TILE * LANES);
    for (size_t row = 0; row < count; row += ROWS) {
        const float *some = weights + row * KEYS;
        float *to = acc + row * dim;
        const share ahead = share_of(next, row / ROWS, tiles, KEYS * columns);
        switch (count - row) {
        case 1:
            add_some(some, fr_attention_rows_from(rows, row), v, dim, to, ahead, 1);
            break;
        case 2:
            add_some(some, fr_attention_rows_from(rows, row), v, dim, to, ahead, 2);
            break;
        case 3:
            add_some(some, fr_attention_rows_from(rows, row), v, dim, to, ahead, 3);
            break;
        default:
            add_some(some, fr_attention_rows_from(rows, row), v, dim, to, ahead, 4);
        }
    }
}

#define PATH(text)                                                                                                     \
    {.name = (text),                                                                                                   \
     .usable = usable,                                                                                                 \
     .prepare = prepare,                                                                                               \
     .encode = encode,                                                                                                 \
     .score = score,                                                                                                   \
     .score_codes = score_codes,                                                                                       \
     .weigh = weigh,                                                                                                   \
     .add = add,                                                                                                       \
     .add_codes = add_codes,                                                                                           \
     .turn_codes = turn_codes,                                                                                         \
     .many = MANY,                                                                                                     \
     .attend_codes = attend_codes,                                                                                     \
     .finish = finish}
