#include "check.h"
#include "sha256.h"

static void digest_hex(const void *data, size_t length, size_t step, char hex[65]) {
    fr_sha256 hash;
    unsigned char digest[32];
    fr_sha256_begin(&hash);
    for (size_t at = 0; at < length; at += step)
        fr_sha256_add(&hash, (const char *)data + at, length - at < step ? length - at : step);
    fr_sha256_end(&hash, digest);
    fr_sha256_hex(digest, hex);
}

/* FIPS 180-4's examples, and the million of NIST. */
static void known_answers(void) {
    static const struct {
        const char *text, *hex;
    } cases[] = {
        {"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
        {"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
        {"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
         "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"},
    };
    char hex[65];
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        digest_hex(cases[i].text, strlen(cases[i].text), 1, hex);
        CHECK(strcmp(hex, cases[i].hex) == 0);
    }
    static char million[1000000];
    memset(million, 'a', sizeof million);
    digest_hex(million, sizeof million, 4093, hex); /* an odd step: every fill of the buffer occurs */
    CHECK(strcmp(hex, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0") == 0);
}

static void native_equals_portable(void) {
    void (*native)(uint32_t *, const unsigned char *, size_t) = fr_sha256_native();
    if (native == NULL) {
        printf("this processor has no SHA instructions: the portable code is all there is to test\n");
        return;
    }
    uint64_t random = 1;
    static unsigned char blocks[64 * 9];
    for (int trial = 0; trial < 50; trial++) {
        uint32_t a[8], b[8];
        for (int i = 0; i < 8; i++)
            a[i] = b[i] = (uint32_t)next_random(&random);
        for (size_t i = 0; i < sizeof blocks; i++)
            blocks[i] = (unsigned char)next_random(&random);
        size_t n = next_random(&random) % 10;
        native(a, blocks, n);
        fr_sha256_portable(b, blocks, n);
        CHECK(memcmp(a, b, sizeof a) == 0);
    }
}

int main(void) {
    known_answers();
    native_equals_portable();
    return check_failures != 0;
}
