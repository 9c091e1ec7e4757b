#include "reference.h"

#include "reference_table.h"
#include "sampler.h"

#include <inttypes.h>
#include <math.h>
#include <stdbool.h>
#include <string.h>

/* Its cache holds tokens instead of keys and values, and every distribution is looked up by what the cache row says:
 * a row written in the wrong place, or left from a rejected draft, changes the output as it would in a real model. */
typedef struct reference {
    fr_backend base;
    size_t vocab, draft_len, verify_len, rows;
    float *target_logits, *draft_logits; /* [V, V] */
    int64_t *cache;                      /* [rows] state */
    float *draft_probs;                  /* [K, V] state */
    float *target;                       /* [M + 1, V] logits or probabilities of the verified rows */
    float *scratch;                      /* [V] */
} reference;

static forerun_status write_cache(reference *self, size_t width, forerun_error *error) {
    const fr_io *io = &self->base.io;
    int64_t position = io->position[0], room = (int64_t)self->rows - (int64_t)width;
    int64_t used = io->n_known[0] + io->n_draft[0];
    if (position < 0 || position > room || io->n_known[0] < 1 || io->n_draft[0] < 0 || used > (int64_t)width)
        return fr_fail(error, FORERUN_BACKEND_ERROR,
                       "The table model was asked for %zu rows at %" PRId64 " of %zu, %" PRId64 " of them in use.",
                       width, position, self->rows, used);
    memcpy(self->cache + position, io->tokens, width * sizeof(int64_t));
    return FORERUN_OK;
}

/* Logits (greedy) or probabilities of `n_rows` rows, the first at cache row `first`. */
static void run_target(reference *self, size_t first, size_t n_rows, float temperature) {
    for (size_t i = 0; i < n_rows; i++) {
        const float *logits = self->target_logits + (size_t)self->cache[first + i] * self->vocab;
        float *out = self->target + i * self->vocab;
        if (temperature > 0.0f)
            forerun_softmax(logits, self->vocab, temperature, out);
        else
            memcpy(out, logits, self->vocab * sizeof(float));
    }
}

/* Exact here, where a drafter can only estimate: the sum over x of min(p_target(x), p_draft(x)). */
static float acceptance(reference *self, int64_t previous, int64_t token, const float *p_draft, float temperature) {
    const float *logits = self->target_logits + (size_t)previous * self->vocab;
    if (!(temperature > 0.0f))
        return fr_argmax(logits, self->vocab) == token ? 1.0f : 0.0f;
    float sum = 0.0f;
    forerun_softmax(logits, self->vocab, temperature, self->scratch);
    for (size_t i = 0; i < self->vocab; i++)
        sum += fminf(self->scratch[i], p_draft[i]);
    return sum;
}

static void run_drafter(reference *self, int64_t anchor) {
    const fr_io *io = &self->base.io;
    float temperature = io->temperature[0];
    int64_t previous = anchor;
    for (size_t k = 0; k < self->draft_len; k++) {
        const float *logits = self->draft_logits + (size_t)previous * self->vocab;
        float *probs = self->draft_probs + k * self->vocab;
        forerun_softmax(logits, self->vocab, temperature > 0.0f ? temperature : 1.0f, probs);
        int64_t token = temperature > 0.0f ? forerun_sample(probs, self->vocab, io->uniform[self->verify_len + 1 + k])
                                           : fr_argmax(logits, self->vocab);
        io->draft_tokens[k] = token;
        io->draft_confidence[k] = acceptance(self, previous, token, probs, temperature);
        previous = token;
    }
}

/* Tokens that were looked up were not drawn from draft_probs, nor from anything else. */
static size_t accept(reference *self, const int64_t *draft, size_t n_draft, bool looked_up) {
    const fr_io *io = &self->base.io;
    const float own = io->uniform[self->verify_len];
    if (!(io->temperature[0] > 0.0f))
        return forerun_accept_greedy(self->target, self->vocab, draft, n_draft, io->committed);
    if (looked_up)
        return forerun_accept_delta(self->target, self->vocab, draft, n_draft, io->uniform, own, self->scratch,
                                    io->committed);
    return forerun_accept_ratio(self->target, self->draft_probs, self->vocab, draft, n_draft, io->uniform, own,
                                self->scratch, io->committed);
}

static forerun_status reference_run(fr_backend *base, fr_run run, forerun_error *error) {
    reference *self = (reference *)base;
    const fr_io *io = &base->io;
    if (run.kind == FR_PLAIN)
        io->n_draft[0] = 0; /* no input of the plain graph */
    forerun_status status = write_cache(self, run.width, error);
    if (status != FORERUN_OK)
        return status;
    size_t n_draft = (size_t)io->n_draft[0], known = (size_t)io->n_known[0];
    const int64_t *draft = io->tokens + known;
    float temperature = io->temperature[0];
    run_target(self, (size_t)io->position[0] + known - 1, n_draft + 1, temperature);
    size_t accepted = accept(self, draft, n_draft, run.kind == FR_ROUND && io->looked_up[0] != 0);
    if (run.kind == FR_PLAIN)
        return FORERUN_OK;
    for (size_t i = n_draft + 1; i <= self->verify_len; i++)
        io->committed[i] = -1;
    io->n_accepted[0] = (int64_t)accepted;
    run_drafter(self, io->committed[accepted]);
    return FORERUN_OK;
}

static forerun_status reference_prepare(fr_backend *base, fr_run run, forerun_error *error) {
    (void)base, (void)run, (void)error; /* every width runs */
    return FORERUN_OK;
}

static void reference_state(const fr_backend *base, size_t index, forerun_state_info *out) {
    const reference *self = (const reference *)base;
    const void *address = index == 0 ? (const void *)self->cache : (const void *)self->draft_probs;
    out->name = index == 0 ? "cache" : "draft_probs";
    out->bytes = index == 0 ? self->rows * sizeof(int64_t) : self->draft_len * self->vocab * sizeof(float);
    out->input_address = out->output_address = address;
}

static void reference_close(fr_backend *base) {
    (void)base; /* all of it lives in the arena */
}

static const fr_backend_operations operations = {reference_prepare, reference_run, reference_state, reference_close,
                                                 NULL};

forerun_status fr_reference_open(fr_arena *arena, const forerun_table *table, fr_model *model, fr_backend **out,
                                 forerun_error *error) {
    TRY(fr_table_describe(arena, table, model, error));
    size_t vocab = (size_t)table->vocab_size, draft_len = (size_t)table->draft_len,
           table_bytes = vocab * vocab * sizeof(float);
    reference *self = fr_arena_take(arena, 1, sizeof *self);
    if (self == NULL)
        return fr_fail(error, FORERUN_OUT_OF_MEMORY, "No memory for the table model.");
    self->base = (fr_backend){.operations = &operations,
                              .name = "reference",
                              .version = FORERUN_VERSION,
                              .n_states = 2,
                              .threads = 1,
                              .has_confidence = true};
    self->vocab = vocab;
    self->draft_len = draft_len;
    self->verify_len = (size_t)fr_verify_len(model);
    self->rows = (size_t)model->cache_rows;
    self->target_logits = fr_arena_take(arena, table_bytes, 1);
    self->draft_logits = fr_arena_take(arena, table_bytes, 1);
    self->cache = fr_arena_take(arena, self->rows, sizeof(int64_t));
    self->draft_probs = fr_arena_take(arena, draft_len * vocab, sizeof(float));
    self->target = fr_arena_take(arena, (self->verify_len + 1) * vocab, sizeof(float));
    self->scratch = fr_arena_take(arena, vocab, sizeof(float));
    if (!self->target_logits || !self->draft_logits || !self->cache || !self->draft_probs || !self->target ||
        !self->scratch)
        return fr_fail(error, FORERUN_OUT_OF_MEMORY, "No memory for the table model.");
    memcpy(self->target_logits, table->target_logits, table_bytes);
    memcpy(self->draft_logits, table->draft_logits, table_bytes);
    *out = &self->base;
    return fr_io_take(arena, &self->base.io, model, error);
}
