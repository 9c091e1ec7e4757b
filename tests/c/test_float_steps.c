/* What stands around products: every path against the definition in double, and against one another bit for bit. */
#include "check.h"
#include "kernels/float_steps.h"
#include "kernels/linear.h"

#include <math.h>

enum { WIDTH = FR_STEP_WIDTH, ROWS = 5, STRIDE = 37, LONGEST = 300 };

static float random_float(uint64_t *random, float size) {
    return size * (float)((double)(next_random(random) >> 40) / (double)(1u << 23) - 1.0);
}

static void fill(float *x, size_t count, float size, uint64_t *random) {
    for (size_t i = 0; i < count; i++)
        x[i] = random_float(random, size);
}

static int near(float found, double expected, double tolerance) {
    return fabs((double)found - expected) <= tolerance * fabs(expected) + 1e-37;
}

static void test_normalize(const fr_float_steps *steps, size_t k, float size, uint64_t *random) {
    float *x = calloc(k, sizeof *x), *norm = calloc(k, sizeof *norm); /* as long as asked for: the sanitizer looks */
    float *y = calloc(k, sizeof *y), *same = calloc(k, sizeof *same);
    REQUIRE(x != NULL && norm != NULL && y != NULL && same != NULL);
    const float epsilon = 1e-6f;
    double squares = 0.0;
    fill(x, k, size, random);
    fill(norm, k, 2.0f, random);
    for (size_t i = 0; i < k; i++)
        squares += (double)x[i] * (double)x[i];
    double inverse = 1.0 / sqrt(squares / (double)k + (double)epsilon);
    steps->normalize(x, norm, k, epsilon, y);
    fr_float_steps_portable.normalize(x, norm, k, epsilon, same);
    CHECK(memcmp(y, same, k * sizeof *y) == 0);
    for (size_t i = 0; i < k; i++)
        CHECK(near(y[i], (double)x[i] * inverse * (double)norm[i], 1e-6));
    free(x);
    free(norm);
    free(y);
    free(same);
}

static void test_normalize_specials(const fr_float_steps *steps) {
    float x[33] = {0}, norm[33], y[33];
    for (size_t i = 0; i < 33; i++)
        norm[i] = 3.0f;
    steps->normalize(x, norm, 33, 1e-6f, y);
    for (size_t i = 0; i < 33; i++)
        CHECK(y[i] == 0.0f);
    x[32] = NAN;
    steps->normalize(x, norm, 33, 1e-6f, y);
    for (size_t i = 0; i < 33; i++)
        CHECK(isnan(y[i]));
    x[32] = INFINITY; /* infinity times zero: the row cannot be used, and must not look as if it could */
    steps->normalize(x, norm, 33, 1e-6f, y);
    CHECK(isnan(y[32]));
}

static void test_gate(const fr_float_steps *steps, float size, uint64_t *random) {
    float gates[ROWS * WIDTH], values[ROWS * WIDTH], y[ROWS * STRIDE], same[ROWS * STRIDE];
    fill(gates, ROWS * WIDTH, size, random);
    fill(values, ROWS * WIDTH, 3.0f, random);
    fill(y, ROWS * STRIDE, 1.0f, random);
    memcpy(same, y, sizeof y);
    steps->gate(gates, values, ROWS, y, STRIDE);
    fr_float_steps_portable.gate(gates, values, ROWS, same, STRIDE);
    CHECK(memcmp(y, same, sizeof y) == 0); /* what lies between the rows is as it was, too */
    for (size_t row = 0; row < ROWS; row++)
        for (size_t i = 0; i < WIDTH; i++) {
            double g = (double)gates[row * WIDTH + i], u = (double)values[row * WIDTH + i];
            CHECK(g < -80.0 ? fabsf(y[row * STRIDE + i]) < 1e-30f
                            : near(y[row * STRIDE + i], g / (1 + exp(-g)) * u, 5e-7));
        }
}

static void test_gate_specials(const fr_float_steps *steps) {
    float gates[WIDTH] = {0.0f, -0.0f, 1e30f, -1e30f, NAN, INFINITY, -100.0f, 100.0f}, values[WIDTH], y[WIDTH];
    for (size_t i = 0; i < WIDTH; i++)
        values[i] = 2.0f;
    values[8] = NAN;
    steps->gate(gates, values, 1, y, WIDTH);
    CHECK(y[0] == 0.0f && y[1] == 0.0f && y[2] == 2e30f && y[3] == 0.0f && isnan(y[4]));
    CHECK(isinf(y[5]) && y[6] == 0.0f && y[7] == 200.0f && isnan(y[8]));
}

static void test_add(const fr_float_steps *steps, size_t count, size_t addend_stride, uint64_t *random) {
    float y[ROWS * STRIDE], addend[ROWS * STRIDE], expected[ROWS * STRIDE];
    fill(y, ROWS * STRIDE, 1.0f, random);
    fill(addend, ROWS * STRIDE, 1.0f, random);
    memcpy(expected, y, sizeof y);
    for (size_t row = 0; row < ROWS; row++)
        for (size_t i = 0; i < count; i++)
            expected[row * STRIDE + i] += addend[row * addend_stride + i];
    steps->add(y, STRIDE, addend, addend_stride, ROWS, count);
    CHECK(memcmp(y, expected, sizeof y) == 0);
}

static double logistic(double x) {
    return x < 0.0 ? exp(x) / (1.0 + exp(x)) : 1.0 / (1.0 + exp(-x));
}

/* z of up to `z_size`, a state of up to 1. */
static void test_recur(const fr_float_steps *steps, size_t size, float z_size, uint64_t *random) {
    float *z = calloc(3 * size, sizeof *z), *state = calloc(size, sizeof *state);
    float *next = calloc(size, sizeof *next), *out = calloc(size, sizeof *out);
    float *same = calloc(2 * size, sizeof *same);
    REQUIRE(z != NULL && state != NULL && next != NULL && out != NULL && same != NULL);
    fill(z, 3 * size, z_size, random);
    fill(state, size, 1.0f, random);
    steps->recur(z, state, size, next, out);
    fr_float_steps_portable.recur(z, state, size, same, same + size);
    CHECK(memcmp(next, same, size * sizeof *next) == 0);
    CHECK(memcmp(out, same + size, size * sizeof *out) == 0);
    for (size_t i = 0; i < size; i++) {
        double keep = logistic((double)z[i]), candidate = tanh((double)z[size + i]);
        /* The two terms may cancel: an error is one of numbers of at most 1. */
        CHECK(fabs((double)next[i] - (keep * (double)state[i] + (1.0 - keep) * candidate)) <= 3e-7);
        CHECK(near(out[i], tanh((double)z[2 * size + i]), 3e-7));
    }
    free(z);
    free(state);
    free(next);
    free(out);
    free(same);
}

static void test_recur_specials(const fr_float_steps *steps) {
    enum { SIZE = 6 };
    const float z[3][SIZE] = {{200.0f, -200.0f, INFINITY, -INFINITY, NAN, 0.0f},
                              {0.5f, INFINITY, 0.5f, -INFINITY, 0.5f, NAN},
                              {0.0f, 1e-30f, -INFINITY, 1e30f, 0.0f, NAN}};
    const float state[SIZE] = {0.25f, 0.25f, -0.75f, 0.25f, 0.25f, 0.25f};
    float next[SIZE], out[SIZE];
    steps->recur(z[0], state, SIZE, next, out);
    CHECK(next[0] == 0.25f && next[1] == 1.0f && next[2] == -0.75f && next[3] == -1.0f); /* all kept, or nothing */
    CHECK(isnan(next[4]) && isnan(next[5]));
    CHECK(out[0] == 0.0f && out[1] == 1e-30f && out[2] == -1.0f && out[3] == 1.0f);
    CHECK(out[4] == 0.0f && isnan(out[5]));
}

int main(void) {
    const fr_linear_path *paths[FR_LINEAR_MAX_PATHS];
    size_t n_paths = fr_linear_paths(&fr_linear_int8, paths);
    uint64_t random = 20261121;
    for (size_t p = 0; p < n_paths; p++) {
        const fr_float_steps *steps = paths[p]->steps;
        for (size_t k = 1; k <= LONGEST; k++)
            test_normalize(steps, k, k % 3 == 0 ? 1e-4f : 20.0f, &random);
        test_normalize_specials(steps);
        for (int round = 0; round < 200; round++)
            test_gate(steps, round % 2 == 0 ? 4.0f : 120.0f, &random);
        test_gate_specials(steps);
        for (size_t size = 1; size <= LONGEST; size++) {
            test_recur(steps, size, size % 2 == 0 ? 3.0f : 40.0f, &random);
            test_recur(steps, size, 0.3f, &random); /* around where one form of the tangent takes over from the other */
        }
        test_recur_specials(steps);
        for (size_t count = 1; count <= WIDTH; count++) {
            test_add(steps, count, STRIDE, &random);
            test_add(steps, count, 0, &random);
        }
    }
    return check_failures != 0;
}
