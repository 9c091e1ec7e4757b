/* Weighted sums of values of int8, of one path: the weights become codes too, so that these are sums of integers, which
 * no order changes; included by attention_path.h, which says what is defined before. */

enum { WEIGHT_MOST = 32767 };

/* One row's weights times the scales of the values, as codes of 0 to 32767; returns what one is. */
INLINE float code_weights(const float *weights, const float *scales, int16_t *codes) {
    const int32_t not_finite = 0x7F800000;
    const float tiny = 0x1p-100f; /* as encode() */
    const ints size = (ints)all(-0.0f) ^ -1;
    vec products[KEYS / LANES];
    ints peaks = {0};
#pragma GCC unroll 16
    for (size_t i = 0; i < KEYS / LANES; i++) {
        const vec weight = load(weights + i * LANES);
        products[i] = (vec)((ints)(weight * load(scales + i * LANES)) & (weight != all(0.0f)) & size);
        peaks = larger_ints((ints)products[i], peaks);
    }
    const int32_t bits = largest_int(peaks);
    float largest;
    memcpy(&largest, &bits, sizeof largest);
    if (bits >= not_finite || largest < tiny) {
        memset(codes, 0, KEYS * sizeof *codes);
        return bits < not_finite ? 0.0f : NAN;
    }
    const vec inverse = all((float)WEIGHT_MOST / largest), shift = all(0x1.8p23f);
#pragma GCC unroll 16
    for (size_t i = 0; i < KEYS / LANES; i++)
        store_words((ints)(products[i] * inverse + shift), codes + i * LANES);
    return largest / (float)WEIGHT_MOST;
}

/* Values [count][dim] as codes, and where more than ROWS rows want them, as pairs [pairs][dim] of int16 of the keys 2 i
 * and 2 i + 1; zero beyond count. */
typedef struct coded_values {
    const int8_t *codes;
    const ints *pairs; /* or NULL */
    size_t count, dim;
} coded_values;

/* LANES dims from number d on of the pair of `key`. */
INLINE ints pair_at(const coded_values *v, size_t key, size_t d) {
    static const int8_t zeros[FR_ATTENTION_MAX_DIM];
    const int8_t *one = v->codes + key * v->dim;
    return pair_of(one + d, key + 1 < v->count ? one + v->dim + d : zeros);
}

INLINE void turn_pairs(const coded_values *v, ints *pairs) {
    for (size_t key = 0; key < v->count; key += 2)
        for (size_t d = 0; d < v->dim; d += LANES)
            *pairs++ = pair_at(v, key, d);
}

/* Rows' weights as codes: the two of row r for the keys 2 i and 2 i + 1 lie at codes + r * row + i * pair, in bytes. */
typedef struct coded_weights {
    const void *codes;
    size_t row, pair;
    const float *factors;     /* [rows] that the sums are multiplied by */
    const float *corrections; /* [rows] that acc is multiplied by before, or NULL */
} coded_weights;

/* `vectors` vectors of values by `rows` rows; both, whether the pairs were made before and whether there are
 * corrections, are constants where this is inlined. */
INLINE void add_codes_tile(const coded_weights *w, const coded_values *v, size_t d, float *acc, share *ahead,
                           size_t rows, size_t vectors, int made) {
    ints sums[ROWS][TILE] = {{{0}}};
    const ints *pairs = made ? v->pairs + d / LANES : NULL;
    const char *codes = w->codes;
    for (size_t key = 0; key < v->count; key += 2, codes += w->pair) {
        ints values[TILE];
#pragma GCC unroll 4
        for (size_t i = 0; i < vectors; i++)
            values[i] = made ? pairs[i] : pair_at(v, key, d + i * LANES);
        pairs = made ? pairs + v->dim / LANES : NULL;
        fetch_some(ahead);
#pragma GCC unroll 4
        for (size_t r = 0; r < rows; r++) {
            int32_t two;
            memcpy(&two, codes + r * w->row, sizeof two);
            const ints weights = (ints){0} + two;
#pragma GCC unroll 4
            for (size_t i = 0; i < vectors; i++)
                sums[r][i] = dot_two(sums[r][i], values[i], weights);
        }
    }
#pragma GCC unroll 4
    for (size_t r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (size_t i = 0; i < vectors; i++) {
            float *to = acc + r * v->dim + d + i * LANES;
            const vec before = w->corrections != NULL ? load(to) * all(w->corrections[r]) : load(to);
            store(to, MADD(floats_of(sums[r][i]), all(w->factors[r]), before));
        }
}

INLINE void add_codes_rows(const coded_weights *w, const coded_values *v, float *acc, share ahead, size_t rows,
                           int made) {
    size_t d = 0;
    for (; d + TILE * LANES <= v->dim; d += TILE * LANES)
        add_codes_tile(w, v, d, acc, &ahead, rows, TILE, made);
    for (; d < v->dim; d += LANES)
        add_codes_tile(w, v, d, acc, &ahead, rows, 1, made);
}

TARGET static void add_codes(const float *weights, size_t rows, const int8_t *v, const float *scales, size_t count,
                             size_t dim, fr_attention_ahead next, float *acc) {
    _Alignas(LINE) ints pairs[KEYS / 2 * FR_ATTENTION_MAX_DIM / LANES];
    _Alignas(LINE) float room[KEYS];
    int16_t codes[ROWS * KEYS];
    float factors[ROWS];
    const size_t tiles = (rows + ROWS - 1) / ROWS, columns = (dim + TILE * LANES - 1) / (TILE * LANES);
    const coded_values values = {v, rows > ROWS ? pairs : NULL, count, dim};
    const coded_weights coded = {codes, KEYS * sizeof *codes, 2 * sizeof *codes, factors, NULL};
    const float *const near = scales_at(scales, count, room);
    if (rows > ROWS)
        turn_pairs(&values, pairs);
    for (size_t row = 0; row < rows; row += ROWS) {
        const share ahead = share_of(next, row / ROWS, tiles, (count + 1) / 2 * columns);
        const size_t some = rows - row < ROWS ? rows - row : ROWS;
        float *to = acc + row * dim;
        for (size_t r = 0; r < some; r++)
            factors[r] = code_weights(weights + (row + r) * KEYS, near, codes + r * KEYS);
        if (rows > ROWS && some == ROWS)
            add_codes_rows(&coded, &values, to, ahead, ROWS, 1);
        else if (some == 1)
            add_codes_rows(&coded, &values, to, ahead, 1, 0);
        else if (some == 2)
            add_codes_rows(&coded, &values, to, ahead, 2, 0);
        else if (some == 3)
            add_codes_rows(&coded, &values, to, ahead, 3, 0);
        else
            add_codes_rows(&coded, &values, to, ahead, ROWS, 0);
    }
}
