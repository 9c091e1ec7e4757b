/* Prompt lookup (Saxena 2023, "Prompt Lookup Decoding"): what followed the last tokens of a text when they stood in it
 * before is a draft of what follows them now.
 *
 * An index of all runs of `match` tokens of the text: a table of where each different run ended last, and for each end
 * the one before it of the same run. A token costs one entry, a draft a bounded number of comparisons. */
#ifndef FORERUN_LOOKUP_H
#define FORERUN_LOOKUP_H

#include "arena.h"
#include "status.h"

typedef struct fr_lookup {
    const int64_t *tokens; /* the text, which the caller keeps and appends to */
    size_t length;         /* of it, as indexed */
    size_t match;          /* tokens that must be equal; 0 = nothing is ever found */
    int32_t *ends;         /* [slots] the last token of the last run with this hash; -1 = free */
    int32_t *before;       /* [capacity] by last token of a run: that of the same run before it; -1 = there is none */
    size_t slots;          /* a power of two, twice the capacity or more */
} fr_lookup;

enum { FR_MOST_COMMON = 32 }; /* tokens before a place that are compared at most */

/* Takes the index of texts of up to `capacity` tokens; none where `match` is 0. */
forerun_status fr_lookup_open(fr_lookup *self, fr_arena *arena, const int64_t *tokens, size_t capacity, size_t match,
                              forerun_error *error);

/* Forgets the text before. */
void fr_lookup_begin(fr_lookup *self);

/* The text has `length` tokens now; those indexed before are among them. */
void fr_lookup_extend(fr_lookup *self, size_t length);

/* draft[0 .. n-1] = what followed the last tokens of the text where they stood before; where that runs into the text's
 * end it goes on with itself, so that a loop is continued. Of several such places it is the one with the most tokens in
 * common before it, the last of equals. Returns how many these are, `match` .. FR_MOST_COMMON; 0 = there is no such
 * place, and no draft. */
size_t fr_lookup_draft(const fr_lookup *self, int64_t *draft, size_t n);

#endif
