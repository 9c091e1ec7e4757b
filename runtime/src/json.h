/* A small JSON reader for files that may be hostile: bounded depth, no recursion beyond it, no unchecked arithmetic.
 * It reads RFC 8259; integers that fit int64 have a value, other numbers are recognised but carry none (nothing in a
 * manifest that the runtime needs is fractional, and strtod depends on the locale). */
#ifndef FORERUN_JSON_H
#define FORERUN_JSON_H

#include "arena.h"
#include "status.h"

#include <stdbool.h>

typedef enum fr_json_kind {
    FR_JSON_NULL,
    FR_JSON_BOOL,
    FR_JSON_INTEGER,
    FR_JSON_NUMBER, /* fractional, or too large for int64: no value */
    FR_JSON_STRING,
    FR_JSON_ARRAY,
    FR_JSON_OBJECT
} fr_json_kind;

/* One value. Members of an object and elements of an array are chained by `next`. */
typedef struct fr_json {
    fr_json_kind kind;
    const char *key;  /* of a member; else NULL. Zero terminated UTF-8 without inner zeros, as is `text` */
    const char *text; /* STRING */
    int64_t integer;  /* INTEGER, and BOOL as 0 or 1 */
    size_t count;     /* ARRAY, OBJECT */
    struct fr_json *first;
    struct fr_json *next;
} fr_json;

enum { FR_JSON_MAX_DEPTH = 32 };

/* Parses text[0 .. length-1] into the arena. `what` names the text in messages. */
forerun_status fr_json_parse(fr_arena *arena, const char *what, const char *text, size_t length, fr_json **out,
                             forerun_error *error);

/* The member `key` of `object`; NULL when `object` is no object or has no such member. The first one wins. */
const fr_json *fr_json_get(const fr_json *object, const char *key);

const char *fr_json_kind_name(fr_json_kind kind);

#endif
