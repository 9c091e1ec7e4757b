/* Reading the fields of a JSON object with messages that say where and what was expected. */
#ifndef FORERUN_MANIFEST_FIELDS_H
#define FORERUN_MANIFEST_FIELDS_H

#include "json.h"

/* Where a field is read from. The first failure sticks and later reads do nothing, so a caller checks once. */
typedef struct fr_fields {
    fr_arena *arena;
    const char *where;
    const char *section;
    forerun_error *error;
    forerun_status status;
} fr_fields;

/* Records that `section.name` is not as expected; `found` may be NULL. */
void fr_field_wrong(fr_fields *in, const char *name, const char *expected, const fr_json *found);

/* Arena memory; NULL and a recorded failure when there is none. */
void *fr_field_take(fr_fields *in, size_t count, size_t size);

/* The member of that name and kind; else records a failure and gives `low`, "" or NULL. */
int64_t fr_field_integer(fr_fields *in, const fr_json *parent, const char *name, int64_t low, int64_t high);
const char *fr_field_string(fr_fields *in, const fr_json *parent, const char *name);
const fr_json *fr_field_container(fr_fields *in, const fr_json *parent, const char *name, fr_json_kind kind);

#endif
