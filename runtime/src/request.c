#include "request.h"

#include <inttypes.h>
#include <math.h>

static forerun_status check_request(const fr_model *model, const forerun_request *request, forerun_error *error) {
    if (request->max_new_tokens < 1)
        return fr_fail(error, FORERUN_INVALID_ARGUMENT, "max_new_tokens must be at least 1, found %" PRId64 ".",
                       request->max_new_tokens);
    if (!(request->temperature >= 0.0f) || !isfinite(request->temperature))
        return fr_fail(error, FORERUN_INVALID_ARGUMENT,
                       "temperature must be 0 (greedy) or positive and finite, found %g.",
                       (double)request->temperature);
    if ((unsigned)request->decoding > FORERUN_PADDED)
        return fr_fail(error, FORERUN_INVALID_ARGUMENT,
                       "decoding must be 0 (speculative), 1 (plain) or 2 (padded), found %d.", (int)request->decoding);
    if (request->fixed_plan != 0 && request->fixed_plan != 1)
        return fr_fail(error, FORERUN_INVALID_ARGUMENT, "fixed_plan must be 0 or 1, found %d.",
                       (int)request->fixed_plan);
    if (request->drafter_only != 0 && request->drafter_only != 1)
        return fr_fail(error, FORERUN_INVALID_ARGUMENT, "drafter_only must be 0 or 1, found %d.",
                       (int)request->drafter_only);
    const int64_t most = request->decoding == FORERUN_PADDED ? fr_verify_len(model) : model->draft_len;
    if (request->draft_len < 0 || request->draft_len > most)
        return fr_fail(error, FORERUN_INVALID_ARGUMENT,
                       "draft_len must be 1 .. %" PRId64 " for this bundle (0 = %" PRId64 "), found %" PRId64 ".", most,
                       model->draft_len, request->draft_len);
    return FORERUN_OK;
}

static forerun_status check_prompt(const fr_model *model, const int64_t *prompt, size_t n_prompt,
                                   forerun_error *error) {
    if (prompt == NULL || n_prompt == 0)
        return fr_fail(error, FORERUN_INVALID_ARGUMENT, "The prompt is empty; it needs at least one token.");
    if (n_prompt >= (uint64_t)model->capacity)
        return fr_fail(error, FORERUN_INVALID_ARGUMENT,
                       "The prompt has %zu tokens; this bundle has room for %" PRId64
                       " in all, at least one of them new. Shorten the prompt, or build with a larger capacity.",
                       n_prompt, model->capacity);
    for (size_t i = 0; i < n_prompt; i++)
        if (prompt[i] < 0 || prompt[i] >= model->vocab_size)
            return fr_fail(error, FORERUN_INVALID_ARGUMENT,
                           "Token %zu of the prompt is %" PRId64 "; this bundle's ids are 0 .. %" PRId64 ".", i,
                           prompt[i], model->vocab_size - 1);
    return FORERUN_OK;
}

forerun_status fr_request_check(const fr_model *model, const forerun_request *request, const int64_t *prompt,
                                size_t n_prompt, forerun_error *error) {
    forerun_status status = check_request(model, request, error);
    return status != FORERUN_OK ? status : check_prompt(model, prompt, n_prompt, error);
}
