/* Writing bundles by hand: files in a folder, and a manifest's seal. */
#ifndef FORERUN_BUNDLE_FILES_H
#define FORERUN_BUNDLE_FILES_H

#include "check.h"
#include "sha256.h"

static inline void put_file(const char *folder, const char *name, const char *data, size_t length) {
    char path[256];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = fopen(path, "wb");
    REQUIRE(file != NULL && fwrite(data, 1, length, file) == length && fclose(file) == 0);
}

static inline void hash_text(const char *data, size_t length, char hex[65]) {
    unsigned char digest[32];
    fr_sha256 hash;
    fr_sha256_begin(&hash);
    fr_sha256_add(&hash, data, length);
    fr_sha256_end(&hash, digest);
    fr_sha256_hex(digest, hex);
}

/* body[0 .. length-1] and its seal; the length of both. */
static inline size_t seal(char *out, const char *body, size_t length) {
    char hex[65];
    memmove(out, body, length);
    hash_text(out, length, hex);
    return length + (size_t)sprintf(out + length, "  \"seal\": \"%s\"\n}\n", hex);
}

#endif
