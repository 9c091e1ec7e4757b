#include "check.h"
#include "vocab.h"

/* Three tokens: "ab", none, "\0c". */
static const unsigned char GOOD[] = {'V', 'N', 'R', 'F', 3, 0, 0, 0, 0, 0, 0,   0,   2, 0,
                                     0,   0,   2,   0,   0, 0, 4, 0, 0, 0, 'a', 'b', 0, 'c'};

static forerun_status parse(const unsigned char *data, size_t length, fr_vocab *out, forerun_error *error) {
    return fr_vocab_parse("vocab.bin", (const char *)data, length, out, error);
}

static void looks_up_bytes(void) {
    fr_vocab vocab;
    forerun_error error;
    REQUIRE(parse(GOOD, sizeof GOOD, &vocab, &error) == FORERUN_OK);
    size_t n;
    CHECK(memcmp(fr_vocab_bytes(&vocab, 0, &n), "ab", 2) == 0 && n == 2);
    fr_vocab_bytes(&vocab, 1, &n);
    CHECK_INT(n, 0);
    CHECK(memcmp(fr_vocab_bytes(&vocab, 2, &n), "\0c", 2) == 0 && n == 2);
    fr_vocab_bytes(&vocab, 3, &n); /* padded vocabularies have ids without an entry */
    CHECK_INT(n, 0);
    fr_vocab_bytes(&vocab, -1, &n);
    CHECK_INT(n, 0);
    fr_vocab_bytes(&(fr_vocab){0}, 0, &n); /* a table model has none at all */
    CHECK_INT(n, 0);
}

static void refuses_damage(void) {
    for (size_t length = 0; length < sizeof GOOD; length++) {
        unsigned char *copy = malloc(length + (length == 0));
        REQUIRE(copy != NULL);
        memcpy(copy, GOOD, length);
        fr_vocab vocab;
        forerun_error error;
        CHECK(parse(copy, length, &vocab, &error) == FORERUN_BUNDLE_ERROR);
        CHECK_HAS(error.message, "vocab.bin");
        free(copy);
    }
    static const struct {
        size_t at;
        unsigned char value;
    } damage[] = {{0, 'X'}, {4, 4}, {7, 0xFF}, {12, 3}, {16, 1}, {20, 5}, {20, 3}};
    for (size_t i = 0; i < sizeof damage / sizeof damage[0]; i++) {
        unsigned char copy[sizeof GOOD];
        memcpy(copy, GOOD, sizeof copy);
        copy[damage[i].at] = damage[i].value;
        fr_vocab vocab;
        forerun_error error;
        CHECK(parse(copy, sizeof copy, &vocab, &error) == FORERUN_BUNDLE_ERROR);
    }
}

int main(void) {
    looks_up_bytes();
    refuses_damage();
    return check_failures != 0;
}
