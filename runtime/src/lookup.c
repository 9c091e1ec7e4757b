#include "lookup.h"

#include <stdbool.h>
#include <string.h>

/* A run whose slots are all taken by others is not indexed; with half of them free this is rare. Of 8 places the best
 * is chosen: more changed nothing on our texts. */
enum { NONE = -1, MOST_PROBES = 64, MOST_PLACES = 8 };

forerun_status fr_lookup_open(fr_lookup *self, fr_arena *arena, const int64_t *tokens, size_t capacity, size_t match,
                              forerun_error *error) {
    *self = (fr_lookup){.tokens = tokens, .match = match, .slots = 1};
    if (match == 0)
        return FORERUN_OK;
    while (self->slots < 2 * capacity)
        self->slots *= 2;
    self->ends = fr_arena_take(arena, self->slots, sizeof(int32_t));
    self->before = fr_arena_take(arena, capacity, sizeof(int32_t));
    if (self->ends == NULL || self->before == NULL)
        return fr_fail(error, FORERUN_OUT_OF_MEMORY, "No memory for the index of a text of %zu tokens.", capacity);
    fr_lookup_begin(self);
    return FORERUN_OK;
}

void fr_lookup_begin(fr_lookup *self) {
    self->length = 0;
    if (self->match > 0)
        memset(self->ends, 0xFF, self->slots * sizeof(int32_t)); /* all NONE */
}

/* The run that ends at `end`. */
static const int64_t *run_at(const fr_lookup *self, size_t end) {
    return self->tokens + end + 1 - self->match;
}

static bool same_run(const fr_lookup *self, size_t a, size_t b) {
    return memcmp(run_at(self, a), run_at(self, b), self->match * sizeof(int64_t)) == 0;
}

static size_t hash_run(const fr_lookup *self, size_t end) {
    const int64_t *run = run_at(self, end);
    uint64_t hash = 0;
    for (size_t i = 0; i < self->match; i++) { /* the mixer of splitmix64 (Steele et al. 2014) */
        hash += (uint64_t)run[i] + UINT64_C(0x9E3779B97F4A7C15);
        hash = (hash ^ (hash >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
        hash = (hash ^ (hash >> 27)) * UINT64_C(0x94D049BB133111EB);
        hash ^= hash >> 31;
    }
    return (size_t)hash;
}

static void index_run(fr_lookup *self, size_t end) {
    size_t hash = hash_run(self, end);
    self->before[end] = NONE;
    for (size_t i = 0; i < MOST_PROBES; i++) {
        int32_t *slot = &self->ends[(hash + i) & (self->slots - 1)];
        if (*slot == NONE || same_run(self, (size_t)*slot, end)) {
            self->before[end] = *slot;
            *slot = (int32_t)end;
            return;
        }
    }
}

void fr_lookup_extend(fr_lookup *self, size_t length) {
    for (size_t end = self->length; self->match > 0 && end < length; end++)
        if (end + 1 >= self->match)
            index_run(self, end);
    self->length = length;
}

/* Tokens before two ends of the same run that are equal, the run's own among them; `earlier` < `end`. */
static size_t common(const fr_lookup *self, size_t earlier, size_t end) {
    size_t n = self->match;
    while (n < FR_MOST_COMMON && n <= earlier && self->tokens[earlier - n] == self->tokens[end - n])
        n++;
    return n;
}

size_t fr_lookup_draft(const fr_lookup *self, int64_t *draft, size_t n) {
    if (self->match == 0 || self->length < self->match)
        return 0;
    const size_t end = self->length - 1;
    int32_t place = self->before[end];
    size_t best = 0, longest = 0;
    for (size_t i = 0; i < MOST_PLACES && place != NONE; i++, place = self->before[place]) {
        size_t equal = common(self, (size_t)place, end);
        if (equal > longest) {
            longest = equal;
            best = (size_t)place;
        }
    }
    for (size_t i = 0, at = best + 1; longest > 0 && i < n; i++, at++)
        draft[i] = at < self->length ? self->tokens[at] : draft[at - self->length];
    return longest;
}
