/* What attention alone does with vectors, for attention_path.h, whose definitions it needs. */
#include "attention.h"
#include "vectors.h"

INLINE float larger(float a, float b) {
    return a > b ? a : b;
}

/* The largest of a vector that holds no NaN. */
INLINE float peak(vec v) {
    four x[LANES / 4];
    memcpy(x, &v, sizeof x);
    for (size_t i = 1; i < LANES / 4; i++) {
        const four_ints more = x[i] > x[0];
        x[0] = (four)((more & (four_ints)x[i]) | (~more & (four_ints)x[0]));
    }
    return larger(larger(x[0][0], x[0][1]), larger(x[0][2], x[0][3]));
}

/* tanh(x): the series below 1/4, where the other form would lose bits; relative error below 3e-7. */
INLINE vec tangent(vec x) {
    const ints sign = (ints)all(-0.0f);
    vec size = (vec)((ints)x & ~sign), square = x * x;
    vec series = MADD(all(62.0f / 2835.0f), square, all(-17.0f / 315.0f));
    series = MADD(series, square, all(2.0f / 15.0f));
    series = MADD(series, square, all(-1.0f / 3.0f));
    series = MADD(series * square, x, x);
    vec e = exponential(-2.0f * size);
    vec far = (vec)((ints)((1.0f - e) / (1.0f + e)) | ((ints)x & sign));
    return choose(size < all(0.25f), series, far);
}
