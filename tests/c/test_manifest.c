/* Bundles on disk, damaged in many ways: each is refused with a message that names the file, and nothing is read
 * outside of its bounds. */
#define _POSIX_C_SOURCE 200809L
#include "bundle_files.h"
#include "files.h"

#include <sys/stat.h>
#include <unistd.h>

static char folder[] = "/tmp/forerun-manifest-XXXXXX";
static forerun_error error;

static const char *const NAMES[] = {"round.onnx",      "plain.onnx",          "vocab.bin",
                                    "report/plot.txt", "report/round.engine", "report/plain.engine"};
static const char *const CONTENTS[] = {"the round", "the plain graph", "VNRF....", "", "vtrt round", "vtrt plain"};
enum { FILES = sizeof NAMES / sizeof NAMES[0] };

static void write_file(const char *name, const char *data, size_t length) {
    put_file(folder, name, data, length);
}

static char *add_graphs(char *at, const char *dtype) {
    for (int i = 0; i < 2; i++)
        at += sprintf(at,
                      "%s\"%s\": {\"file\": \"%s\", \"inputs\": [{\"name\": \"tokens\", \"dtype\": \"int64\", "
                      "\"shape\": [1, \"T\"]}], \"outputs\": [{\"name\": \"committed\", \"dtype\": \"int64\", "
                      "\"shape\": [1, 5]}], \"states\": [{\"name\": \"target.0.k\", \"output\": \"target.0.k.out\", "
                      "\"dtype\": \"%s\", \"shape\": [1, 2, 70, 8]}]}",
                      i == 0 ? "" : ", ", i == 0 ? "round" : "plain", NAMES[i], dtype);
    return at;
}

/* The body of a good manifest, unsealed; in a static buffer. */
static char *good_body(void) {
    static char body[8192];
    char *at = body + sprintf(body, "{\n  \"format\": 5,\n  \"files\": {");
    for (size_t i = 0; i < FILES; i++) {
        char hex[65];
        hash_text(CONTENTS[i], strlen(CONTENTS[i]), hex);
        at += sprintf(at, "%s\"%s\": {\"size\": %zu, \"sha256\": \"%s\"}", i == 0 ? "" : ", ", NAMES[i],
                      strlen(CONTENTS[i]), hex);
    }
    at += sprintf(at,
                  "},\n  \"model\": {\"name\": \"it\", \"target_architecture\": \"T\", \"drafter_family\": \"dspark\", "
                  "\"vocab_size\": 300, \"draft_len\": 4, \"lookup_len\": 0, \"lookup_match\": 0, \"block_size\": 7, "
                  "\"capacity\": 64, \"cache_rows\": 70, "
                  "\"prefill_chunk\": 16, \"verify_widths\": [2, 5], \"eos_token_ids\": [256, 1], \"bos_token_id\": "
                  "null},\n  \"graphs\": {");
    at = add_graphs(at, "float32");
    at += sprintf(at, "},\n  \"engines\": [{\"backend\": \"onnxruntime\", \"built\": []}, "
                      "{\"backend\": \"tensorrt-rtx\", \"graphs\": {");
    at = add_graphs(at, "float16");
    sprintf(at, "}, \"built\": [{\"folder\": \"report\", \"library\": \"1.7.1.116\", \"compute_capability\": [\"8.9\", "
                "\"12.0\"]}]}],\n  \"cost\": [1.5],\n");
    return body;
}

static forerun_status open_manifest(fr_manifest *out) {
    static fr_manifest ignored;
    fr_arena arena = {0};
    error.message[0] = '\0';
    ignored = (fr_manifest){0};
    forerun_status status = fr_manifest_open(&arena, folder, out != NULL ? out : &ignored, &error);
    fr_arena_free(&arena);
    return status;
}

static void write_sealed(const char *body) {
    static char text[16384];
    write_file("manifest.json", text, seal(text, body, strlen(body)));
}

/* The good body with the first `from` replaced by `to`. */
static const char *replaced(const char *from, const char *to) {
    static char out[8192];
    const char *body = good_body(), *at = strstr(body, from);
    REQUIRE(at != NULL);
    snprintf(out, sizeof out, "%.*s%s%s", (int)(at - body), body, to, at + strlen(from));
    return out;
}

static void write_good(void) {
    for (size_t i = 0; i < FILES; i++)
        write_file(NAMES[i], CONTENTS[i], strlen(CONTENTS[i]));
    write_sealed(good_body());
}

static void reads_a_good_bundle(void) {
    write_good();
    fr_arena arena = {0};
    fr_manifest it = {0};
    forerun_status status = fr_manifest_open(&arena, folder, &it, &error);
    if (status != FORERUN_OK)
        printf("%s\n", error.message);
    REQUIRE(status == FORERUN_OK);
    CHECK(it.model.vocab_size == 300 && it.model.draft_len == 4 && it.model.cache_rows == 70);
    CHECK(it.model.n_verify_widths == 2 && it.model.verify_widths[0] == 2 && it.model.verify_widths[1] == 5);
    CHECK(fr_verify_width(&it.model, 0) == 2 && fr_verify_width(&it.model, 1) == 2);
    CHECK(fr_verify_width(&it.model, 2) == 5 && fr_verify_width(&it.model, 4) == 5);
    CHECK(it.model.n_eos_token_ids == 2 && it.model.eos_token_ids[1] == 1 && it.model.bos_token_id == -1);
    CHECK(it.n_files == FILES && it.files[1].size == 15);
    CHECK(it.round.n_states == 1 && fr_tensor_bytes(&it.round.states[0].tensor) == 2 * 70 * 8 * 4);
    CHECK(fr_dtype_bytes(FR_INT8) == 1);
    CHECK(it.round.inputs[0].shape[1] == -1 && it.round.inputs[0].dtype == FR_INT64);
    CHECK(strcmp(it.plain.file, "plain.onnx") == 0);
    REQUIRE(it.n_engines == 1 && it.engines[0].n_capabilities == 2);
    CHECK(strcmp(it.engines[0].backend, "tensorrt-rtx") == 0 && strcmp(it.engines[0].capabilities[1], "12.0") == 0);
    CHECK(strcmp(it.engines[0].round_plan, "report/round.engine") == 0);
    CHECK(fr_tensor_bytes(&it.engines[0].plain.states[0].tensor) == 2 * 70 * 8 * 2);
    fr_arena_free(&arena);
}

/* A bundle with prompt lookup and these widths; with the good body's engine for GPUs, or without one. */
static forerun_status open_with_lookup(const char *widths, bool on_gpu, fr_manifest *out) {
    static char body[8192];
    const char *fields = replaced("\"lookup_len\": 0, \"lookup_match\": 0", "\"lookup_len\": 6, \"lookup_match\": 4");
    const char *at = strstr(fields, "[2, 5]"), *engine = strstr(fields, ", {\"backend\": \"tensorrt-rtx\"");
    REQUIRE(at != NULL && engine != NULL);
    const char *rest = at + strlen("[2, 5]");
    snprintf(body, sizeof body, "%.*s%s%.*s%s", (int)(at - fields), fields, widths,
             (int)(on_gpu ? strlen(rest) : (size_t)(engine - rest)), rest, on_gpu ? "" : "],\n");
    write_sealed(body);
    return open_manifest(out);
}

static void reads_prompt_lookup(void) {
    fr_manifest it = {0};
    write_good();
    CHECK(open_with_lookup("[2, 5, 7]", false, &it) == FORERUN_OK);
    CHECK(it.model.lookup_len == 6 && it.model.lookup_match == 4 && it.model.n_verify_widths == 3);
    CHECK(open_with_lookup("[2, 7]", false, NULL) == FORERUN_BUNDLE_ERROR); /* no width of the drafter's own drafts */
    CHECK_HAS(error.message, "model.verify_widths: expected widths from 2, ascending, among them draft_len + 1");
    CHECK(open_with_lookup("[2, 5, 8]", false, NULL) == FORERUN_BUNDLE_ERROR);
    CHECK(open_with_lookup("[2, 5, 7]", true, NULL) == FORERUN_BUNDLE_ERROR);
    CHECK_HAS(error.message, "engines: expected none for a GPU beside prompt lookup, found tensorrt-rtx");
}

static void refuses_fields(void) {
    static const struct {
        const char *from, *to, *message;
    } cases[] = {
        {"\"format\": 5", "\"format\": 3", "has format 3, this runtime reads format 5"},
        {"\"format\": 5", "\"format\": \"1\"", "manifest.format: expected"},
        {"\"format\": 5,", "", "manifest.format: expected"},
        {"\"round.onnx\"", "\"../round.onnx\"", "does not stay inside"},
        {"\"round.onnx\"", "\"/etc/passwd\"", "does not stay inside"},
        {"\"round.onnx\"", "\"a/../../b\"", "does not stay inside"},
        {"\"round.onnx\"", "\"a\\\\b\"", "does not stay inside"},
        {"\"round.onnx\"", "\"\"", "does not stay inside"},
        {"\"round.onnx\"", "\"a//b\"", "does not stay inside"},
        {"\"round.onnx\"", "\"./a\"", "does not stay inside"},
        {"\"report/plot.txt\"", "\"report/none.txt\"", "report/none.txt: cannot be read"},
        {"\"file\": \"round.onnx\"", "\"file\": \"other.onnx\"", "expected \"other.onnx\" among its files"},
        {"\"size\": 9", "\"size\": 10", "round.onnx: expected 10 bytes, found 9"},
        {"\"size\": 9", "\"size\": -1", "files.size: expected an integer from 0"},
        {"\"sha256\": \"", "\"sha256\": \"z", "files.sha256: expected 64"},
        {"\"vocab_size\": 300", "\"vocab_size\": 0", "model.vocab_size: expected an integer from 1"},
        {"\"vocab_size\": 300", "\"vocab_size\": 256", "model.eos_token_ids: expected token ids below vocab_size"},
        {"\"vocab_size\": 300", "\"vocab_size\": 99999999999999999999", "model.vocab_size"},
        {"\"draft_len\": 4", "\"draft_len\": 8", "model.block_size: expected an integer from 8"},
        {"\"draft_len\": 4", "\"draft_len\": 100000", "model.draft_len"},
        {"\"capacity\": 64", "\"capacity\": 65", "model.cache_rows: expected an integer from 71"},
        {"\"capacity\": 64", "\"capacity\": 1", "model.capacity"},
        {"\"cache_rows\": 70", "\"cache_rows\": 71", "caches of model.cache_rows rows"},
        {"\"prefill_chunk\": 16", "\"prefill_chunk\": 0", "model.prefill_chunk"},
        {"[2, 5]", "[]", "model.verify_widths: expected widths from 2, ascending, among them draft_len + 1"},
        {"[2, 5]", "[1, 5]", "model.verify_widths: expected widths from 2"},
        {"[2, 5]", "[2, 2, 5]", "model.verify_widths: expected widths from 2"},
        {"[2, 5]", "[2, 4]", "model.verify_widths: expected widths from 2"},
        {"[2, 5]", "[2, 5, 6]", "model.verify_widths: expected widths from 2"},
        {"[2, 5]", "[2, \"5\"]", "model.verify_widths: expected widths from 2"},
        {"[2, 5]", "5", "model.verify_widths: expected a list"},
        {"\"lookup_len\": 0, ", "", "model.lookup_len: expected"},
        {"\"lookup_len\": 0", "\"lookup_len\": 64", "model.lookup_len: expected an integer from 0"},
        {"\"lookup_len\": 0", "\"lookup_len\": 3", "model.lookup_match: expected an integer from 1"},
        {"\"lookup_match\": 0", "\"lookup_match\": 4", "model.lookup_match: expected an integer from 0"},
        {"\"lookup_len\": 0, \"lookup_match\": 0", "\"lookup_len\": 6, \"lookup_match\": 4",
         "model.verify_widths: expected widths from 2"},
        {"\"lookup_len\": 0, \"lookup_match\": 0", "\"lookup_len\": 7, \"lookup_match\": 4",
         "model.cache_rows: expected an integer from 71"},
        {"\"bos_token_id\": null", "\"bos_token_id\": 300", "model.bos_token_id"},
        {"\"dtype\": \"float32\"", "\"dtype\": \"float64\"",
         "graphs.round.dtype: expected int64, float32, float16, bfloat16 or int8, found float64"},
        {"\"engines\": [", "\"engine\": [", "manifest.engines: expected a list"},
        {"\"built\": []", "\"built\": 1", "engines.built: expected a list"},
        {"\"folder\": \"report\"", "\"folder\": \"other\"", "expected \"other/round.engine\" among its files"},
        {"\"library\": \"1.7.1.116\"", "\"library\": 1", "engines.built.library: expected a string"},
        {"[\"8.9\"", "[8", "engines.built.compute_capability: expected texts such as 8.9"},
        {"[1, 2, 70, 8]", "[1, 2, \"T\", 8]", "fixed shapes"},
        {"[1, 2, 70, 8]", "[1, 2, 69]", "caches of model.cache_rows rows"}, /* the scales of one */
        {"[1, 2, 70, 8]", "[1, 4611686018427387904, 70, 8]", "less than 2^44 elements"},
        {"[1, 2, 70, 8]", "[1, 0, 70, 8]", "sizes of at least 1"},
        {"[1, 2, 70, 8]", "[1, 1, 1, 1, 1, 1, 1, 1, 1]", "at most 8 dimensions"},
        {"[1, 2, 70, 8]", "[1, 2, 70, 8.5]", "sizes of at least 1"},
        {"\"graphs\": {", "\"graphs\": [], \"graph\": {", "manifest.graphs: expected an object"},
        {"\"plain\": {", "\"plan\": {", "graphs.plain: expected an object, found nothing"},
        {"\"model\": {", "\"model\": [{", "is not valid JSON"},
        {"\"vocab.bin\": {", "\"vocab.txt\": {", "expected \"vocab.bin\" among its files"},
        {"\"states\": [", "\"states\": [7, ", "graphs.round.name: expected a string"},
    };
    write_good();
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        write_sealed(replaced(cases[i].from, cases[i].to));
        forerun_status status = open_manifest(NULL);
        CHECK(status == FORERUN_BUNDLE_ERROR || status == FORERUN_FILE_ERROR);
        CHECK_HAS(error.message, cases[i].message);
        CHECK_HAS(error.message, folder);
    }
}

/* Every single bit of every file. */
static void refuses_flipped_bits(void) {
    static char text[16384];
    write_good();
    size_t length = seal(text, good_body(), strlen(good_body()));
    for (size_t at = 0; at < length; at++) {
        text[at] = (char)(text[at] ^ (1 << at % 8));
        fr_arena arena = {0};
        fr_manifest it = {0};
        CHECK(fr_manifest_parse(&arena, "X/manifest.json", text, length, &it, &error) == FORERUN_BUNDLE_ERROR);
        CHECK_HAS(error.message, "X/manifest.json");
        fr_arena_free(&arena);
        text[at] = (char)(text[at] ^ (1 << at % 8));
    }
    write_file("manifest.json", text, length);
    for (size_t i = 0; i < 3; i++) {
        char data[64];
        size_t size = strlen(CONTENTS[i]);
        memcpy(data, CONTENTS[i], size);
        for (size_t bit = 0; bit < 8 * size; bit++) {
            data[bit / 8] = (char)(data[bit / 8] ^ (1 << bit % 8));
            write_file(NAMES[i], data, size);
            CHECK(open_manifest(NULL) == FORERUN_BUNDLE_ERROR);
            CHECK_HAS(error.message, NAMES[i]);
            CHECK_HAS(error.message, "expected SHA-256");
            data[bit / 8] = (char)(data[bit / 8] ^ (1 << bit % 8));
        }
        write_file(NAMES[i], data, size);
    }
    CHECK(open_manifest(NULL) == FORERUN_OK);
}

static void refuses_cut_missing_and_replaced_files(void) {
    static char text[16384];
    char path[256];
    size_t length = seal(text, good_body(), strlen(good_body()));
    for (size_t cut = 0; cut < length; cut += 37) {
        write_good();
        write_file("manifest.json", text, cut);
        CHECK(open_manifest(NULL) == FORERUN_BUNDLE_ERROR);
        CHECK_HAS(error.message, "manifest.json");
    }
    for (size_t i = 0; i < 3; i++) {
        write_good();
        write_file(NAMES[i], CONTENTS[i], strlen(CONTENTS[i]) - 1);
        CHECK(open_manifest(NULL) == FORERUN_BUNDLE_ERROR);
        CHECK_HAS(error.message, NAMES[i]);
        CHECK_HAS(error.message, "bytes, found");
        snprintf(path, sizeof path, "%s/%s", folder, NAMES[i]);
        REQUIRE(unlink(path) == 0);
        CHECK(open_manifest(NULL) == FORERUN_FILE_ERROR);
        CHECK_HAS(error.message, NAMES[i]);
        REQUIRE(symlink("/etc/hostname", path) == 0);
        CHECK(open_manifest(NULL) == FORERUN_BUNDLE_ERROR);
        CHECK_HAS(error.message, "symbolic link");
        REQUIRE(unlink(path) == 0 && mkfifo(path, 0600) == 0);
        CHECK(open_manifest(NULL) == FORERUN_BUNDLE_ERROR); /* and it does not wait for a writer */
        CHECK_HAS(error.message, "regular file");
        REQUIRE(unlink(path) == 0);
    }
    write_good();
}

/* Random edits, sealed again: what is behind the seal must stand hostile input too. */
static void survives_resealed_mutations(void) {
    static char text[16384];
    static const char interesting[] = "{}[]\",:0123456789-.eT\\n";
    uint64_t random = 99;
    for (int trial = 0; trial < 4000; trial++) {
        char body[8192];
        size_t length = strlen(good_body());
        memcpy(body, good_body(), length);
        for (uint64_t edits = 1 + next_random(&random) % 3; edits > 0; edits--) {
            size_t at = next_random(&random) % length;
            if (next_random(&random) % 3 == 0) { /* drop a piece */
                size_t n = next_random(&random) % 40;
                n = n < length - at ? n : length - at - 1;
                memmove(body + at, body + at + n, length - at - n);
                length -= n;
            } else {
                body[at] = interesting[next_random(&random) % (sizeof interesting - 1)];
            }
        }
        fr_arena arena = {0};
        fr_manifest it = {0};
        error.message[0] = '\0';
        size_t sealed = seal(text, body, length);
        forerun_status status = fr_manifest_parse(&arena, "manifest.json", text, sealed, &it, &error);
        CHECK(status == FORERUN_OK || (status == FORERUN_BUNDLE_ERROR && strlen(error.message) > 20));
        if (status == FORERUN_OK) /* what the loop relies on holds for everything that is let through */
            CHECK(it.model.cache_rows >= it.model.capacity + it.model.draft_len && it.model.prefill_chunk >= 1 &&
                  it.model.draft_len >= 1 && (it.round.file == NULL || it.round.states != NULL));
        fr_arena_free(&arena);
    }
}

int main(void) {
    REQUIRE(mkdtemp(folder) != NULL);
    char path[256];
    snprintf(path, sizeof path, "%s/report", folder);
    REQUIRE(mkdir(path, 0700) == 0);
    reads_a_good_bundle();
    reads_prompt_lookup();
    refuses_fields();
    refuses_flipped_bits();
    refuses_cut_missing_and_replaced_files();
    survives_resealed_mutations();
    for (size_t i = 0; i < FILES; i++) {
        snprintf(path, sizeof path, "%s/%s", folder, NAMES[i]);
        unlink(path);
    }
    snprintf(path, sizeof path, "%s/manifest.json", folder);
    unlink(path);
    snprintf(path, sizeof path, "%s/report", folder);
    rmdir(path);
    rmdir(folder);
    return check_failures != 0;
}
