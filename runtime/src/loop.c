#define _POSIX_C_SOURCE 200809L /* clock_gettime */
#include "loop.h"

#include "loop_runs.h"
#include "request.h"

#include <inttypes.h>
#include <string.h>
#include <time.h>

static int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static bool in_prompt(const fr_loop *self) {
    return self->position < self->n_prompt;
}

forerun_status fr_loop_open(fr_loop *self, fr_arena *arena, fr_backend *backend, const fr_model *model,
                            forerun_error *error) {
    size_t k = (size_t)model->draft_len, m = (size_t)fr_verify_len(model);
    self->backend = backend;
    self->model = model;
    self->has_costs = false;
    self->tokens = fr_arena_take(arena, (size_t)model->capacity, sizeof(int64_t));
    self->committed = fr_arena_take(arena, m + 1, sizeof(int64_t));
    self->draft = fr_arena_take(arena, k, sizeof(int64_t));
    self->confidence = fr_arena_take(arena, k, sizeof(float));
    self->found = fr_arena_take(arena, (size_t)model->lookup_len, sizeof(int64_t));
    atomic_init(&self->cancelled, false);
    if (!self->tokens || !self->committed || !self->draft || !self->confidence || !self->found)
        return fr_fail(error, FORERUN_OUT_OF_MEMORY, "No memory for the buffers of a generation.");
    TRY(fr_lookup_open(&self->lookup, arena, self->tokens, (size_t)model->capacity, (size_t)model->lookup_match,
                       error));
    return fr_planner_open(&self->planner, arena, model, backend->has_confidence, error);
}

void fr_loop_costs(fr_loop *self, const forerun_costs *costs) {
    self->has_costs = costs != NULL;
    if (costs != NULL)
        fr_planner_costs(&self->planner, self->model, costs->plain, costs->rounds);
}

forerun_status fr_loop_start(fr_loop *self, const int64_t *prompt, size_t n_prompt, const forerun_request *request,
                             forerun_error *error) {
    self->running = false;
    TRY(fr_request_check(self->model, request, prompt, n_prompt, error));
    self->request = *request;
    if (request->decoding == FORERUN_PLAIN)
        self->request.draft_len = 0;
    else if (request->draft_len == 0)
        self->request.draft_len = self->model->draft_len;
    memcpy(self->tokens, prompt, n_prompt * sizeof prompt[0]);
    self->n_prompt = self->read_to = (int64_t)n_prompt;
    self->position = self->drafted = 0;
    self->n_new = 0;
    self->round = 0;
    self->planned = self->has_costs && request->decoding == FORERUN_SPECULATIVE && !request->fixed_plan;
    self->looks_up = self->model->lookup_len > 0 && request->decoding == FORERUN_SPECULATIVE && !request->drafter_only;
    self->looked_up = false;
    fr_planner_begin(&self->planner);
    fr_lookup_begin(&self->lookup);
    if (self->looks_up)
        fr_lookup_extend(&self->lookup, n_prompt);
    TRY(fr_loop_prepare(self, error));
    if (self->backend->operations->begin != NULL)
        TRY(self->backend->operations->begin(self->backend, error));
    atomic_store(&self->cancelled, false);
    self->running = true;
    return FORERUN_OK;
}

static bool is_token(const fr_loop *self, int64_t token) {
    return token >= 0 && token < self->model->vocab_size;
}

/* The graph's outputs decide where the next round writes: a wrong number must not get further than here. */
static forerun_status check_outputs(const fr_loop *self, fr_run run, forerun_error *error) {
    const fr_io *io = &self->backend->io;
    bool plain = run.kind == FR_PLAIN;
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
        self->committed[out->n_committed++] = self->tokens[self->n_prompt + self->n_new++] = token;
        if (is_end(self->model, token))
            out->finish = FORERUN_STOP;
    }
    if (self->looks_up)
        fr_lookup_extend(&self->lookup, (size_t)(self->n_prompt + self->n_new));
    if (out->finish == FORERUN_RUNNING && self->n_new >= self->request.max_new_tokens)
        out->finish = FORERUN_LENGTH;
    if (out->finish == FORERUN_RUNNING && fr_loop_remaining(self) == 0)
        out->finish = FORERUN_CAPACITY;
    return out->finish;
}

static void learn(fr_loop *self, fr_run run, size_t n_drafted, size_t accepted) {
    if (!self->planned || run.kind == FR_PLAIN || run.phase != FORERUN_DECODE)
        return;
    if (self->looked_up)
        fr_planner_learn_lookup(&self->planner, self->common, n_drafted, accepted);
    else
        fr_planner_learn(&self->planner, self->confidence, n_drafted, accepted);
}

/* What a run means: advances the generation and fills *out but for the times. */
static void read_outputs(fr_loop *self, fr_run run, forerun_round *out) {
    const fr_io *io = &self->backend->io;
    bool plain = run.kind == FR_PLAIN;
    size_t accepted = plain ? 0 : (size_t)io->n_accepted[0];
    out->phase = in_prompt(self) ? FORERUN_PREFILL : FORERUN_DECODE;
    out->graph = plain ? FORERUN_GRAPH_PLAIN : FORERUN_GRAPH_ROUND;
    out->width = run.width;
    out->n_drafted = (size_t)io->n_draft[0];
    out->looked_up = self->looked_up;
    self->position = io->position[0] + io->n_known[0] + (int64_t)accepted;
    if (!plain && io->position[0] <= self->drafted)
        self->drafted = self->position;
    out->position = self->position;
    out->committed = self->committed;
    if (self->position < self->read_to)
        return;
    learn(self, run, out->n_drafted, accepted);
    self->round++;
    commit(self, accepted + 1, out);
    out->n_accepted = accepted < out->n_committed ? accepted : out->n_committed;
    if (self->drafted < self->position)
        return; /* the drafter has not read all of the text: what it drafts is worth nothing */
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
    fr_run run = fr_loop_fill(self);
    int64_t before = now_ns();
    forerun_status status = self->backend->operations->run(self->backend, run, error);
    int64_t after = now_ns();
    if (status == FORERUN_OK)
        status = check_outputs(self, run, error);
    if (status != FORERUN_OK) {
        self->running = false;
        return status;
    }
    read_outputs(self, run, &round);
    self->running = round.finish == FORERUN_RUNNING;
    round.session_ns = after - before;
    round.loop_ns = now_ns() - begin - round.session_ns;
    *out = round;
    return FORERUN_OK;
}

void fr_loop_cancel(fr_loop *self) {
    atomic_store(&self->cancelled, true);
}
