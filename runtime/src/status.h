/* Errors: how every part of the core reports a failure. */
#ifndef FORERUN_STATUS_H
#define FORERUN_STATUS_H

#include "forerun.h"

/* Fills `error` (NULL is fine) and returns `status`, so that a failure is one line: return fr_fail(...).
 * A message that is too long is cut at a character boundary; control characters become spaces. */
forerun_status fr_fail(forerun_error *error, forerun_status status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Returns from the function that it stands in, unless the call gives FORERUN_OK. */
#define TRY(call)                                                                                                      \
    do {                                                                                                               \
        forerun_status status_ = (call);                                                                               \
        if (status_ != FORERUN_OK)                                                                                     \
            return status_;                                                                                            \
    } while (0)

#endif
