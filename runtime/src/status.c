#include "status.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

const char *forerun_version(void) {
    return FORERUN_VERSION;
}

const char *forerun_status_name(forerun_status status) {
    switch (status) {
    case FORERUN_OK:
        return "ok";
    case FORERUN_INVALID_ARGUMENT:
        return "invalid argument";
    case FORERUN_INVALID_STATE:
        return "invalid state";
    case FORERUN_OUT_OF_MEMORY:
        return "out of memory";
    case FORERUN_FILE_ERROR:
        return "file error";
    case FORERUN_BUNDLE_ERROR:
        return "bundle error";
    case FORERUN_BACKEND_ERROR:
        return "backend error";
    }
    return "unknown status";
}

/* Drops the tail of a UTF-8 character that vsnprintf cut in two. */
static void trim_partial_character(char *message, size_t length) {
    size_t start = length;
    while (start > 0 && ((unsigned char)message[start - 1] & 0xC0) == 0x80)
        start--;
    if (start == 0)
        return;
    unsigned char lead = (unsigned char)message[start - 1];
    size_t need = lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : lead >= 0xC0 ? 2 : 1;
    if (length - (start - 1) < need)
        message[start - 1] = '\0';
}

forerun_status fr_fail(forerun_error *error, forerun_status status, const char *format, ...) {
    if (error == NULL)
        return status;
    error->status = status;
    va_list arguments;
    va_start(arguments, format);
    int wanted = vsnprintf(error->message, sizeof error->message, format, arguments);
    va_end(arguments);
    if (wanted < 0)
        error->message[0] = '\0';
    if (wanted >= (int)sizeof error->message)
        trim_partial_character(error->message, sizeof error->message - 1);
    for (char *c = error->message; *c != '\0'; c++)
        if ((unsigned char)*c < 0x20 || *c == 0x7F)
            *c = ' ';
    return status;
}
