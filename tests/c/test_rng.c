#include "check.h"
#include "rng.h"

/* The known answers that Random123 publishes for philox4x32-10. */
static void known_answers(void) {
    static const struct {
        uint32_t counter[4], key[2], out[4];
    } cases[] = {
        {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
         {0xffffffff, 0xffffffff},
         {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
         {0xa4093822, 0x299f31d0},
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        uint32_t out[4];
        fr_philox(cases[i].counter, cases[i].key, out);
        CHECK(memcmp(out, cases[i].out, sizeof out) == 0);
    }
}

static void uniforms_are_a_pure_function(void) {
    float long_run[64], again[64], other[64];
    forerun_uniforms(7, 3, 64, long_run);
    forerun_uniforms(7, 4, 64, other);
    CHECK(memcmp(long_run, other, sizeof other) != 0);
    forerun_uniforms(8, 3, 64, other);
    CHECK(memcmp(long_run, other, sizeof other) != 0);
    for (size_t n = 0; n <= 64;
         n++) { /* a value does not depend on how many are asked for, and none is written beyond */
        memset(again, 0, sizeof again);
        forerun_uniforms(7, 3, n, again);
        CHECK(memcmp(again, long_run, n * sizeof(float)) == 0);
        CHECK(n == 64 || again[n] == 0.0f);
    }
    /* Each half of seed and round counts. */
    forerun_uniforms(7 + (1ull << 32), 3, 64, other);
    CHECK(memcmp(long_run, other, sizeof other) != 0);
    forerun_uniforms(7, 3 + (1ull << 32), 64, other);
    CHECK(memcmp(long_run, other, sizeof other) != 0);
}

/* Known first values: seed 0, round 0 is the first known answer above. */
static void uniforms_are_the_top_24_bits(void) {
    static const uint32_t bits[4] = {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8};
    float out[4];
    forerun_uniforms(0, 0, 4, out);
    for (int i = 0; i < 4; i++)
        CHECK(out[i] == (float)(bits[i] >> 8) / 16777216.0f);
}

static void uniforms_are_in_range_and_even(void) {
    enum { N = 1 << 16, BINS = 16 };
    static float out[N];
    size_t bins[BINS] = {0};
    forerun_uniforms(123, 0, N, out);
    for (size_t i = 0; i < N; i++) {
        REQUIRE(out[i] >= 0.0f && out[i] < 1.0f);
        bins[(size_t)(out[i] * BINS)]++;
    }
    double chi = 0;
    for (int i = 0; i < BINS; i++)
        chi += ((double)bins[i] - N / BINS) * ((double)bins[i] - N / BINS) / (N / BINS);
    CHECK(chi < 37.7); /* 15 degrees of freedom: p = 0.001; the seed is fixed, so this never flickers */
}

int main(void) {
    known_answers();
    uniforms_are_a_pure_function();
    uniforms_are_the_top_24_bits();
    uniforms_are_in_range_and_even();
    return check_failures != 0;
}
