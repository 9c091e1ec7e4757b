#define _POSIX_C_SOURCE 200809L /* clock_gettime */
#include "loop.h"

#include "request.h"

#include <inttypes.h>
#include <string.h>
#include <time.h>

static int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static int64_t smaller(int64_t a, int64_t b) {
    return a < b ? a : b;
}

static fr_graph_kind graph_of(const fr_loop *self) {
    return self->request.decoding == FORERUN_PLAIN ? FR_PLAIN : FR_ROUND;
}

/* The narrowest width that holds the drafts that may be verified. Rounds that verify fewer because little is left have
 * it too, so that one plan means one width, whose kernels round in one way. */
static size_t decode_width(const fr_loop *self) {
    if (graph_of(self) == FR_PLAIN)
        return 1;
    bool padded = self->request.decoding == FORERUN_PADDED;
    return fr_verify_width(self->model, padded ? self->model->draft_len : self->request.draft_len);
}

static bool in_prompt(const fr_loop *self) {
    return self->position < (int64_t)self->n_prompt;
}

forerun_status fr_loop_open(fr_loop *self, fr_arena *arena, fr_backend *backend, const fr_model *model,
                            forerun_error *error) {
    size_t k = (size_t)model->draft_len;
    self->backend = backend;
    self->model = model;
    self->prompt = fr_arena_take(arena, (size_t)model->capacity, sizeof(int64_t));
    self->committed = fr_arena_take(arena, k + 1, sizeof(int64_t));
    self->draft = fr_arena_take(arena, k, sizeof(int64_t));
    self->confidence = fr_arena_take(arena, k, sizeof(float));
    atomic_init(&self->cancelled, false);
    if (!self->prompt || !self->committed || !self->draft || !self->confidence)
        return fr_fail(error, FORERUN_OUT_OF_MEMORY, "No memory for the buffers of a generation.");
    return FORERUN_OK;
}

/* Everything that this generation will run, so that no round has to prepare it. */
static forerun_status prepare_runs(fr_loop *self, forerun_error *error) {
    fr_backend *backend = self->backend;
    size_t chunk = (size_t)self->model->prefill_chunk, full = self->n_prompt >= chunk ? chunk : 0;
    size_t rest = self->n_prompt % chunk;
    if (backend->prefill_width > 0) {
        full = backend->prefill_width;
        rest = 0;
    }
    const fr_run runs[3] = {{graph_of(self), FORERUN_DECODE, decode_width(self)},
                            {graph_of(self), FORERUN_PREFILL, full},
                            {graph_of(self), FORERUN_PREFILL, rest}};
    for (size_t i = 0; i < 3; i++) {
        if (runs[i].width == 0)
            continue;
        TRY(backend->operations->prepare(backend, runs[i], error));
    }
    return FORERUN_OK;
}

forerun_status fr_loop_start(fr_loop *self, const int64_t *prompt, size_t n_prompt, const forerun_request *request,
                             forerun_error *error) {
    self->running = false;
    TRY(fr_request_check(self->model, request, prompt, n_prompt, error));
    self->request = *request;
    if (request->decoding != FORERUN_SPECULATIVE)
        self->request.draft_len = 0;
    else if (request->draft_len == 0)
        self->request.draft_len = self->model->draft_len;
    memcpy(self->prompt, prompt, n_prompt * sizeof prompt[0]);
    self->n_prompt = n_prompt;
    self->position = 0;
    self->n_new = 0;
    self->round = 0;
    TRY(prepare_runs(self, error));
    if (self->backend->operations->begin != NULL)
        TRY(self->backend->operations->begin(self->backend, error));
    atomic_store(&self->cancelled, false);
    self->running = true;
    return FORERUN_OK;
}

/* Tokens that may still be committed: the request's limit, and the room in the context. */
static int64_t remaining(const fr_loop *self) {
    int64_t room = self->model->capacity - (int64_t)self->n_prompt - self->n_new;
    return smaller(self->request.max_new_tokens - self->n_new, room);
}

/* The next chunk of the prompt. A padded run, and the block that the drafter writes after it, must end within the
 * caches; near their end it begins earlier, and reads some tokens a second time, which writes the same rows again. */
static fr_run fill_prefill(fr_loop *self) {
    const fr_io *io = &self->backend->io;
    size_t fixed = self->backend->prefill_width;
    int64_t position = self->position, width = fixed > 0 ? (int64_t)fixed : self->model->prefill_chunk;
    if (fixed > 0)
        position = smaller(position, self->model->cache_rows - self->model->block_size - width);
    int64_t n_known = smaller((int64_t)self->n_prompt - position, width);
    if (fixed == 0)
        width = n_known;
    io->position[0] = position;
    io->n_known[0] = n_known;
    io->n_draft[0] = 0;
    memset(io->tokens, 0, (size_t)width * sizeof(int64_t));
    memcpy(io->tokens, self->prompt + position, (size_t)n_known * sizeof(int64_t));
    return (fr_run){graph_of(self), FORERUN_PREFILL, (size_t)width};
}

/* A round commits one token more than it verifies at most, so verifying remaining - 1 draft tokens can never commit too
 * many. */
static fr_run fill_decode(fr_loop *self) {
    const fr_io *io = &self->backend->io;
    size_t width = decode_width(self);
    int64_t n_draft = smaller(self->request.draft_len, remaining(self) - 1);
    io->position[0] = self->position;
    io->n_known[0] = 1;
    io->n_draft[0] = n_draft;
    memset(io->tokens, 0, width * sizeof(int64_t));
    io->tokens[0] = self->anchor;
    memcpy(io->tokens + 1, self->draft, (size_t)n_draft * sizeof(int64_t));
    return (fr_run){graph_of(self), FORERUN_DECODE, width};
}

/* Fills the graph's inputs. */
static fr_run fill_inputs(fr_loop *self) {
    const fr_io *io = &self->backend->io;
    io->temperature[0] = self->request.temperature;
    forerun_uniforms(self->request.seed, self->round, 2 * (size_t)self->model->draft_len + 2, io->uniform);
    return in_prompt(self) ? fill_prefill(self) : fill_decode(self);
}

static bool is_token(const fr_loop *self, int64_t token) {
    return token >= 0 && token < self->model->vocab_size;
}

/* The graph's outputs decide where the next round writes: a wrong number must not get further than here. */
static forerun_status check_outputs(const fr_loop *self, forerun_error *error) {
    const fr_io *io = &self->backend->io;
    bool plain = graph_of(self) == FR_PLAIN;
    int64_t accepted = plain ? 0 : io->n_accepted[0];
    if (accepted < 0 || accepted > io->n_draft[0])
        return fr_fail(error, FORERUN_BACKEND_ERROR,
                       "The round accepted %" PRId64 " of %" PRId64 " draft tokens: the bundle's graph is wrong.",
                       accepted, io->n_draft[0]);
    bool good = true;
    for (int64_t i = 0; i <= accepted; i++)
        good = good && is_token(self, io->committed[i]);
    for (int64_t i = 0; !plain && i < self->model->draft_len; i++)
        good = good && is_token(self, io->draft_tokens[i]);
    if (good)
        return FORERUN_OK;
    return fr_fail(error, FORERUN_BACKEND_ERROR,
                   "The round returned a token outside 0 .. %" PRId64 ": the bundle's graph is wrong.",
                   self->model->vocab_size - 1);
}

static bool is_end(const fr_model *model, int64_t token) {
    for (size_t i = 0; i < model->n_eos_token_ids; i++)
        if (model->eos_token_ids[i] == token)
            return true;
    return false;
}

/* Takes over `count` tokens that the graph committed, up to the first end token. */
static forerun_finish commit(fr_loop *self, size_t count, forerun_round *out) {
    const int64_t *tokens = self->backend->io.committed;
    out->finish = FORERUN_RUNNING;
    while (out->n_committed < count && out->finish == FORERUN_RUNNING) {
        int64_t token = tokens[out->n_committed];
        self->committed[out->n_committed++] = token;
        if (is_end(self->model, token))
            out->finish = FORERUN_STOP;
    }
    self->n_new += (int64_t)out->n_committed;
    self->anchor = tokens[count - 1];
    if (out->finish == FORERUN_RUNNING && self->n_new >= self->request.max_new_tokens)
        out->finish = FORERUN_LENGTH;
    if (out->finish == FORERUN_RUNNING && remaining(self) == 0)
        out->finish = FORERUN_CAPACITY;
    return out->finish;
}

/* What a run means: advances the generation and fills *out but for the times. */
static void read_outputs(fr_loop *self, forerun_round *out) {
    const fr_io *io = &self->backend->io;
    bool plain = graph_of(self) == FR_PLAIN, prefill = in_prompt(self);
    size_t accepted = plain ? 0 : (size_t)io->n_accepted[0];
    out->phase = prefill ? FORERUN_PREFILL : FORERUN_DECODE;
    out->n_drafted = (size_t)io->n_draft[0];
    self->position = io->position[0] + io->n_known[0] + (int64_t)accepted;
    out->position = self->position;
    out->committed = self->committed;
    if (prefill && in_prompt(self))
        return;
    self->round++;
    commit(self, accepted + 1, out);
    out->n_accepted = accepted < out->n_committed ? accepted : out->n_committed;
    if (plain)
        return;
    size_t k = (size_t)self->model->draft_len;
    memcpy(self->draft, io->draft_tokens, k * sizeof(int64_t));
    memcpy(self->confidence, io->draft_confidence, k * sizeof(float));
    out->draft_tokens = self->draft;
    out->draft_confidence = self->confidence;
    out->n_draft_tokens = k;
}

forerun_status fr_loop_step(fr_loop *self, forerun_round *out, forerun_error *error) {
    int64_t begin = now_ns();
    forerun_round round = {.struct_size = out->struct_size};
    if (!self->running)
        return fr_fail(error, FORERUN_INVALID_STATE, "No generation is running; call forerun_start first.");
    if (atomic_load(&self->cancelled)) {
        self->running = false;
        round.phase = in_prompt(self) ? FORERUN_PREFILL : FORERUN_DECODE;
        round.finish = FORERUN_CANCELLED;
        round.committed = self->committed;
        round.position = self->position;
        round.loop_ns = now_ns() - begin;
        *out = round;
        return FORERUN_OK;
    }
    fr_run run = fill_inputs(self);
    int64_t before = now_ns();
    forerun_status status = self->backend->operations->run(self->backend, run, error);
    int64_t after = now_ns();
    if (status == FORERUN_OK)
        status = check_outputs(self, error);
    if (status != FORERUN_OK) {
        self->running = false;
        return status;
    }
    read_outputs(self, &round);
    self->running = round.finish == FORERUN_RUNNING;
    round.session_ns = after - before;
    round.loop_ns = now_ns() - begin - round.session_ns;
    *out = round;
    return FORERUN_OK;
}

void fr_loop_cancel(fr_loop *self) {
    atomic_store(&self->cancelled, true);
}
