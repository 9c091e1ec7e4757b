/* Whether a generation can be asked of a model. */
#ifndef FORERUN_REQUEST_H
#define FORERUN_REQUEST_H

#include "manifest.h"

/* The ranges of a request and of its prompt's tokens; a refusal names the field, its range and what was found. */
forerun_status fr_request_check(const fr_model *model, const forerun_request *request, const int64_t *prompt,
                                size_t n_prompt, forerun_error *error);

#endif
