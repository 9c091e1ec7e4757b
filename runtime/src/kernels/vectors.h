/* Vectors of LANES floats, their exponential and their tangent, for the files of one path, which define before
 *   LANES, TARGET (the attribute of its functions), MADD(a, b, c) = a * b + c of vectors. */
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

enum { PARTS = 16 /* that sums are kept in, whatever LANES is */ };

#define INLINE static inline __attribute__((always_inline)) TARGET

typedef float vec __attribute__((vector_size(4 * LANES)));
typedef int32_t ints __attribute__((vector_size(4 * LANES)));
typedef uint32_t naturals __attribute__((vector_size(4 * LANES)));
typedef float four __attribute__((vector_size(16)));
typedef int32_t four_ints __attribute__((vector_size(16)));

INLINE vec load(const float *p) {
    vec v;
    memcpy(&v, p, sizeof v);
    return v;
}

INLINE void store(float *p, vec v) {
    memcpy(p, &v, sizeof v);
}

INLINE vec all(float x) {
    return x - (vec){0}; /* x - 0, not x + 0: it keeps -0 */
}

INLINE vec choose(ints mask, vec yes, vec no) {
    return (vec)((mask & (ints)yes) | (~mask & (ints)no));
}

/* The sum of sixteen parts, halves onto halves. */
INLINE float total(const vec parts[PARTS / LANES]) {
    four x[PARTS / 4];
    memcpy(x, parts, sizeof x);
    x[0] = (x[0] + x[2]) + (x[1] + x[3]);
    return (x[0][0] + x[0][2]) + (x[0][1] + x[0][3]);
}

/* exp(x) for x <= 0: 2^n * exp(r), |r| <= ln(2) / 2, exp(r) = 1 + r + r^2 q(r) with the q of degree 4 whose largest
 * relative error is least (3e-9; 9e-8 after rounding). 0 below -87, where floats end; a NaN stays one. */
INLINE vec exponential(vec x) {
    const vec shift = all(0x1.8p23f); /* adding it rounds to an integer, which then stands in the low bits */
    vec shifted = MADD(x, all(0x1.715476p0f), shift), n = shifted - shift;
    vec r = MADD(n, all(-0x1.62e4p-1f), x); /* ln(2) in two parts, the first of 14 bits */
    r = MADD(n, all(-0x1.7f7d1cp-20f), r);
    vec q = MADD(all(0x1.6a23d0p-10f), r, all(0x1.123a20p-7f));
    q = MADD(q, r, all(0x1.5558f2p-5f));
    q = MADD(q, r, all(0x1.555492p-3f));
    q = MADD(q, r, all(0x1.fffffcp-2f));
    vec power = (vec)(((naturals)shifted + 127) << 23); /* without a sign: a lane that nobody reads may overflow */
    vec found = (MADD(q, r * r, r) + 1.0f) * power;
    return (vec)((ints)found & ~(x < all(-87.0f)));
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
