#include "json.h"

#include "json_string.h"

#include <string.h>

static void skip_space(fr_reader *in) {
    for (int c = fr_json_peek(in); c == ' ' || c == '\t' || c == '\n' || c == '\r'; c = fr_json_peek(in))
        in->at++;
}

static size_t skip_digits(fr_reader *in) {
    size_t start = in->at;
    while (fr_json_peek(in) >= '0' && fr_json_peek(in) <= '9')
        in->at++;
    return in->at - start;
}

static forerun_status read_number(fr_reader *in, fr_json *out) {
    bool negative = fr_json_take(in, "-");
    size_t start = in->at;
    size_t digits = skip_digits(in);
    if (digits == 0 || (digits > 1 && in->text[start] == '0'))
        return fr_json_broken(in, "a malformed number");
    out->kind = FR_JSON_INTEGER;
    for (size_t i = start; i < start + digits; i++) {
        int64_t digit = in->text[i] - '0';
        if (out->integer > (INT64_MAX - digit) / 10) {
            out->kind = FR_JSON_NUMBER;
            break;
        }
        out->integer = out->integer * 10 + digit;
    }
    if (negative)
        out->integer = -out->integer;
    if (fr_json_take(in, ".")) {
        out->kind = FR_JSON_NUMBER;
        if (skip_digits(in) == 0)
            return fr_json_broken(in, "a malformed number");
    }
    if (fr_json_take(in, "e") || fr_json_take(in, "E")) {
        out->kind = FR_JSON_NUMBER;
        if (!fr_json_take(in, "+"))
            fr_json_take(in, "-");
        if (skip_digits(in) == 0)
            return fr_json_broken(in, "a malformed number");
    }
    if (out->kind == FR_JSON_NUMBER)
        out->integer = 0;
    return FORERUN_OK;
}

static forerun_status read_value(fr_reader *in, int depth, fr_json **out);

/* Array or object, its opening bracket consumed. */
static forerun_status read_items(fr_reader *in, int depth, fr_json *parent, const char *close) {
    fr_json **tail = &parent->first;
    skip_space(in);
    if (fr_json_take(in, close))
        return FORERUN_OK;
    for (;;) {
        const char *key = NULL;
        skip_space(in);
        if (parent->kind == FR_JSON_OBJECT) {
            forerun_status status = fr_json_string(in, &key);
            if (status != FORERUN_OK)
                return status;
            skip_space(in);
            if (!fr_json_take(in, ":"))
                return fr_json_broken(in, "expected ':' after a name");
        }
        fr_json *item = NULL;
        forerun_status status = read_value(in, depth + 1, &item);
        if (status != FORERUN_OK)
            return status;
        item->key = key;
        *tail = item;
        tail = &item->next;
        parent->count++;
        skip_space(in);
        if (fr_json_take(in, close))
            return FORERUN_OK;
        if (!fr_json_take(in, ","))
            return fr_json_broken(in, "expected ',' or a closing bracket");
    }
}

static forerun_status read_value(fr_reader *in, int depth, fr_json **out) {
    if (depth > FR_JSON_MAX_DEPTH)
        return fr_json_broken(in, "nested too deeply");
    fr_json *value = fr_arena_take(in->arena, 1, sizeof *value);
    if (value == NULL)
        return fr_fail(in->error, FORERUN_OUT_OF_MEMORY, "No memory to read %s.", in->what);
    *out = value;
    skip_space(in);
    int c = fr_json_peek(in);
    if (c == '"') {
        value->kind = FR_JSON_STRING;
        return fr_json_string(in, &value->text);
    }
    if (c == '-' || (c >= '0' && c <= '9'))
        return read_number(in, value);
    if (fr_json_take(in, "{")) {
        value->kind = FR_JSON_OBJECT;
        return read_items(in, depth, value, "}");
    }
    if (fr_json_take(in, "[")) {
        value->kind = FR_JSON_ARRAY;
        return read_items(in, depth, value, "]");
    }
    value->kind = FR_JSON_BOOL;
    if (fr_json_take(in, "true")) {
        value->integer = 1;
        return FORERUN_OK;
    }
    if (fr_json_take(in, "false"))
        return FORERUN_OK;
    value->kind = FR_JSON_NULL;
    if (fr_json_take(in, "null"))
        return FORERUN_OK;
    return fr_json_broken(in, "expected a value");
}

forerun_status fr_json_parse(fr_arena *arena, const char *what, const char *text, size_t length, fr_json **out,
                             forerun_error *error) {
    fr_reader in = {.arena = arena, .what = what, .text = text, .length = length, .error = error};
    fr_json *value = NULL;
    forerun_status status = read_value(&in, 0, &value);
    if (status != FORERUN_OK)
        return status;
    skip_space(&in);
    if (in.at != in.length)
        return fr_json_broken(&in, "something follows the end");
    *out = value;
    return FORERUN_OK;
}

const fr_json *fr_json_get(const fr_json *object, const char *key) {
    if (object == NULL || object->kind != FR_JSON_OBJECT)
        return NULL;
    for (const fr_json *item = object->first; item != NULL; item = item->next)
        if (strcmp(item->key, key) == 0)
            return item;
    return NULL;
}

const char *fr_json_kind_name(fr_json_kind kind) {
    static const char *const names[] = {"null",     "a boolean", "an integer", "a number",
                                        "a string", "a list",    "an object"};
    return names[kind];
}
