/* Attention over codes of int8 for many query rows, of one path: rows stand in the lanes of vectors, so that a softmax
 * needs nothing across lanes, and weights lie as the products with values take them. A lane computes what
 * score_codes(), weigh() and add_codes() do for its row, bit for bit. Included by attention_path.h, which says what is
 * defined before.
 */

enum { MANY = LANES / 2 + 1 /* rows from which this is faster */ };

/* The softcap, and the largest score of the keys that each row sees, where score_lanes() did not find it. */
INLINE void cap_lanes(const lanes_block *it, float softcap, vec peaks[2], size_t vectors) {
    for (size_t key = 0; key < it->block->count; key++)
        for (size_t v = 0; v < vectors; v++) {
            float *at = step_of(it, key, v);
            if (softcap > 0.0f)
                store(at, softcap * tangent(load(at) / softcap));
            peaks[v] = larger(choose(seen_by_lanes(it, key, v), load(at), all(-INFINITY)), peaks[v]);
        }
}

/* A score becomes its weight times the value's scale; returns the weight. */
INLINE vec weigh_lanes(const lanes_block *it, size_t key, vec largest, size_t v, int whole, ints *peak) {
    const ints size = (ints)all(-0.0f) ^ -1;
    vec weight = exponential(load(step_of(it, key, v)) - largest);
    weight = whole ? weight : (vec)((ints)weight & seen_by_lanes(it, key, v));
    const ints product = (ints)(weight * all(it->v_scales[key])) & (weight != all(0.0f)) & size;
    *peak = larger_ints(product, *peak);
    store(step_of(it, key, v), (vec)product);
    return weight;
}

/* The same of all keys, `keys` of them; the sums of the weights, of sixteen parts each as total() adds them. */
INLINE void weigh_all_lanes(const lanes_block *it, size_t keys, const vec largest[2], vec sums[2], ints peaks[2],
                            size_t vectors, int whole) {
    vec parts[PARTS][2];
    for (size_t part = 0; part < PARTS; part++) {
#pragma GCC unroll 2
        for (size_t v = 0; v < vectors; v++)
            parts[part][v] = (vec){0};
#pragma GCC unroll 4
        for (size_t key = part; key < keys; key += PARTS)
#pragma GCC unroll 2
            for (size_t v = 0; v < vectors; v++)
                parts[part][v] += weigh_lanes(it, key, largest[v], v, whole, &peaks[v]);
    }
#pragma GCC unroll 2
    for (size_t v = 0; v < vectors; v++) {
        vec fours[4];
        for (size_t i = 0; i < 4; i++)
            fours[i] = (parts[i][v] + parts[i + 8][v]) + (parts[i + 4][v] + parts[i + 12][v]);
        sums[v] = (fours[0] + fours[2]) + (fours[1] + fours[3]);
    }
}

/* Weights become codes, as code_weights() makes them; returns what one is. */
INLINE vec code_lanes(const lanes_block *it, size_t keys, ints peak, size_t v) {
    const ints finite = peak < 0x7F800000, usable = finite & ((vec)peak >= all(0x1p-100f));
    const vec shift = all(0x1.8p23f), most = all((float)WEIGHT_MOST);
    const vec inverse = (vec)((ints)(most / (vec)peak) & usable);
    for (size_t key = 0; key < keys; key += 2) {
        const ints one = (ints)(load(step_of(it, key, v)) * inverse + shift);
        const ints other = (ints)(load(step_of(it, key + 1, v)) * inverse + shift);
        store(step_of(it, key / 2, v), (vec)((one & 0xFFFF) | (other << 16)));
    }
    return choose(finite, (vec)((ints)((vec)peak / most) & usable), all(NAN));
}

/* The rows' state; lanes beyond `count` keep theirs. */
INLINE void update_lanes(fr_attention_rows rows, size_t count, vec largest, vec correction, vec sum) {
    ints lane;
    for (int32_t i = 0; i < LANES; i++)
        lane[i] = i;
    const ints own = lane < (int32_t)count;
    const vec before = load(rows.sum);
    store(rows.largest, choose(own, largest, load(rows.largest)));
    store(rows.sum, choose(own, before * correction + sum, before));
}

/* Scores and weights of `count` rows from number `row` of q on. */
INLINE void weights_of_lanes(lanes_block *it, const fr_attention_query *q, size_t row, fr_attention_rows rows,
                             size_t count, float softcap, float *factors, float *corrections, size_t vectors,
                             int whole) {
    const size_t keys = whole ? KEYS : keys_of(it->block);
    vec before[2], largest[2], sums[2];
    ints peaks[2] = {{0}};
#pragma GCC unroll 2
    for (size_t v = 0; v < vectors; v++) {
        it->from[v] = ints_at(rows.from + v * LANES), it->to[v] = ints_at(rows.to + v * LANES);
        before[v] = largest[v] = load(rows.largest + v * LANES);
    }
    score_lanes(it, q, row, largest, vectors, whole);
    if (!whole)
        cap_lanes(it, softcap, largest, vectors);
    weigh_all_lanes(it, keys, largest, sums, peaks, vectors, whole);
#pragma GCC unroll 2
    for (size_t v = 0; v < vectors; v++) {
        const vec correction = exponential(before[v] - largest[v]);
        update_lanes(fr_attention_rows_from(rows, v * LANES), count - v * LANES, largest[v], correction, sums[v]);
        store(corrections + v * LANES, correction);
        store(factors + v * LANES, code_lanes(it, keys, peaks[v], v));
    }
}

/* acc [count][dim] * corrections += the weights by the values; `first` of `all_rows` are done before. */
INLINE void add_lanes(const lanes_block *it, const coded_values *values, const float *factors, const float *corrections,
                      size_t count, size_t first, size_t all_rows, float *acc) {
    const size_t tiles = (all_rows + ROWS - 1) / ROWS, columns = (values->dim + TILE * LANES - 1) / (TILE * LANES);
    for (size_t r = 0; r < count; r += ROWS) {
        const coded_weights w = {it->steps + r, sizeof(float), SOME_ROWS * sizeof(float), factors + r, corrections + r};
        const share ahead =
            share_of(it->block->next_keys, (first + r) / ROWS, tiles, (values->count + 1) / 2 * columns);
        float *to = acc + r * values->dim;
        if (count - r >= ROWS)
            add_codes_rows(&w, values, to, ahead, ROWS, 1);
        else if (count - r == 3)
            add_codes_rows(&w, values, to, ahead, 3, 1);
        else if (count - r == 2)
            add_codes_rows(&w, values, to, ahead, 2, 1);
        else
            add_codes_rows(&w, values, to, ahead, 1, 1);
    }
}

TARGET static void attend_codes(const fr_attention_query *q, fr_attention_rows rows, size_t count,
                                const fr_attention_codes *block, float softcap, float *acc) {
    _Alignas(LINE) int8_t keys[KEYS * FR_ATTENTION_MAX_DIM];
    _Alignas(LINE) ints pairs[KEYS / 2 * FR_ATTENTION_MAX_DIM / LANES];
    _Alignas(LINE) float steps[KEYS * SOME_ROWS], room[2][KEYS], factors[SOME_ROWS], corrections[SOME_ROWS];
    const coded_values values = {block->v, pairs, block->count, block->dim};
    lanes_block it = {.block = block,
                      .keys = keys,
                      .k_scales = scales_at(block->k_scales, block->count, room[0]),
                      .v_scales = scales_at(block->v_scales, block->count, room[1]),
                      .steps = steps};
    flip_keys(block, keys);
    for (size_t row = 0; row < count; row += SOME_ROWS) {
        const size_t some = count - row < SOME_ROWS ? count - row : SOME_ROWS;
        const fr_attention_rows now = fr_attention_rows_from(rows, row);
        const int whole = softcap == 0.0f && all_whole(now, some);
        if (some > LANES && whole)
            weights_of_lanes(&it, q, row, now, some, softcap, factors, corrections, 2, 1);
        else if (some > LANES)
            weights_of_lanes(&it, q, row, now, some, softcap, factors, corrections, 2, 0);
        else if (whole)
            weights_of_lanes(&it, q, row, now, some, softcap, factors, corrections, 1, 1);
        else
            weights_of_lanes(&it, q, row, now, some, softcap, factors, corrections, 1, 0);
        if (row == 0)
            turn_pairs(&values, pairs); /* they were fetched meanwhile */
        add_lanes(&it, &values, factors, corrections, some, row, count, acc + row * block->dim);
    }
}

TARGET static void turn_codes(const int8_t *codes, size_t rows, size_t dim, int32_t *turned) {
    turn_keys(fours_of(codes), rows, dim / FOUR, 0, (float *)(void *)turned);
}
