#include "check.h"
#include "forerun.h"

#include <math.h>

static void check_row(const int64_t *found, const int64_t *expected, size_t n) {
    for (size_t i = 0; i < n; i++)
        CHECK_INT(found[i], expected[i]);
}

static void greedy(void) {
    const float logits[4 * 3] = {0, 1, 0, 2, 0, 0, 0, 0, 3, 1, 1, 0}; /* argmax 1 0 2 0 */
    int64_t out[4];
    CHECK_INT(forerun_accept_greedy(logits, 3, (const int64_t[]){1, 0, 2}, 3, out), 3);
    check_row(out, (const int64_t[]){1, 0, 2, 0}, 4);
    CHECK_INT(forerun_accept_greedy(logits, 3, (const int64_t[]){1, 2, 2}, 3, out), 1);
    check_row(out, (const int64_t[]){1, 0, -1, -1}, 4);
    CHECK_INT(forerun_accept_greedy(logits, 3, (const int64_t[]){0, 0, 2}, 3, out), 0); /* a later match is none */
    check_row(out, (const int64_t[]){1, -1, -1, -1}, 4);
    CHECK_INT(forerun_accept_greedy(logits, 3, NULL, 0, out), 0);
    CHECK_INT(out[0], 1);
}

static void ratio(void) {
    const float target[3 * 2] = {0.25f, 0.75f, 0.5f, 0.5f, 1.0f, 0.0f};
    const float draft[2 * 2] = {0.75f, 0.25f, 0.5f, 0.5f};
    float scratch[2];
    int64_t out[3];
    /* draft 0 at slot 0: accepted iff u < 1/3. */
    const int64_t tokens[2] = {0, 1};
    CHECK_INT(forerun_accept_ratio(target, draft, 2, tokens, 2, (const float[]){0.33f, 0.99f}, 0.5f, scratch, out), 2);
    check_row(out, (const int64_t[]){0, 1, 0}, 3);
    /* Rejected: what is left of (1/4, 3/4) - (3/4, 1/4) is all on 1, whatever the uniform. */
    CHECK_INT(forerun_accept_ratio(target, draft, 2, tokens, 2, (const float[]){0.34f, 0.0f}, 0.0f, scratch, out), 0);
    check_row(out, (const int64_t[]){1, -1, -1}, 3);
    /* A token that the target never gives is rejected even by u = 0, and one it always gives is never. */
    const float sure[2 * 2] = {0.0f, 1.0f, 0.5f, 0.5f}, any[2] = {0.5f, 0.5f};
    CHECK_INT(forerun_accept_ratio(sure, any, 2, (const int64_t[]){0}, 1, (const float[]){0.0f}, 0.9f, scratch, out),
              0);
    CHECK_INT(out[0], 1);
    CHECK_INT(
        forerun_accept_ratio(sure, any, 2, (const int64_t[]){1}, 1, (const float[]){0.99999994f}, 0.9f, scratch, out),
        1);
}

/* Rounding can reject where the distributions are equal; nothing is left then, and the target's row is used. */
static void empty_residual_falls_back_to_the_target(void) {
    const float target[2 * 2] = {0.5f, 0.5f, 0.5f, 0.5f}, draft[2] = {0.5f, 0.5f};
    float scratch[2];
    int64_t out[2];
    CHECK_INT(
        forerun_accept_ratio(target, draft, 2, (const int64_t[]){0}, 1, (const float[]){1.0f}, 0.75f, scratch, out), 0);
    CHECK_INT(out[0], 1);
}

static void delta(void) {
    const float target[2 * 3] = {0.5f, 0.25f, 0.25f, 0.0f, 1.0f, 0.0f};
    float scratch[3];
    int64_t out[2];
    CHECK_INT(forerun_accept_delta(target, 3, (const int64_t[]){0}, 1, (const float[]){0.49f}, 0.3f, scratch, out), 1);
    check_row(out, (const int64_t[]){0, 1}, 2);
    CHECK_INT(forerun_accept_delta(target, 3, (const int64_t[]){0}, 1, (const float[]){0.5f}, 0.49f, scratch, out), 0);
    check_row(out, (const int64_t[]){1, -1}, 2);
    CHECK_INT(forerun_accept_delta(target, 3, (const int64_t[]){0}, 1, (const float[]){0.5f}, 0.5f, scratch, out), 0);
    check_row(out, (const int64_t[]){2, -1}, 2);
}

int main(void) {
    greedy();
    ratio();
    empty_residual_falls_back_to_the_target();
    delta();
    return check_failures != 0;
}
