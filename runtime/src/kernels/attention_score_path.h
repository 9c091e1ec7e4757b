/* The scores of one path over a block of keys, and what is fetched meanwhile; included by attention_path.h. A vector
 * holds keys, so that a sum runs over the dims in their order: for that, keys are turned from rows to columns. */

/* What one tile of rows fetches of what will be read next, `lines` in every step. All tiles together fetch it once,
 * each its part: a processor drops what is asked for much faster than it comes. */
typedef struct share {
    const char *at, *end;
    size_t lines;
} share;

/* Of tile number `tile` of `tiles`, which take `steps` each. */
INLINE share share_of(fr_attention_ahead ahead, size_t tile, size_t tiles, size_t steps) {
    const size_t lines = (ahead.lines + tiles - 1) / tiles;
    const char *at = ahead.at + tile * lines * LINE, *end = ahead.at + ahead.lines * LINE;
    return (share){at, at + lines * LINE < end ? at + lines * LINE : end, (lines + steps - 1) / steps};
}

INLINE void fetch_some(share *it) {
    for (size_t i = 0; i < it->lines && it->at < it->end; i++, it->at += LINE)
        FETCH(it->at);
}

#if LANES == 16
enum { TURN_KEYS = 16, TURN_DIMS = 8 };

INLINE __m512 halves(const float *low, const float *high) {
    return _mm512_castpd_ps(_mm512_insertf64x4(_mm512_castps_pd(_mm512_castps256_ps512(_mm256_loadu_ps(low))),
                                               _mm256_castps_pd(_mm256_loadu_ps(high)), 1));
}

/* Four dims of sixteen keys: quarter i of x[n] is of key 4 i + n. */
INLINE void turn_quarters(const __m512 x[4], vec to[4]) {
    __m512 ab = _mm512_unpacklo_ps(x[0], x[1]), cd = _mm512_unpacklo_ps(x[2], x[3]);
    __m512 ab_high = _mm512_unpackhi_ps(x[0], x[1]), cd_high = _mm512_unpackhi_ps(x[2], x[3]);
    to[0] = (vec)_mm512_shuffle_ps(ab, cd, 0x44);
    to[1] = (vec)_mm512_shuffle_ps(ab, cd, 0xEE);
    to[2] = (vec)_mm512_shuffle_ps(ab_high, cd_high, 0x44);
    to[3] = (vec)_mm512_shuffle_ps(ab_high, cd_high, 0xEE);
}

/* Eight dims of sixteen keys. */
INLINE void turn_eight(const float *from, size_t dim, vec to[8]) {
    __m512 low[4], high[4];
#pragma GCC unroll 4
    for (size_t n = 0; n < 4; n++) {
        const __m512 a = halves(from + n * dim, from + (4 + n) * dim);
        const __m512 b = halves(from + (8 + n) * dim, from + (12 + n) * dim);
        low[n] = _mm512_shuffle_f32x4(a, b, 0x88);
        high[n] = _mm512_shuffle_f32x4(a, b, 0xDD);
    }
    turn_quarters(low, to);
    turn_quarters(high, to + 4);
}

INLINE void turn_some(const float *from, size_t dim, int32_t flip, float *to) {
    vec turned[TURN_DIMS];
    turn_eight(from, dim, turned);
#pragma GCC unroll 8
    for (size_t d = 0; d < TURN_DIMS; d++)
        store(to + d * KEYS, (vec)((ints)turned[d] ^ flip));
}

/* Four dims, where eight are too many. */
INLINE void turn_four(const float *from, size_t dim, int32_t flip, float *to) {
    __m512 x[4];
    vec turned[4];
#pragma GCC unroll 4
    for (size_t n = 0; n < 4; n++) {
        x[n] = _mm512_castps128_ps512(_mm_loadu_ps(from + n * dim));
        x[n] = _mm512_insertf32x4(x[n], _mm_loadu_ps(from + (4 + n) * dim), 1);
        x[n] = _mm512_insertf32x4(x[n], _mm_loadu_ps(from + (8 + n) * dim), 2);
        x[n] = _mm512_insertf32x4(x[n], _mm_loadu_ps(from + (12 + n) * dim), 3);
    }
    turn_quarters(x, turned);
#pragma GCC unroll 4
    for (size_t d = 0; d < 4; d++)
        store(to + d * KEYS, (vec)((ints)turned[d] ^ flip));
}
#elif defined(__x86_64__)
enum { TURN_KEYS = 4, TURN_DIMS = 4 };

INLINE void turn_some(const float *from, size_t dim, int32_t flip, float *to) {
    const __m128 flips = _mm_castsi128_ps(_mm_set1_epi32(flip));
    __m128 a = _mm_loadu_ps(from), b = _mm_loadu_ps(from + dim);
    __m128 c = _mm_loadu_ps(from + 2 * dim), d = _mm_loadu_ps(from + 3 * dim);
    _MM_TRANSPOSE4_PS(a, b, c, d);
    _mm_storeu_ps(to, _mm_xor_ps(a, flips));
    _mm_storeu_ps(to + KEYS, _mm_xor_ps(b, flips));
    _mm_storeu_ps(to + 2 * KEYS, _mm_xor_ps(c, flips));
    _mm_storeu_ps(to + 3 * KEYS, _mm_xor_ps(d, flips));
}
#else
enum { TURN_KEYS = 4, TURN_DIMS = 4 };

INLINE void turn_some(const float *from, size_t dim, int32_t flip, float *to) {
    for (size_t key = 0; key < 4; key++)
        for (size_t d = 0; d < 4; d++) {
            int32_t bits; /* of a float, or four codes */
            memcpy(&bits, from + key * dim + d, sizeof bits);
            bits ^= flip;
            memcpy(to + d * KEYS + key, &bits, sizeof bits);
        }
}
#endif

/* The keys from number `key` on of the `count` of a block: where they lie, or where fewer than TURN_KEYS are left, a
 * copy filled up with zeros, for beyond them memory may end. */
INLINE const float *keys_at(const float *k, size_t count, size_t dim, size_t key, float *room) {
    const size_t left = count > key ? count - key : 0;
    const float *from = k + (count - left) * dim;
    if (left >= TURN_KEYS)
        return from;
    memcpy(room, from, left * dim * sizeof(float));
    memset(room + left * dim, 0, (TURN_KEYS - left) * dim * sizeof(float));
    return room;
}

/* Keys [count][dim] to [dim][64], zero beyond count, each with the bits of `flip` turned over. */
INLINE void turn_keys(const float *k, size_t count, size_t dim, int32_t flip, float *turned) {
    float room[TURN_KEYS * FR_ATTENTION_MAX_DIM];
    for (size_t key = 0; key < KEYS; key += TURN_KEYS) {
        const float *from = keys_at(k, count, dim, key, room);
        size_t d = 0;
        for (; d + TURN_DIMS <= dim; d += TURN_DIMS)
            turn_some(from + d, dim, flip, turned + d * KEYS + key);
#if LANES == 16
        if (d < dim)
            turn_four(from + d, dim, flip, turned + d * KEYS + key);
#endif
    }
}

/* TILE vectors of keys by `rows` rows; `rows` is a constant where this is inlined, so that the sums stay in registers.
 */
INLINE void score_tile(const float *q, size_t dim, const float *turned, float *scores, share *ahead, size_t rows) {
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
        fetch_some(ahead);
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

#if LANES == 16
/* Few rows: keys are turned in registers and used once, two times sixteen at a time. `rows` is a constant where this is
 * inlined. */
INLINE void score_directly(const float *q, size_t dim, const float *k, size_t count, fr_attention_ahead next,
                           float *scores, size_t rows) {
    enum { AT_ONCE = 2 * TURN_KEYS };
    float room[AT_ONCE * FR_ATTENTION_MAX_DIM];
    for (size_t key = 0; key < count; key += AT_ONCE) {
        const float *low = keys_at(k, count, dim, key, room);
        const float *high = keys_at(k, count, dim, key + TURN_KEYS, room + TURN_KEYS * dim);
        share ahead = share_of(next, key / AT_ONCE, (count + AT_ONCE - 1) / AT_ONCE, dim / TURN_DIMS);
        vec sums[2][2] = {{{0}}};
        for (size_t d = 0; d < dim; d += TURN_DIMS) {
            vec turned[2][TURN_DIMS];
            fetch_some(&ahead);
            turn_eight(low + d, dim, turned[0]);
            turn_eight(high + d, dim, turned[1]);
#pragma GCC unroll 8
            for (size_t i = 0; i < TURN_DIMS; i++)
#pragma GCC unroll 2
                for (size_t row = 0; row < rows; row++) {
                    const vec x = all(q[row * dim + d + i]);
                    sums[row][0] = MADD(x, turned[0][i], sums[row][0]);
                    sums[row][1] = MADD(x, turned[1][i], sums[row][1]);
                }
        }
#pragma GCC unroll 2
        for (size_t row = 0; row < rows; row++) {
            store(scores + row * KEYS + key, sums[row][0]);
            store(scores + row * KEYS + key + TURN_KEYS, sums[row][1]);
        }
    }
}
#endif

TARGET static void score(const float *q, size_t rows, size_t dim, const float *k, size_t count, fr_attention_ahead next,
                         float *scores) {
    _Alignas(LINE) float turned[KEYS * FR_ATTENTION_MAX_DIM];
#if LANES == 16
    if (rows == 1) {
        score_directly(q, dim, k, count, next, scores, 1);
        return;
    }
    if (rows == 2) {
        score_directly(q, dim, k, count, next, scores, 2);
        return;
    }
#endif
    turn_keys(k, count, dim, 0, turned);
    const size_t tiles = (rows + ROWS - 1) / ROWS * ((count + TILE * LANES - 1) / (TILE * LANES));
    size_t tile = 0;
    for (size_t key = 0; key < count; key += TILE * LANES)
        for (size_t row = 0; row < rows; row += ROWS, tile++) {
            const float *x = q + row * dim;
            float *y = scores + row * KEYS + key;
            share ahead = share_of(next, tile, tiles, dim);
            switch (rows - row) {
            case 1:
                score_tile(x, dim, turned + key, y, &ahead, 1);
                break;
            case 2:
                score_tile(x, dim, turned + key, y, &ahead, 2);
                break;
            case 3:
                score_tile(x, dim, turned + key, y, &ahead, 3);
                break;
            default:
                score_tile(x, dim, turned + key, y, &ahead, 4);
            }
        }
}
