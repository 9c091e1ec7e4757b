/* Text of a manifest -> fr_manifest. */
#include "manifest.h"

#include "manifest_fields.h"
#include "manifest_graph.h"
#include "sha256.h"

#include <inttypes.h>
#include <string.h>

#define SEAL_PREFIX "  \"seal\": \""
#define SEAL_SUFFIX "\"\n}\n"

static void read_end_tokens(fr_fields *in, const fr_json *model, fr_model *out) {
    const fr_json *list = fr_field_container(in, model, "eos_token_ids", FR_JSON_ARRAY);
    if (list == NULL || (out->eos_token_ids = fr_field_take(in, list->count, sizeof(int64_t))) == NULL)
        return;
    for (const fr_json *item = list->first; item != NULL; item = item->next) {
        if (item->kind != FR_JSON_INTEGER || item->integer < 0 || item->integer >= out->vocab_size)
            fr_field_wrong(in, "eos_token_ids", "token ids below vocab_size", item);
        out->eos_token_ids[out->n_eos_token_ids++] = item->integer;
    }
    const fr_json *bos = fr_json_get(model, "bos_token_id");
    out->bos_token_id = -1;
    if (bos == NULL || bos->kind != FR_JSON_NULL)
        out->bos_token_id = fr_field_integer(in, model, "bos_token_id", 0, out->vocab_size - 1);
}

int64_t fr_verify_len(const fr_model *model) {
    return model->draft_len > model->lookup_len ? model->draft_len : model->lookup_len;
}

size_t fr_verify_width(const fr_model *model, int64_t n_draft) {
    for (size_t i = 0; i < model->n_verify_widths; i++)
        if (model->verify_widths[i] > n_draft)
            return (size_t)model->verify_widths[i];
    return (size_t)fr_verify_len(model) + 1;
}

static void read_widths(fr_fields *in, const fr_json *model, fr_model *out) {
    static const char EXPECTED[] =
        "widths from 2, ascending, among them draft_len + 1, the last the larger of draft_len and lookup_len, + 1";
    const fr_json *list = fr_field_container(in, model, "verify_widths", FR_JSON_ARRAY);
    if (list == NULL || (out->verify_widths = fr_field_take(in, list->count, sizeof(int64_t))) == NULL)
        return;
    int64_t before = 1;
    bool holds_draft = false;
    for (const fr_json *item = list->first; item != NULL; item = item->next) {
        if (item->kind != FR_JSON_INTEGER || item->integer <= before)
            fr_field_wrong(in, "verify_widths", EXPECTED, item);
        out->verify_widths[out->n_verify_widths++] = before = item->integer;
        holds_draft = holds_draft || before == out->draft_len + 1;
    }
    if (!holds_draft || before != fr_verify_len(out) + 1)
        fr_field_wrong(in, "verify_widths", EXPECTED, list);
}

static void read_model(fr_fields *in, const fr_json *root, fr_model *out) {
    const int64_t most = INT32_MAX; /* vocabularies and contexts stay far below; sums of them cannot overflow */
    in->section = "manifest";
    const fr_json *model = fr_field_container(in, root, "model", FR_JSON_OBJECT);
    in->section = "model";
    out->name = fr_field_string(in, model, "name");
    out->target_architecture = fr_field_string(in, model, "target_architecture");
    out->drafter_family = fr_field_string(in, model, "drafter_family");
    out->vocab_size = fr_field_integer(in, model, "vocab_size", 1, most);
    out->draft_len = fr_field_integer(in, model, "draft_len", 1, FR_MAX_DRAFT);
    out->lookup_len = fr_field_integer(in, model, "lookup_len", 0, FR_MAX_LOOKUP);
    const bool lookup = out->lookup_len > 0;
    out->lookup_match = fr_field_integer(in, model, "lookup_match", lookup ? 1 : 0, lookup ? FR_MAX_MATCH : 0);
    out->block_size = fr_field_integer(in, model, "block_size", out->draft_len, most);
    out->capacity = fr_field_integer(in, model, "capacity", 2, most);
    out->prefill_chunk = fr_field_integer(in, model, "prefill_chunk", 1, most);
    /* A round writes M + 1 rows, the first of them below `capacity`; then the drafter may write its whole block from
     * the anchor's row on, which is below `capacity` as well. */
    int64_t widest = fr_verify_len(out) + 1, spare = widest > out->block_size ? widest : out->block_size;
    out->cache_rows = fr_field_integer(in, model, "cache_rows", out->capacity + spare - 1, 2 * most);
    read_widths(in, model, out);
    read_end_tokens(in, model, out);
}

static bool read_digest(const char *hex, unsigned char digest[32]) {
    static const char digits[] = "0123456789abcdef";
    if (strlen(hex) != 64 || strspn(hex, digits) != 64)
        return false;
    for (size_t i = 0; i < 32; i++)
        digest[i] =
            (unsigned char)((strchr(digits, hex[2 * i]) - digits) * 16 + (strchr(digits, hex[2 * i + 1]) - digits));
    return true;
}

/* A relative path of plain parts: it cannot leave the folder (links are refused when the file is opened). */
static bool stays_inside(const char *name) {
    if (strchr(name, '\\') != NULL || strchr(name, ':') != NULL || strlen(name) > 1000)
        return false;
    for (const char *part = name;; part++) {
        size_t length = strcspn(part, "/");
        if (length == 0 || (length <= 2 && strspn(part, ".") >= length))
            return false;
        part += length;
        if (*part == '\0')
            return true;
    }
}

static void read_files(fr_fields *in, const fr_json *root, fr_manifest *out) {
    in->section = "manifest";
    const fr_json *list = fr_field_container(in, root, "files", FR_JSON_OBJECT);
    in->section = "files";
    if (list == NULL || (out->files = fr_field_take(in, list->count, sizeof *out->files)) == NULL)
        return;
    for (const fr_json *item = list->first; item != NULL && in->status == FORERUN_OK; item = item->next) {
        fr_file *file = &out->files[out->n_files++];
        file->name = item->key;
        if (!stays_inside(file->name))
            in->status = fr_fail(in->error, FORERUN_BUNDLE_ERROR,
                                 "%s: files: the name \"%.80s\" does not stay inside the bundle; expected a plain "
                                 "relative name. Do not use this bundle; build it again.",
                                 in->where, file->name);
        file->size = fr_field_integer(in, item, "size", 0, INT64_MAX);
        if (!read_digest(fr_field_string(in, item, "sha256"), file->sha256))
            fr_field_wrong(in, "sha256", "64 lower-case hex digits", fr_json_get(item, "sha256"));
    }
}

/* Every file that the runtime will hand on must be one whose bytes were checked. */
static void check_listed(fr_fields *in, const fr_manifest *manifest, const char *name) {
    for (size_t i = 0; i < manifest->n_files; i++)
        if (strcmp(manifest->files[i].name, name) == 0)
            return;
    if (in->status == FORERUN_OK)
        in->status = fr_fail(in->error, FORERUN_BUNDLE_ERROR,
                             "%s: expected \"%.80s\" among its files, found no such entry. Build the bundle again.",
                             in->where, name);
}

/* A future format may be sealed in another way, so its number is looked at first. */
static forerun_status check_format(const fr_json *root, const char *where, forerun_error *error) {
    const fr_json *format = fr_json_get(root, "format");
    if (format == NULL || format->kind != FR_JSON_INTEGER || format->integer == FR_FORMAT)
        return FORERUN_OK;
    return fr_fail(error, FORERUN_BUNDLE_ERROR,
                   "%s: the bundle has format %" PRId64
                   ", this runtime reads format %d. Build it again with forerun %s, "
                   "or install the version that built it.",
                   where, format->integer, FR_FORMAT, FORERUN_VERSION);
}

static forerun_status check_seal(const char *where, const char *text, size_t length, forerun_error *error) {
    const size_t prefix = strlen(SEAL_PREFIX), suffix = strlen(SEAL_SUFFIX), tail = prefix + 64 + suffix;
    if (length < tail || memcmp(text + length - tail, SEAL_PREFIX, prefix) != 0 ||
        memcmp(text + length - suffix, SEAL_SUFFIX, suffix) != 0)
        return fr_fail(
            error, FORERUN_BUNDLE_ERROR,
            "%s: expected a seal in its last lines, found none: the file is cut short, damaged or not written "
            "by forerun. Build the bundle again.",
            where);
    unsigned char digest[32];
    char hex[65];
    fr_sha256 hash;
    fr_sha256_begin(&hash);
    fr_sha256_add(&hash, text, length - tail);
    fr_sha256_end(&hash, digest);
    fr_sha256_hex(digest, hex);
    const char *found = text + length - suffix - 64;
    if (memcmp(found, hex, 64) == 0)
        return FORERUN_OK;
    return fr_fail(
        error, FORERUN_BUNDLE_ERROR,
        "%s: damaged or edited by hand: its seal says SHA-256 %.64s, its bytes have %s. Build the bundle again.", where,
        found, hex);
}

forerun_status fr_manifest_parse(fr_arena *arena, const char *where, const char *text, size_t length, fr_manifest *out,
                                 forerun_error *error) {
    fr_json *root = NULL;
    forerun_error syntax = {FORERUN_OK, ""};
    forerun_status status = fr_json_parse(arena, where, text, length, &root, &syntax);
    if (status == FORERUN_OUT_OF_MEMORY)
        return fr_fail(error, status, "%s", syntax.message);
    if (status == FORERUN_OK && (status = check_format(root, where, error)) != FORERUN_OK)
        return status;
    if ((status = check_seal(where, text, length, error)) != FORERUN_OK)
        return status;
    if (root == NULL)
        return fr_fail(error, syntax.status, "%s", syntax.message);
    fr_fields in = {.arena = arena, .where = where, .section = "manifest", .error = error};
    fr_field_integer(&in, root, "format", FR_FORMAT, FR_FORMAT);
    read_files(&in, root, out);
    read_model(&in, root, &out->model);
    in.section = "manifest";
    const fr_json *graphs = fr_field_container(&in, root, "graphs", FR_JSON_OBJECT);
    if (graphs != NULL && graphs->count > 0) /* a bundle for GPUs alone has none */
        fr_field_graphs(&in, graphs, "graphs", out->model.cache_rows, &out->round, &out->plain);
    fr_field_engines(&in, root, out);
    if (in.status == FORERUN_OK && out->n_engines > 0 && out->model.lookup_len > 0)
        in.status = fr_fail(error, FORERUN_BUNDLE_ERROR,
                            "%s: engines: expected none for a GPU beside prompt lookup, found %.80s: its rounds keep "
                            "their draft tokens on the device. Leave prompt_lookup or that engine out of the recipe "
                            "and build the bundle again.",
                            where, out->engines[0].backend);
    if (in.status != FORERUN_OK)
        return in.status;
    if (out->round.file != NULL) {
        check_listed(&in, out, out->round.file);
        check_listed(&in, out, out->plain.file);
    }
    for (size_t i = 0; i < out->n_engines; i++) {
        check_listed(&in, out, out->engines[i].round_plan);
        check_listed(&in, out, out->engines[i].plain_plan);
    }
    check_listed(&in, out, "vocab.bin");
    return in.status;
}
