#include "vocab.h"

enum { HEADER = 8, WORD = 4 };

static const uint32_t MAGIC = 0x46524E56u;

static uint32_t word(const unsigned char *at) {
    return (uint32_t)at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

forerun_status fr_vocab_parse(const char *where, const char *data, size_t length, fr_vocab *out, forerun_error *error) {
    const unsigned char *bytes = (const unsigned char *)data;
    if (length < HEADER || word(bytes) != MAGIC)
        return fr_fail(error, FORERUN_BUNDLE_ERROR,
                       "%s: expected it to begin with \"VNRF\", found something else. Build the bundle again.", where);
    size_t count = word(bytes + WORD);
    if ((length - HEADER) / WORD < count + 1)
        return fr_fail(error, FORERUN_BUNDLE_ERROR,
                       "%s: expected offsets of %zu tokens, found %zu bytes in all. Build the bundle again.", where,
                       count, length);
    const unsigned char *offsets = bytes + HEADER;
    size_t body = length - HEADER - WORD * (count + 1);
    uint32_t before = 0;
    for (size_t i = 0; i <= count; i++) {
        uint32_t offset = word(offsets + WORD * i);
        if (offset < before || offset > body || (i == count && offset != body))
            return fr_fail(error, FORERUN_BUNDLE_ERROR,
                           "%s: token %zu: expected an offset from %u to %zu, found %u. Build the bundle again.", where,
                           i, before, body, offset);
        before = offset;
    }
    *out = (fr_vocab){.offsets = offsets, .bytes = data + HEADER + WORD * (count + 1), .count = count};
    return FORERUN_OK;
}

const char *fr_vocab_bytes(const fr_vocab *vocab, int64_t token, size_t *n_bytes) {
    *n_bytes = 0;
    if (token < 0 || (uint64_t)token >= vocab->count)
        return "";
    const unsigned char *at = vocab->offsets + (size_t)token * WORD;
    *n_bytes = word(at + WORD) - word(at);
    return vocab->bytes + word(at);
}
