/* The steps of one path, in vectors of LANES floats; included by the files of the paths, which define before
 *   LANES, TILE (vectors of a tile of four rows: what the registers hold), TARGET (the attribute of its functions),
 *   MADD(a, b, c) = a * b + c of vectors.
 * Sums are kept in sixteen parts whatever LANES is, so that the paths differ by MADD alone. */
#include "attention_rows_path.h"

#include <math.h>

enum { ROWS = 4 };

/* The share of one tile of rows in fetching what will be read next: the lines first, first + step, ... of each step.
 * All tiles together fetch it once, evenly over their time, so that memory is read on while they compute. */
typedef struct share {
    const float *next;
    size_t first, step;
} share;

INLINE share share_of(const float *next, size_t row, size_t rows) {
    size_t tiles = (rows + ROWS - 1) / ROWS;
    return (share){next, row / ROWS, tiles < 4 ? tiles : 4}; /* four lines: of 64 keys, or of 64 dims */
}

/* TILE vectors of keys by `rows` rows; `rows` is a constant where this is inlined, so that the sums stay in registers.
 */
INLINE void score_tile(const float *q, size_t dim, const float *turned, float *scores, share ahead, size_t rows) {
    vec sums[ROWS][TILE];
#pragma GCC unroll 4
    for (size_t row = 0; row < rows; row++)
#pragma GCC unroll 4
        for (size_t i = 0; i < TILE; i++)
            sums[row][i] = (vec){0};
    for (size_t d = 0; d < dim; d++, turned += KEYS) {
        vec keys[TILE];
#pragma GCC unroll 4
        for (size_t i = 0; i < TILE; i++)
            keys[i] = load(turned + i * LANES);
        for (size_t i = ahead.first; i < KEYS / LINE; i += ahead.step)
            FETCH(ahead.next + d * KEYS + i * LINE);
#pragma GCC unroll 4
        for (size_t row = 0; row < rows; row++) {
            const vec x = all(q[row * dim + d]);
#pragma GCC unroll 4
            for (size_t i = 0; i < TILE; i++)
                sums[row][i] = MADD(x, keys[i], sums[row][i]);
        }
    }
#pragma GCC unroll 4
    for (size_t row = 0; row < rows; row++)
#pragma GCC unroll 4
        for (size_t i = 0; i < TILE; i++)
            store(scores + row * KEYS + i * LANES, sums[row][i]);
}

TARGET static void score(const float *q, size_t rows, size_t dim, const float *turned, size_t count, const float *next,
                         float *scores) {
    for (size_t key = 0; key < count; key += TILE * LANES)
        for (size_t row = 0; row < rows; row += ROWS) {
            const float *x = q + row * dim;
            float *y = scores + row * KEYS + key;
            share ahead = share_of(next, row, rows);
            if (key > 0)
                ahead.first = KEYS;
            switch (rows - row) {
            case 1:
                score_tile(x, dim, turned + key, y, ahead, 1);
                break;
            case 2:
                score_tile(x, dim, turned + key, y, ahead, 2);
                break;
            case 3:
                score_tile(x, dim, turned + key, y, ahead, 3);
                break;
            default:
                score_tile(x, dim, turned + key, y, ahead, 4);
            }
        }
}

/* All ones where key number `first` + lane is in from..to-1. */
INLINE ints seen(const fr_attention_row *row, size_t first) {
    ints key;
    for (int lane = 0; lane < LANES; lane++)
        key[lane] = lane;
    key += (int32_t)first;
    return (key >= (int32_t)row->from) & (key < (int32_t)row->to);
}

TARGET static void weigh(float *scores, fr_attention_row *row, float softcap, float *acc, size_t dim) {
    size_t start = row->from / LANES * LANES; /* vectors without a key that it sees are not touched */
    vec peaks = all(row->largest);
    for (size_t i = start; i < row->to; i += LANES) {
        vec x = load(scores + i);
        if (softcap > 0.0f) {
            x = softcap * tangent(x / softcap);
            store(scores + i, x);
        }
        x = choose(seen(row, i), x, all(-INFINITY));
        peaks = choose(x > peaks, x, peaks);
    }
    const float largest = peak(peaks);
    vec sums[PARTS / LANES] = {{0}};
    for (size_t i = start; i < row->to; i += LANES) {
        vec weights = exponential(load(scores + i) - largest);
        weights = (vec)((ints)weights & seen(row, i));
        sums[i / LANES % (PARTS / LANES)] += weights;
        store(scores + i, weights);
    }
    float correction = exponential(all(row->largest - largest))[0];
    row->largest = largest;
    row->sum = row->sum * correction + total(sums);
    for (size_t i = 0; i < dim; i += LANES)
        store(acc + i, load(acc + i) * correction);
}

/* `vectors` vectors of the values of the keys from..to-1 by `rows` rows, both constants where this is inlined. */
INLINE void add_tile(const float *weights, size_t from, size_t to, const float *v, size_t dim, float *acc, share ahead,
                     size_t rows, size_t vectors) {
    vec sums[ROWS][TILE];
#pragma GCC unroll 4
    for (size_t row = 0; row < rows; row++)
#pragma GCC unroll 4
        for (size_t i = 0; i < vectors; i++)
            sums[row][i] = load(acc + row * dim + i * LANES);
    for (size_t key = from; key < to; key++) {
        vec values[TILE];
#pragma GCC unroll 4
        for (size_t i = 0; i < vectors; i++)
            values[i] = load(v + key * dim + i * LANES);
        for (size_t i = ahead.first; i * LINE < vectors * LANES; i += ahead.step)
            FETCH(ahead.next + key * dim + i * LINE);
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

INLINE void add_rows(const float *weights, size_t from, size_t to, const fr_attention_values *v, float *acc,
                     share ahead, size_t rows) {
    size_t d = 0;
    for (; d + TILE * LANES <= v->dim; d += TILE * LANES, ahead.next += TILE * LANES)
        add_tile(weights, from, to, v->now + d, v->dim, acc + d, ahead, rows, TILE);
    for (; d < v->dim; d += LANES, ahead.next += LANES)
        add_tile(weights, from, to, v->now + d, v->dim, acc + d, ahead, rows, 1);
}

/* Rows together over the keys that all of them see, each alone before and after: a weight of zero is not added, since
 * zero times an infinity is not zero. `count` is a constant where this is inlined. */
INLINE void add_some(const float *weights, const fr_attention_row *rows, const fr_attention_values *v, float *acc,
                     share ahead, size_t count) {
    const share none = {v->next, KEYS, KEYS};
    size_t from = 0, to = KEYS;
    for (size_t i = 0; i < count; i++) {
        from = rows[i].from > from ? rows[i].from : from;
        to = rows[i].to < to ? rows[i].to : to;
    }
    from = from < to ? from : to;
    for (size_t i = 0; count > 1 && i < count; i++)
        if (rows[i].from < from)
            add_rows(weights + i * KEYS, rows[i].from, rows[i].to < from ? rows[i].to : from, v, acc + i * v->dim, none,
                     1);
    add_rows(weights, from, to, v, acc, ahead, count);
    for (size_t i = 0; count > 1 && i < count; i++)
        if (rows[i].to > to)
            add_rows(weights + i * KEYS, rows[i].from > to ? rows[i].from : to, rows[i].to, v, acc + i * v->dim, none,
                     1);
}

TARGET static void add(const float *weights, const fr_attention_row *rows, size_t count, const fr_attention_values *v,
                       float *acc) {
    for (size_t row = 0; row < count; row += ROWS) {
        const float *some = weights + row * KEYS;
        float *to = acc + row * v->dim;
        const share ahead = share_of(v->next, row, count);
        switch (count - row) {
        case 1:
            add_some(some, rows + row, v, to, ahead, 1);
            break;
        case 2:
            add_some(some, rows + row, v, to, ahead, 2);
            break;
        case 3:
            add_some(some, rows + row, v, to, ahead, 3);
            break;
        default:
            add_some(some, rows + row, v, to, ahead, 4);
        }
    }
}
