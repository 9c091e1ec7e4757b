#include "loop_runs.h"

#include <string.h>

static int64_t smaller(int64_t a, int64_t b) {
    return a < b ? a : b;
}

static fr_graph_kind graph_of(const fr_loop *self) {
    return self->request.decoding == FORERUN_PLAIN ? FR_PLAIN : FR_ROUND;
}

/* Without a plan, the narrowest width that holds the drafts that may be verified. Rounds that verify fewer because
 * little is left have it too, so that their kernels round in one way. */
static size_t fixed_width(const fr_loop *self) {
    if (graph_of(self) == FR_PLAIN)
        return 1;
    bool padded = self->request.decoding == FORERUN_PADDED;
    return fr_verify_width(self->model, padded ? self->model->draft_len : self->request.draft_len);
}

static forerun_status prepare(fr_loop *self, fr_graph_kind kind, forerun_phase phase, size_t width,
                              forerun_error *error) {
    fr_backend *backend = self->backend;
    return width > 0 ? backend->operations->prepare(backend, (fr_run){kind, phase, width}, error) : FORERUN_OK;
}

/* What a plan chooses from: narrower rounds, plain ones, and the reading of what these left out. */
static forerun_status prepare_plans(fr_loop *self, forerun_error *error) {
    const fr_model *model = self->model;
    for (size_t i = 0; i < model->n_verify_widths && model->verify_widths[i] < (int64_t)fixed_width(self); i++)
        TRY(prepare(self, FR_ROUND, FORERUN_DECODE, (size_t)model->verify_widths[i], error));
    TRY(prepare(self, FR_PLAIN, FORERUN_DECODE, 1, error));
    if (self->backend->prefill_width > 0)
        return FORERUN_OK;
    const size_t chunk = (size_t)model->prefill_chunk;
    for (size_t width = 0; width < chunk;) {
        width = fr_planner_next_width(width, chunk);
        TRY(prepare(self, FR_ROUND, FORERUN_PREFILL, width, error));
    }
    return FORERUN_OK;
}

/* Everything that this generation will run, so that no round has to prepare it. */
forerun_status fr_loop_prepare(fr_loop *self, forerun_error *error) {
    size_t chunk = (size_t)self->model->prefill_chunk, n_prompt = (size_t)self->n_prompt;
    size_t full = n_prompt >= chunk ? chunk : 0, rest = n_prompt % chunk;
    if (self->backend->prefill_width > 0) {
        full = self->backend->prefill_width;
        rest = 0;
    }
    TRY(prepare(self, graph_of(self), FORERUN_DECODE, fixed_width(self), error));
    TRY(prepare(self, graph_of(self), FORERUN_PREFILL, full, error));
    TRY(prepare(self, graph_of(self), FORERUN_PREFILL, rest, error));
    return self->planned ? prepare_plans(self, error) : FORERUN_OK;
}

int64_t fr_loop_remaining(const fr_loop *self) {
    int64_t room = self->model->capacity - self->n_prompt - self->n_new;
    return smaller(self->request.max_new_tokens - self->n_new, room);
}

/* The next chunk of what is to be read. A padded run, and the block that the drafter writes after it, must end within
 * the caches; near their end it begins earlier, and reads some tokens a second time, which writes the same rows again.
 */
static fr_run fill_read(fr_loop *self) {
    const fr_io *io = &self->backend->io;
    size_t fixed = self->backend->prefill_width;
    int64_t position = self->position, width = fixed > 0 ? (int64_t)fixed : self->model->prefill_chunk;
    if (fixed > 0)
        position = smaller(position, self->model->cache_rows - self->model->block_size - width);
    int64_t n_known = smaller(self->read_to - position, width);
    if (fixed == 0)
        width = n_known;
    io->position[0] = position;
    io->n_known[0] = n_known;
    io->n_draft[0] = 0;
    memset(io->tokens, 0, (size_t)width * sizeof(int64_t));
    memcpy(io->tokens, self->tokens + position, (size_t)n_known * sizeof(int64_t));
    return (fr_run){graph_of(self), FORERUN_PREFILL, (size_t)width};
}

static fr_run fill_decode(fr_loop *self, fr_graph_kind kind, size_t width, size_t n_draft) {
    const fr_io *io = &self->backend->io;
    io->position[0] = self->position;
    io->n_known[0] = 1;
    io->n_draft[0] = (int64_t)n_draft;
    memset(io->tokens, 0, width * sizeof(int64_t));
    io->tokens[0] = self->tokens[self->position];
    memcpy(io->tokens + 1, self->draft, n_draft * sizeof(int64_t));
    return (fr_run){kind, FORERUN_DECODE, width};
}

/* Everything that the drafter missed in a pause is read, the target's rows a second time, which leaves them as they
 * are. Not where fewer tokens are left than would be read. */
static void end_pause(fr_loop *self) {
    int64_t missed = self->position - self->drafted;
    if (missed == 0 || self->planner.left > 0 || fr_loop_remaining(self) <= missed)
        return;
    fr_planner_resume(&self->planner);
    self->read_to = self->position + 1;
    self->position = self->drafted;
}

static fr_run fill_planned(fr_loop *self, size_t most) {
    if (fr_planner_pauses(&self->planner) || self->drafted < self->position)
        return fill_decode(self, FR_PLAIN, 1, 0);
    bool sampling = self->request.temperature > 0.0f;
    size_t n_draft = fr_planner_drafts(&self->planner, self->confidence, most, sampling);
    return fill_decode(self, FR_ROUND, fr_verify_width(self->model, (int64_t)n_draft), n_draft);
}

fr_run fr_loop_fill(fr_loop *self) {
    const fr_io *io = &self->backend->io;
    io->temperature[0] = self->request.temperature;
    forerun_uniforms(self->request.seed, self->round, 2 * (size_t)self->model->draft_len + 2, io->uniform);
    if (self->planned && self->position >= self->read_to)
        end_pause(self);
    if (self->position < self->read_to)
        return fill_read(self);
    /* A round commits one token more than it verifies at most: so it can never commit too many. */
    size_t most = (size_t)smaller(self->request.draft_len, fr_loop_remaining(self) - 1);
    return self->planned ? fill_planned(self, most) : fill_decode(self, graph_of(self), fixed_width(self), most);
}
