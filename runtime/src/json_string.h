/* Inside the JSON reader: where it stands in its text, and strings. */
#ifndef FORERUN_JSON_STRING_H
#define FORERUN_JSON_STRING_H

#include "json.h"

typedef struct fr_reader {
    fr_arena *arena;
    const char *what; /* names the text in messages */
    const char *text;
    size_t length;
    size_t at;
    forerun_error *error;
} fr_reader;

/* A failure that says where in the text it is. */
forerun_status fr_json_broken(const fr_reader *in, const char *problem);

/* The next byte, -1 at the end. */
int fr_json_peek(const fr_reader *in);

/* Consumes `word` if the text goes on with it. */
bool fr_json_take(fr_reader *in, const char *word);

/* Consumes a string and gives its unescaped text. */
forerun_status fr_json_string(fr_reader *in, const char **out);

#endif
