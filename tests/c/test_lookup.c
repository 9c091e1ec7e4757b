/* The index of a text against a search of the whole text, on random texts of few different tokens. */
#include "check.h"
#include "lookup.h"

enum { MOST = 400, DRAFT = 9, PLACES = 8 };

static fr_arena arena;
static int64_t text[MOST];

static fr_lookup open_lookup(size_t capacity, size_t match) {
    fr_lookup lookup;
    forerun_error error;
    REQUIRE(fr_lookup_open(&lookup, &arena, text, capacity, match, &error) == FORERUN_OK);
    return lookup;
}

/* Tokens in common before `a` and `b` < a, themselves included. */
static size_t equal_before(size_t a, size_t b) {
    size_t n = 0;
    while (n < FR_MOST_COMMON && n <= b && text[a - n] == text[b - n])
        n++;
    return n;
}

/* The definition: all places from the end on, the best of the first eight; then what followed it, copied one token at a
 * time to the end of a text that grows. */
static size_t search(size_t length, size_t match, int64_t draft[DRAFT]) {
    size_t found = 0, best = 0, at = 0;
    for (size_t end = length - 1; end-- > 0 && found < PLACES;) {
        size_t n = equal_before(length - 1, end);
        if (n < match)
            continue;
        found++;
        if (n > best) {
            best = n;
            at = end;
        }
    }
    int64_t grown[MOST + DRAFT];
    memcpy(grown, text, length * sizeof text[0]);
    for (size_t i = 0; best > 0 && i < DRAFT; i++)
        draft[i] = grown[length + i] = grown[at + 1 + i];
    return best;
}

static size_t compare(const fr_lookup *lookup, size_t length) {
    int64_t draft[DRAFT + 1], expected[DRAFT];
    draft[DRAFT] = -7;
    size_t found = fr_lookup_draft(lookup, draft, DRAFT), best = search(length, lookup->match, expected);
    CHECK_INT(found, best);
    CHECK(found == 0 || memcmp(draft, expected, sizeof expected) == 0);
    CHECK_INT(draft[DRAFT], -7);
    return found;
}

static void finds_what_a_search_finds(void) {
    uint64_t random = 3;
    size_t n_found = 0, n_long = 0, n_none = 0;
    for (size_t match = 1; match <= 5; match++)
        for (uint64_t alphabet = 1; alphabet <= 5; alphabet++) {
            fr_lookup lookup = open_lookup(MOST, match);
            for (int again = 0; again < 2; again++) {
                fr_lookup_begin(&lookup);
                for (size_t length = 0; length < MOST;) {
                    size_t step = 1 + next_random(&random) % 6;
                    for (; step > 0 && length < MOST; step--)
                        text[length++] = (int64_t)(next_random(&random) % alphabet);
                    fr_lookup_extend(&lookup, length);
                    size_t found = compare(&lookup, length);
                    n_found += found > 0;
                    n_none += found == 0;
                    n_long += found > match;
                }
            }
        }
    CHECK(n_found > 1000 && n_long > 1000 && n_none > 100);
    fr_arena_free(&arena);
}

/* A loop of any period goes on for ever, and a longer match than needed decides between two places. */
static void continues_a_loop(void) {
    for (size_t period = 1; period <= 12; period++) {
        fr_lookup lookup = open_lookup(MOST, 4);
        for (size_t i = 0; i < MOST; i++)
            text[i] = (int64_t)(i % period) * 1000003;
        fr_lookup_extend(&lookup, period + 4);
        int64_t draft[DRAFT];
        CHECK_INT(fr_lookup_draft(&lookup, draft, DRAFT), 4);
        for (size_t i = 0; i < DRAFT; i++)
            CHECK_INT(draft[i], (int64_t)((period + 4 + i) % period) * 1000003);
        fr_lookup_extend(&lookup, MOST); /* to the last token of the capacity */
        CHECK_INT(fr_lookup_draft(&lookup, draft, DRAFT), FR_MOST_COMMON);
        CHECK_INT(draft[0], (int64_t)(MOST % period) * 1000003);
        fr_arena_free(&arena);
    }
    static const int64_t two[] = {9, 1, 2, 3, 4, 8, 1, 2, 3, 5, 9, 1, 2, 3};
    memcpy(text, two, sizeof two);
    fr_lookup lookup = open_lookup(MOST, 3);
    fr_lookup_extend(&lookup, 14);
    int64_t draft[2];
    CHECK_INT(fr_lookup_draft(&lookup, draft, 2), 4); /* after 9, the last but one: 4 and not 5 */
    CHECK(draft[0] == 4 && draft[1] == 8);
    fr_arena_free(&arena);
}

static void finds_the_very_beginning_and_nothing_too_early(void) {
    static const int64_t begins[] = {5, 6, 7, 1, 5, 6, 7};
    memcpy(text, begins, sizeof begins);
    int64_t draft[2] = {-1, -1};
    fr_lookup lookup = open_lookup(7, 3);
    CHECK_INT(fr_lookup_draft(&lookup, draft, 2), 0); /* an empty text */
    for (size_t length = 1; length <= 6; length++) {
        fr_lookup_extend(&lookup, length);
        CHECK_INT(fr_lookup_draft(&lookup, draft, 2), 0);
    }
    fr_lookup_extend(&lookup, 7);
    CHECK_INT(fr_lookup_draft(&lookup, draft, 2), 3);
    CHECK(draft[0] == 1 && draft[1] == 5);
    fr_lookup_begin(&lookup); /* forgets */
    fr_lookup_extend(&lookup, 3);
    CHECK_INT(fr_lookup_draft(&lookup, draft, 2), 0);
    lookup = open_lookup(7, 0); /* a bundle without it */
    fr_lookup_begin(&lookup);
    fr_lookup_extend(&lookup, 7);
    CHECK_INT(fr_lookup_draft(&lookup, draft, 2), 0);
    fr_arena_free(&arena);
}

int main(void) {
    finds_what_a_search_finds();
    continues_a_loop();
    finds_the_very_beginning_and_nothing_too_early();
    return check_failures != 0;
}
