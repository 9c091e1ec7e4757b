/* SHA-256 (FIPS 180-4), by the processor's own instructions where it has them. */
#ifndef FORERUN_SHA256_H
#define FORERUN_SHA256_H

#include <stddef.h>
#include <stdint.h>

typedef struct fr_sha256 {
    uint32_t state[8];
    uint64_t length; /* bytes so far */
    unsigned char buffer[64];
    void (*compress)(uint32_t state[8], const unsigned char *blocks, size_t n_blocks);
} fr_sha256;

void fr_sha256_begin(fr_sha256 *hash);
void fr_sha256_add(fr_sha256 *hash, const void *data, size_t length);
void fr_sha256_end(fr_sha256 *hash, unsigned char digest[32]);

/* Lower case, zero terminated. */
void fr_sha256_hex(const unsigned char digest[32], char hex[65]);

extern const uint32_t fr_sha256_constants[64];

/* The two implementations; tests compare them. */
void fr_sha256_portable(uint32_t state[8], const unsigned char *blocks, size_t n_blocks);
/* NULL where this build or this processor has no SHA instructions. */
void (*fr_sha256_native(void))(uint32_t state[8], const unsigned char *blocks, size_t n_blocks);

#endif
