/* The acceptance rules as pure functions. tests/contract enumerates them: the law of the output is the target's. */
#include "forerun.h"
#include "sampler.h"

static void finish_row(int64_t *committed, const int64_t *draft, size_t n_accepted, size_t n_draft, int64_t own) {
    for (size_t i = 0; i < n_accepted; i++)
        committed[i] = draft[i];
    committed[n_accepted] = own;
    for (size_t i = n_accepted + 1; i <= n_draft; i++)
        committed[i] = -1;
}

size_t forerun_accept_greedy(const float *target_logits, size_t vocab_size, const int64_t *draft, size_t n_draft,
                             int64_t *committed) {
    size_t accepted = 0;
    int64_t own = fr_argmax(target_logits, vocab_size);
    while (accepted < n_draft && draft[accepted] == own) {
        accepted++;
        own = fr_argmax(target_logits + accepted * vocab_size, vocab_size);
    }
    finish_row(committed, draft, accepted, n_draft, own);
    return accepted;
}

/* Draws from `residual` [V], or from `p_target` where rounding (or equal distributions) left nothing of it. */
static int64_t sample_residual(const float *residual, const float *p_target, size_t vocab_size, float uniform) {
    for (size_t i = 0; i < vocab_size; i++)
        if (residual[i] > 0.0f)
            return forerun_sample(residual, vocab_size, uniform);
    return forerun_sample(p_target, vocab_size, uniform);
}

size_t forerun_accept_ratio(const float *p_target, const float *p_draft, size_t vocab_size, const int64_t *draft,
                            size_t n_draft, const float *uniform, float own_uniform, float *scratch,
                            int64_t *committed) {
    size_t accepted = 0;
    for (; accepted < n_draft; accepted++) {
        const float *target_row = p_target + accepted * vocab_size;
        const float *draft_row = p_draft + accepted * vocab_size;
        size_t token = (size_t)draft[accepted];
        if (uniform[accepted] * draft_row[token] < target_row[token])
            continue;
        for (size_t i = 0; i < vocab_size; i++)
            scratch[i] = target_row[i] > draft_row[i] ? target_row[i] - draft_row[i] : 0.0f;
        finish_row(committed, draft, accepted, n_draft, sample_residual(scratch, target_row, vocab_size, own_uniform));
        return accepted;
    }
    finish_row(committed, draft, accepted, n_draft,
               forerun_sample(p_target + accepted * vocab_size, vocab_size, own_uniform));
    return accepted;
}

size_t forerun_accept_delta(const float *p_target, size_t vocab_size, const int64_t *draft, size_t n_draft,
                            const float *uniform, float own_uniform, float *scratch, int64_t *committed) {
    size_t accepted = 0;
    for (; accepted < n_draft; accepted++) {
        const float *target_row = p_target + accepted * vocab_size;
        size_t token = (size_t)draft[accepted];
        if (uniform[accepted] < target_row[token])
            continue;
        for (size_t i = 0; i < vocab_size; i++)
            scratch[i] = i == token ? 0.0f : target_row[i];
        finish_row(committed, draft, accepted, n_draft, sample_residual(scratch, target_row, vocab_size, own_uniform));
        return accepted;
    }
    finish_row(committed, draft, accepted, n_draft,
               forerun_sample(p_target + accepted * vocab_size, vocab_size, own_uniform));
    return accepted;
}
