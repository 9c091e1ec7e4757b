/* What attention alone does with vectors, for the files of attention_path.h, whose definitions it needs. */
#include "attention.h"
#include "vectors.h"

#include <math.h>

/* a where it is larger, else b: b too where one is no number. */
INLINE vec larger(vec a, vec b) {
#if LANES == 16
    return (vec)_mm512_max_ps((__m512)a, (__m512)b);
#elif LANES == 8
    return (vec)_mm256_max_ps((__m256)a, (__m256)b);
#else
    return choose(a > b, a, b);
#endif
}

INLINE four larger_four(four a, four b) {
#if defined(__x86_64__)
    return (four)_mm_max_ps((__m128)a, (__m128)b);
#else
    const four_ints more = a > b;
    return (four)((more & (four_ints)a) | (~more & (four_ints)b));
#endif
}

INLINE four_ints larger_four_ints(four_ints a, four_ints b) {
#if LANES > 4
    return (four_ints)_mm_max_epi32((__m128i)a, (__m128i)b);
#else
    const four_ints more = a > b;
    return (more & a) | (~more & b);
#endif
}

INLINE four root_of_four(four x) {
#if defined(__x86_64__)
    return (four)_mm_sqrt_ps((__m128)x);
#else
    return (four){sqrtf(x[0]), sqrtf(x[1]), sqrtf(x[2]), sqrtf(x[3])};
#endif
}

/* The largest of each quarter's first lanes, of the second ones and so on, of a vector without a NaN. */
INLINE four peaks_of(vec v) {
    four x[LANES / 4];
    memcpy(x, &v, sizeof x);
    for (size_t i = 1; i < LANES / 4; i++)
        x[0] = larger_four(x[i], x[0]);
    return x[0];
}

/* Sixteen parts to four, as total() adds them. */
INLINE four sums_of(const vec parts[PARTS / LANES]) {
    four x[PARTS / 4];
    memcpy(x, parts, sizeof x);
    return (x[0] + x[2]) + (x[1] + x[3]);
}

/* Two by two of each: a0 b0 a1 b1, and a2 b2 a3 b3. */
INLINE four low_pairs(four a, four b) {
    return (four){a[0], b[0], a[1], b[1]};
}

INLINE four high_pairs(four a, four b) {
    return (four){a[2], b[2], a[3], b[3]};
}

INLINE four low_halves(four a, four b) {
    return (four){a[0], a[1], b[0], b[1]};
}

INLINE four high_halves(four a, four b) {
    return (four){a[2], a[3], b[2], b[3]};
}

/* The same of integers, which compilers turn better as floats. */
INLINE four_ints low_int_pairs(four_ints a, four_ints b) {
    return (four_ints)low_pairs((four)a, (four)b);
}

INLINE four_ints high_int_pairs(four_ints a, four_ints b) {
    return (four_ints)high_pairs((four)a, (four)b);
}

INLINE four_ints low_int_halves(four_ints a, four_ints b) {
    return (four_ints)low_halves((four)a, (four)b);
}

INLINE four_ints high_int_halves(four_ints a, four_ints b) {
    return (four_ints)high_halves((four)a, (four)b);
}

/* The largest lane of each of four. */
INLINE four peak_of_each(const four x[4]) {
    four a = larger_four(low_pairs(x[0], x[1]), high_pairs(x[0], x[1]));
    four b = larger_four(low_pairs(x[2], x[3]), high_pairs(x[2], x[3]));
    return larger_four(low_halves(a, b), high_halves(a, b));
}

/* The sum of the lanes of each of four, the last step of total(). */
INLINE four sum_of_each(const four x[4]) {
    four a = low_pairs(x[0], x[1]) + high_pairs(x[0], x[1]);
    four b = low_pairs(x[2], x[3]) + high_pairs(x[2], x[3]);
    return low_halves(a, b) + high_halves(a, b);
}
