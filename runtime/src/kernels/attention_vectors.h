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
