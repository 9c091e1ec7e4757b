/* What is done to single rows on one path: norm and rotation, codes of int8, results; included by
 * attention_path.h, which says what is defined before. */
#include "attention_vectors.h"

#include "attention_dots_path.h"

#include <math.h>

enum { KEYS = FR_ATTENTION_KEYS, ROWS = 4 /* of a tile */, LINE = 64 /* bytes of a line of the cache */ };

#define FETCH(address) __builtin_prefetch((address), 0, 3) /* to the first level: few rows wait for the second */

TARGET static void prepare(const fr_attention_turn *turn, size_t dim, const float *restrict x, float *restrict y) {
    if (turn->norm != NULL) {
        vec squares[PARTS / LANES] = {{0}};
        for (size_t i = 0; i < dim; i += LANES) {
            vec *part = &squares[i / LANES % (PARTS / LANES)];
            *part += load(x + i) * load(x + i); /* not fused: what goes to the caches is the same on every path */
        }
        float inverse = 1.0f / sqrtf(total(squares) / (float)dim + turn->epsilon);
        for (size_t i = 0; i < dim; i += LANES)
            store(y + i, load(x + i) * inverse * load(turn->norm + i));
    } else {
        memcpy(y, x, dim * sizeof(float));
    }
    if (turn->cos != NULL) {
        const float *restrict cosine = turn->cos, *restrict sine = turn->sin;
        size_t i = 0;
        for (; i + LANES <= turn->half; i += LANES) {
            const vec a = load(y + i), b = load(y + turn->half + i), c = load(cosine + i), s = load(sine + i);
            store(y + i, a * c - b * s);
            store(y + turn->half + i, a * s + b * c);
        }
        for (; i < turn->half; i++) {
            float a = y[i], b = y[i + turn->half];
            y[i] = a * cosine[i] - b * sine[i];
            y[i + turn->half] = a * sine[i] + b * cosine[i];
        }
    }
    if (turn->factor != 1.0f)
        for (size_t i = 0; i < dim; i += LANES)
            store(y + i, load(y + i) * turn->factor);
}

TARGET static float encode(const float *x, size_t dim, int8_t *codes, int32_t *sum) {
    const ints size = (ints)all(-0.0f) ^ -1; /* all bits but the sign */
    const int32_t not_finite = 0x7F800000;
    const float tiny = 0x1p-100f; /* 127 / m must not overflow, and m / 127 not be subnormal */
    ints peaks = {0};
    for (size_t i = 0; i < dim; i += LANES) {
        ints bits = (ints)load(x + i) & size; /* floats without a sign are ordered as their bits are */
        peaks = larger_ints(bits, peaks);
    }
    const int32_t bits = largest_int(peaks);
    float largest;
    memcpy(&largest, &bits, sizeof largest);
    if (bits >= not_finite || largest < tiny) {
        memset(codes, 0, dim);
        *sum = 0;
        return bits < not_finite ? 0.0f : NAN;
    }
    const vec inverse = all(127.0f / largest), shift = all(0x1.8p23f); /* adding it rounds to an integer */
    ints sums = {0};
    for (size_t i = 0; i < dim; i += LANES) {
        const ints shifted = (ints)(load(x + i) * inverse + shift); /* it stands in the low bits then */
        sums += shifted - (ints)shift;
        store_bytes(shifted, codes + i);
    }
    *sum = total_of_ints(sums);
    return largest / 127.0f;
}

TARGET static void finish(const float *acc, float sum, size_t dim, float *out) {
    for (size_t i = 0; i < dim; i += LANES)
        store(out + i, load(acc + i) / sum);
}
