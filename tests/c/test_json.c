#include "check.h"
#include "json.h"

static forerun_status parse(fr_arena *arena, const char *text, size_t length, fr_json **out, forerun_error *error) {
    *out = NULL;
    /* An exact heap copy, so that reading one byte too far is seen by the sanitizer. */
    char *copy = malloc(length + (length == 0));
    REQUIRE(copy != NULL);
    memcpy(copy, text, length);
    forerun_status status = fr_json_parse(arena, "it", copy, length, out, error);
    free(copy);
    return status;
}

static void reads_every_kind(void) {
    static const char text[] =
        " {\"a\": [1, -2, 9223372036854775807, 9223372036854775808, 1.5e-3, true, false, null],\n"
        "\"b\": {\"c\": \"x\\n\\u00e9\\ud83d\\ude42\\\"/\"}, \"\": []}\n";
    fr_arena arena = {0};
    forerun_error error;
    fr_json *root;
    REQUIRE(parse(&arena, text, strlen(text), &root, &error) == FORERUN_OK);
    const fr_json *item = fr_json_get(root, "a");
    REQUIRE(item != NULL && item->count == 8);
    static const struct {
        fr_json_kind kind;
        int64_t integer;
    } expected[8] = {{FR_JSON_INTEGER, 1}, {FR_JSON_INTEGER, -2}, {FR_JSON_INTEGER, INT64_MAX},
                     {FR_JSON_NUMBER, 0},  {FR_JSON_NUMBER, 0},   {FR_JSON_BOOL, 1},
                     {FR_JSON_BOOL, 0},    {FR_JSON_NULL, 0}};
    item = item->first;
    for (int i = 0; i < 8; i++, item = item->next) {
        CHECK_INT(item->kind, expected[i].kind);
        CHECK_INT(item->integer, expected[i].integer);
    }
    const fr_json *text_value = fr_json_get(fr_json_get(root, "b"), "c");
    REQUIRE(text_value != NULL && text_value->kind == FR_JSON_STRING);
    CHECK(strcmp(text_value->text, "x\n\xC3\xA9\xF0\x9F\x99\x82\"/") == 0);
    CHECK(fr_json_get(root, "") != NULL && fr_json_get(root, "")->count == 0);
    CHECK(fr_json_get(root, "none") == NULL);
    CHECK(fr_json_get(text_value, "a") == NULL && fr_json_get(NULL, "a") == NULL);
    fr_arena_free(&arena);
}

static void refuses_what_is_no_json(void) {
    static const char *const bad[] = {
        "",
        " ",
        "{",
        "}",
        "[",
        "[1",
        "[1,",
        "[1,]",
        "{\"a\"}",
        "{\"a\":}",
        "{\"a\":1,}",
        "{a:1}",
        "{1:1}",
        "01",
        "-",
        "+1",
        "1.",
        ".5",
        "1e",
        "1e+",
        "tru",
        "nul",
        "\"",
        "\"\\\"",
        "\"\\x\"",
        "\"\\u12\"",
        "\"\\u12g4\"",
        "\"\\ud800\"",
        "\"\\udc00\"",
        "\"\\ud800\\u0041\"",
        "\"\\u0000\"",
        "\"\n\"",
        "\"\x80\"",
        "\"\xC3\"",
        "\"\xC0\x80\"",
        "\"\xED\xA0\x80\"",
        "\"\xF4\x90\x80\x80\"",
        "\"\xE0\x80\x80\"",
        "\"\xFF\"",
        "1 2",
        "[] x",
        "nan",
        "Infinity",
        "'a'",
        "\xEF\xBB\xBF{}",
        "{\"a\":1 \"b\":2}",
        "[1 2]",
        "--1",
        "\"a\\",
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        fr_arena arena = {0};
        forerun_error error = {FORERUN_OK, ""};
        fr_json *root;
        if (parse(&arena, bad[i], strlen(bad[i]), &root, &error) != FORERUN_BUNDLE_ERROR) {
            check_failures++;
            printf("accepted: %s\n", bad[i]);
        }
        CHECK_HAS(error.message, "it is not valid JSON");
        CHECK(root == NULL);
        fr_arena_free(&arena);
    }
}

static void bounds_the_depth(void) {
    char text[20002];
    forerun_error error;
    fr_json *root;
    fr_arena arena = {0};
    memset(text, '[', sizeof text);
    CHECK(parse(&arena, text, sizeof text, &root, &error) == FORERUN_BUNDLE_ERROR);
    CHECK_HAS(error.message, "too deeply");
    memset(text + FR_JSON_MAX_DEPTH, ']', FR_JSON_MAX_DEPTH);
    CHECK(parse(&arena, text, 2 * FR_JSON_MAX_DEPTH, &root, &error) == FORERUN_OK);
    fr_arena_free(&arena);
}

static void says_where(void) {
    fr_arena arena = {0};
    forerun_error error;
    fr_json *root;
    CHECK(parse(&arena, "{\n\"a\": 1,\n?}", 12, &root, &error) == FORERUN_BUNDLE_ERROR);
    CHECK_HAS(error.message, "line 3");
    fr_arena_free(&arena);
}

/* Whatever the bytes are, it ends with a tree or a message, and the sanitizer sees no step outside. */
static void survives_mutations(void) {
    static const char seed[] =
        "{\"files\": {\"a.bin\": {\"size\": 12, \"sha256\": \"00ff\"}}, \"x\": [1, -2.5e3, \"\\u00e9\\n\", "
        "null, true, {\"y\": []}], \"\xC3\xA9\": \"\\ud83d\\ude42\"}";
    static const char interesting[] = "{}[]\",:\\u0123456789eE+-. ntf\xC3\xF0\x80\xFF";
    uint64_t random = 42;
    size_t accepted = 0;
    for (int trial = 0; trial < 30000; trial++) {
        char text[sizeof seed * 2];
        size_t length = sizeof seed - 1;
        memcpy(text, seed, length);
        for (uint64_t edits = 1 + next_random(&random) % 4; edits > 0; edits--) {
            size_t at = next_random(&random) % length;
            switch (next_random(&random) % 4) {
            case 0:
                text[at] = (char)next_random(&random);
                break;
            case 1:
                text[at] = interesting[next_random(&random) % (sizeof interesting - 1)];
                break;
            case 2: /* cut */
                length = at + 1;
                break;
            default: /* repeat a piece */
                if (length + 16 < sizeof text) {
                    size_t n = next_random(&random) % (length - at < 16 ? length - at : 16);
                    memmove(text + at + n, text + at, length - at);
                    length += n;
                }
            }
        }
        fr_arena arena = {0};
        forerun_error error = {FORERUN_OK, ""};
        fr_json *root;
        forerun_status status = parse(&arena, text, length, &root, &error);
        CHECK(status == FORERUN_OK ? root != NULL : (status == FORERUN_BUNDLE_ERROR && error.message[0] != '\0'));
        accepted += status == FORERUN_OK;
        fr_arena_free(&arena);
    }
    CHECK(accepted > 100 && accepted < 25000); /* both outcomes are exercised */
}

int main(void) {
    reads_every_kind();
    refuses_what_is_no_json();
    bounds_the_depth();
    says_where();
    survives_mutations();
    return check_failures != 0;
}
