/* Attention of several sequences in one run, each as it is alone, bit for bit: its own position, its own number of
 * rows.
 *
 * Call fr_attention_batch_write and fr_attention_batch_attend as those of one sequence. Rows of `out` beyond a
 * sequence's own are zero. */
#ifndef FORERUN_ATTENTION_BATCH_H
#define FORERUN_ATTENTION_BATCH_H

#include "attention.h"

typedef struct fr_attention_batch {
    /* The first sequence, of which all buffers continue with those of the others; `rows` are those that each has room
     * for. Its position, context_rows and nodes are not read. */
    fr_attention first;
    size_t sequences;
    size_t context_room;      /* rows of context that each has room for */
    const int64_t *positions; /* [sequences] */
    const int64_t *starts;    /* [sequences] positions of the context, or NULL: there is none */
    const int64_t *rows;      /* [sequences] that are there, or NULL: all */
} fr_attention_batch;

/* One of the sequences. */
fr_attention fr_attention_batch_sequence(const fr_attention_batch *it, size_t sequence);

size_t fr_attention_batch_writes(const fr_attention_batch *it);
void fr_attention_batch_write(const fr_attention_batch *it, size_t part);

size_t fr_attention_batch_parts(const fr_attention_batch *it);
void fr_attention_batch_attend(const fr_attention_batch *it, size_t part);

#endif
