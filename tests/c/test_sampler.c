#include "check.h"
#include "sampler.h"

#include <math.h>

static void argmax_takes_the_lowest_of_equals(void) {
    CHECK_INT(fr_argmax((const float[]){1, 3, 3, 2}, 4), 1);
    CHECK_INT(fr_argmax((const float[]){-INFINITY, -INFINITY}, 2), 0);
    CHECK_INT(fr_argmax((const float[]){-1, -2, 0}, 3), 2);
    CHECK_INT(fr_argmax((const float[]){5}, 1), 0);
}

static void softmax_is_stable_and_normal(void) {
    float p[3];
    forerun_softmax((const float[]){1000, 1000, 998}, 3, 1.0f, p);
    CHECK(fabs((double)p[0] - 0.468311) < 1e-6 && p[0] == p[1] && fabs((double)p[2] - 0.063379) < 1e-6);
    forerun_softmax((const float[]){0, -INFINITY, 0}, 3, 0.5f, p);
    CHECK(p[0] == 0.5f && p[1] == 0.0f && p[2] == 0.5f);
    float in_place[2] = {0.0f, 0.6931472f}; /* ln 2 at temperature 0.5: 1 to 4 */
    forerun_softmax(in_place, 2, 0.5f, in_place);
    CHECK(fabs((double)in_place[1] - 0.8) < 1e-6);
}

/* The number of ids whose cumulative weight is <= uniform * total, on weights where every step is exact. */
static void sample_counts_the_cumulative_weights(void) {
    const float weights[5] = {0, 1, 0, 2, 1};
    static const struct {
        float uniform;
        int64_t token;
    } cases[] = {{0.0f, 1}, {0.2499f, 1}, {0.25f, 3}, {0.5f, 3}, {0.7499f, 3}, {0.75f, 4}, {0.99999994f, 4}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        CHECK_INT(forerun_sample(weights, 5, cases[i].uniform), cases[i].token);
    const float tail[4] = {1, 0, 0, 0}; /* never a token of weight 0, whatever rounding does at the end */
    CHECK_INT(forerun_sample(tail, 4, 0.99999994f), 0);
}

/* Chi-square of 1e5 draws with the library's own uniforms: p > 0.001. The seed is fixed, so it never flickers. */
static void sample_follows_its_law(void) {
    enum { V = 7, N = 100000 };
    const float p[V] = {0.05f, 0.3f, 0.0f, 0.15f, 0.2f, 0.01f, 0.29f};
    size_t count[V] = {0};
    for (uint64_t i = 0; i < N; i++) {
        float u;
        forerun_uniforms(2024, i, 1, &u);
        count[forerun_sample(p, V, u)]++;
    }
    double chi = 0;
    for (int i = 0; i < V; i++)
        if (p[i] > 0.0f)
            chi += pow((double)count[i] - N * (double)p[i], 2) / (N * (double)p[i]);
    CHECK_INT(count[2], 0);
    CHECK(chi < 20.5); /* 5 degrees of freedom */
}

int main(void) {
    argmax_takes_the_lowest_of_equals();
    softmax_is_stable_and_normal();
    sample_counts_the_cumulative_weights();
    sample_follows_its_law();
    return check_failures != 0;
}
