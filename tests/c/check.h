/* A tiny harness: a failed check is printed and counted, and main returns whether there were any. */
#ifndef FORERUN_CHECK_H
#define FORERUN_CHECK_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int check_failures;

#define CHECK(condition)                                                                                               \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            check_failures++;                                                                                          \
            printf("%s:%d: failed: %s\n", __FILE__, __LINE__, #condition);                                             \
        }                                                                                                              \
    } while (0)

#define CHECK_INT(found, expected)                                                                                     \
    do {                                                                                                               \
        long long found_ = (long long)(found), expected_ = (long long)(expected);                                      \
        if (found_ != expected_) {                                                                                     \
            check_failures++;                                                                                          \
            printf("%s:%d: %s is %lld, expected %lld\n", __FILE__, __LINE__, #found, found_, expected_);               \
        }                                                                                                              \
    } while (0)

/* The message of a failure must contain each text that a user needs to act on. */
#define CHECK_HAS(text, part)                                                                                          \
    do {                                                                                                               \
        if (strstr((text), (part)) == NULL) {                                                                          \
            check_failures++;                                                                                          \
            printf("%s:%d: \"%s\" does not contain \"%s\"\n", __FILE__, __LINE__, (text), (part));                     \
        }                                                                                                              \
    } while (0)

#define REQUIRE(condition)                                                                                             \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            printf("%s:%d: cannot go on without: %s\n", __FILE__, __LINE__, #condition);                               \
            exit(2);                                                                                                   \
        }                                                                                                              \
    } while (0)

/* xorshift64*: a fixed stream for mutations and sizes, independent of the generator under test. */
static inline uint64_t next_random(uint64_t *state) {
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return *state * 0x2545F4914F6CDD1Du;
}

#endif
