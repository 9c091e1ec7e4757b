#include "manifest_fields.h"

#include <inttypes.h>
#include <stdio.h>

void fr_field_wrong(fr_fields *in, const char *name, const char *expected, const fr_json *found) {
    if (in->status != FORERUN_OK)
        return;
    const char *what = found == NULL ? "nothing" : fr_json_kind_name(found->kind);
    char number[32];
    if (found != NULL && found->kind == FR_JSON_INTEGER) {
        snprintf(number, sizeof number, "%" PRId64, found->integer);
        what = number;
    } else if (found != NULL && found->kind == FR_JSON_STRING) {
        what = found->text;
    }
    in->status = fr_fail(in->error, FORERUN_BUNDLE_ERROR,
                         "%s: %s.%s: expected %s, found %.80s. Build the bundle again with this version of forerun.",
                         in->where, in->section, name, expected, what);
}

void *fr_field_take(fr_fields *in, size_t count, size_t size) {
    void *memory = fr_arena_take(in->arena, count, size);
    if (memory == NULL && in->status == FORERUN_OK)
        in->status = fr_fail(in->error, FORERUN_OUT_OF_MEMORY, "No memory to read %s.", in->where);
    return memory;
}

int64_t fr_field_integer(fr_fields *in, const fr_json *parent, const char *name, int64_t low, int64_t high) {
    const fr_json *value = fr_json_get(parent, name);
    if (value != NULL && value->kind == FR_JSON_INTEGER && value->integer >= low && value->integer <= high)
        return value->integer;
    char expected[64];
    snprintf(expected, sizeof expected, "an integer from %" PRId64 " to %" PRId64, low, high);
    fr_field_wrong(in, name, expected, value);
    return low;
}

const char *fr_field_string(fr_fields *in, const fr_json *parent, const char *name) {
    const fr_json *value = fr_json_get(parent, name);
    if (value != NULL && value->kind == FR_JSON_STRING)
        return value->text;
    fr_field_wrong(in, name, "a string", value);
    return "";
}

const fr_json *fr_field_container(fr_fields *in, const fr_json *parent, const char *name, fr_json_kind kind) {
    const fr_json *value = fr_json_get(parent, name);
    if (value != NULL && value->kind == kind)
        return value;
    fr_field_wrong(in, name, fr_json_kind_name(kind), value);
    return NULL;
}
