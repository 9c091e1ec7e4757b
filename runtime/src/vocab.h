/* vocab.bin: the bytes that each token id decodes to. Little endian: uint32 magic "VNRF", uint32 count,
 * uint32 offsets[count + 1], then the bytes. An empty range is a special token. */
#ifndef FORERUN_VOCAB_H
#define FORERUN_VOCAB_H

#include "arena.h"
#include "status.h"

typedef struct fr_vocab {
    const unsigned char *offsets; /* unaligned, little endian */
    const char *bytes;
    size_t count;
} fr_vocab;

/* Checks data[0 .. length-1], which must outlive *out, so that no later look-up can leave it. */
forerun_status fr_vocab_parse(const char *where, const char *data, size_t length, fr_vocab *out, forerun_error *error);

/* Bytes of `token`; none for an id without an entry (padded vocabularies). */
const char *fr_vocab_bytes(const fr_vocab *vocab, int64_t token, size_t *n_bytes);

#endif
