/* The softmax of one path over a block of scores; included by attention_path.h. Rows go together, ROWS at a time: a row
 * alone would wait for its own largest score and its own sum. */

/* All ones where key number `first` + lane is in from..to-1. */
INLINE ints seen(fr_attention_rows rows, size_t row, size_t first) {
    ints key;
    for (int lane = 0; lane < LANES; lane++)
        key[lane] = lane;
    key += (int32_t)first;
    return (key >= rows.from[row]) & (key < rows.to[row]);
}

TARGET static void cap(float *scores, size_t count, float softcap) {
    for (size_t i = 0; i < count; i += LANES)
        store(scores + i, softcap * tangent(load(scores + i) / softcap));
}

/* exp(x) of each lane. */
INLINE four exponential_of_four(four x) {
    vec wide = {0};
    memcpy(&wide, &x, sizeof x);
    wide = exponential(wide);
    memcpy(&x, &wide, sizeof x);
    return x;
}

/* The largest score that each row has seen, this block's too. */
INLINE four largest_of(const float *scores, fr_attention_rows rows, size_t count, int whole) {
    vec peaks[ROWS] = {{0}};
    four found[ROWS];
#pragma GCC unroll 4
    for (size_t row = 0; row < count; row++)
        peaks[row] = all(rows.largest[row]);
    for (size_t i = 0; i < KEYS; i += LANES)
#pragma GCC unroll 4
        for (size_t row = 0; row < count; row++) {
            vec x = load(scores + row * KEYS + i);
            x = whole ? x : choose(seen(rows, row, i), x, all(-INFINITY));
            peaks[row] = larger(x, peaks[row]);
        }
#pragma GCC unroll 4
    for (size_t row = 0; row < ROWS; row++)
        found[row] = peaks_of(peaks[row]);
    return peak_of_each(found);
}

/* The scores become weights; returns the sum of each row's. */
INLINE four exponentials(float *scores, fr_attention_rows rows, size_t count, int whole, four largest) {
    vec sums[ROWS][PARTS / LANES] = {{{0}}};
    four found[ROWS];
    for (size_t i = 0; i < KEYS; i += PARTS)
#pragma GCC unroll 4
        for (size_t part = 0; part < PARTS / LANES; part++)
#pragma GCC unroll 4
            for (size_t row = 0; row < count; row++) {
                const size_t key = i + part * LANES;
                vec weights = exponential(load(scores + row * KEYS + key) - largest[row]);
                weights = whole ? weights : (vec)((ints)weights & seen(rows, row, key));
                sums[row][part] += weights;
                store(scores + row * KEYS + key, weights);
            }
#pragma GCC unroll 4
    for (size_t row = 0; row < ROWS; row++)
        found[row] = sums_of(sums[row]);
    return sum_of_each(found);
}

/* `count` and `whole`, whether all rows see the whole block, are constants where this is inlined. */
INLINE void weigh_some(float *scores, fr_attention_rows rows, size_t count, int whole, float *acc, size_t dim) {
    four before = {0};
#pragma GCC unroll 4
    for (size_t row = 0; row < count; row++)
        before[row] = rows.largest[row];
    const four largest = largest_of(scores, rows, count, whole), correction = exponential_of_four(before - largest);
    const four sums = exponentials(scores, rows, count, whole, largest);
#pragma GCC unroll 4
    for (size_t row = 0; row < count; row++) {
        rows.largest[row] = largest[row];
        rows.sum[row] = rows.sum[row] * correction[row] + sums[row];
        for (size_t i = 0; i < dim; i += LANES)
            store(acc + row * dim + i, load(acc + row * dim + i) * correction[row]);
    }
}

INLINE int all_whole(fr_attention_rows rows, size_t count) {
    int whole = 1;
    for (size_t row = 0; row < count; row++)
        whole &= rows.from[row] == 0 && rows.to[row] == KEYS;
    return whole;
}

TARGET static void weigh(float *scores, fr_attention_rows rows, size_t count, float softcap, float *acc, size_t dim) {
    if (softcap > 0.0f)
        cap(scores, count * KEYS, softcap);
    size_t row = 0;
    for (; row + ROWS <= count; row += ROWS)
        if (all_whole(fr_attention_rows_from(rows, row), ROWS))
            weigh_some(scores + row * KEYS, fr_attention_rows_from(rows, row), ROWS, 1, acc + row * dim, dim);
        else
            weigh_some(scores + row * KEYS, fr_attention_rows_from(rows, row), ROWS, 0, acc + row * dim, dim);
    for (; row + 2 <= count; row += 2)
        weigh_some(scores + row * KEYS, fr_attention_rows_from(rows, row), 2, 0, acc + row * dim, dim);
    if (row < count)
        weigh_some(scores + row * KEYS, fr_attention_rows_from(rows, row), 1, 0, acc + row * dim, dim);
}
