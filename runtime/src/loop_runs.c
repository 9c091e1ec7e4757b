#include "loop_runs.h"

#include <string.h>

static int64_t smaller(int64_t a, int64_t b) {
    return a < b ? a : b;
}

static fr_graph_kind graph_of(const fr_loop *self) {
    return self->request.decoding == FORERUN_PLAIN ? FR_PLAIN : FR_ROUND;
}

/* Without a plan, the narrowest width that holds the drafts that may be verified, or would be. Rounds that verify fewer
 * because little is left have it too, so that their kernels round in one way. */
static size_t fixed_width(const fr_loop *self) {
    if (graph_of(self) == FR_PLAIN)
        return 1;
    return fr_verify_width(self->model, self->request.draft_len);
}

/* Of all that this generation may run. */
static size_t widest(const fr_loop *self) {
    size_t fixed = fixed_width(self), looked_up = fr_verify_width(self->model, self->model->lookup_len);
    return self->looks_up && looked_up > fixed ? looked_up : fixed;
}

static forerun_status prepare(fr_loop *self, fr_graph_kind kind, forerun_phase phase, size_t width,
                              forerun_error *error) {
    fr_backend *backend = self->backend;
    return width > 0 ? backend->operations->prepare(backend, (fr_run){kind, phase, width}, error) : FORERUN_OK;
}

/* What a plan, and the length of what is looked up, choose from. */
static forerun_status prepare_widths(fr_loop *self, forerun_error *error) {
    const fr_model *model = self->model;
    for (size_t i = 0; i < model->n_verify_widths && model->verify_widths[i] <= (int64_t)widest(self); i++)
        TRY(prepare(self, FR_ROUND, FORERUN_DECODE, (size_t)model->verify_widths[i], error));
    return FORERUN_OK;
}

/* Plain rounds, and the reading of what these left out. */
static forerun_status prepare_pauses(fr_loop *self, forerun_error *error) {
    TRY(prepare(self, FR_PLAIN, FORERUN_DECODE, 1, error));
    if (self->backend->prefill_width > 0)
        return FORERUN_OK;
    const size_t chunk = (size_t)self->model->prefill_chunk;
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
    if (self->planned || self->looks_up)
        TRY(prepare_widths(self, error));
    return self->planned ? prepare_pauses(self, error) : FORERUN_OK;
}

int64_t fr_loop_remaining(const fr_loop *self) {
    int64_t room = self->model->capacity - self->n_prompt - self->n_new;
    return smaller(self->request.max_new_tokens - self->n_new, room);
}

static void say_looked_up(fr_loop *self, bool looked_up) {
    self->looked_up = looked_up;
    if (self->model->lookup_len > 0) /* else the graph has no such input */
        self->backend->io.looked_up[0] = looked_up;
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
    say_looked_up(self, false);
    memset(io->tokens, 0, (size_t)width * sizeof(int64_t));
    memcpy(io->tokens, self->tokens + position, (size_t)n_known * sizeof(int64_t));
    return (fr_run){graph_of(self), FORERUN_PREFILL, (size_t)width};
}

static fr_run fill_decode(fr_loop *self, fr_graph_kind kind, size_t width, size_t n_draft, const int64_t *draft) {
    const fr_io *io = &self->backend->io;
    say_looked_up(self, draft == self->found);
    io->position[0] = self->position;
    io->n_known[0] = 1;
    io->n_draft[0] = (int64_t)n_draft;
    memset(io->tokens, 0, width * sizeof(int64_t));
    io->tokens[0] = self->tokens[self->position];
    memcpy(io->tokens + 1, draft, n_draft * sizeof(int64_t));
    return (fr_run){kind, FORERUN_DECODE, width};
}

/* Where to begin to read what the drafter has missed, so that the last chunk has a width that was prepared: at the
 * first token that it missed, or before it; negative where there are not as many. */
static int64_t resume_at(const fr_loop *self) {
    const size_t chunk = (size_t)self->model->prefill_chunk;
    size_t rest = (size_t)(self->position + 1 - self->drafted) % chunk, width = 0;
    while (width < rest)
        width = fr_planner_next_width(width, chunk);
    return self->backend->prefill_width > 0 ? self->drafted : self->drafted - (int64_t)(width - rest);
}

/* Everything that the drafter missed in a pause is read, the target's rows a second time, which leaves them as they
 * are. Not where fewer tokens are left than would be read. */
static void end_pause(fr_loop *self) {
    int64_t missed = self->position - self->drafted, begin = resume_at(self);
    if (missed == 0 || self->planner.left > 0 || fr_loop_remaining(self) <= missed || begin < 0)
        return;
    fr_planner_resume(&self->planner);
    self->read_to = self->position + 1;
    self->position = begin;
}

static fr_run fill_lookup(fr_loop *self, size_t n_draft) {
    return fill_decode(self, FR_ROUND, fr_verify_width(self->model, (int64_t)n_draft), n_draft, self->found);
}

static fr_run fill_planned(fr_loop *self, size_t most, size_t most_found) {
    fr_planner *planner = &self->planner;
    const bool sampling = self->request.temperature > 0.0f;
    const bool paused = planner->left > 0 || self->drafted < self->position;
    fr_plan found = {0, 0.0};
    if (most_found > 0)
        found = fr_planner_lookup(planner, self->common, most_found);
    if (found.n_draft > 0 && found.rate > (paused ? fr_planner_plain_rate(planner)
                                                  : fr_planner_rate(planner, self->confidence, most, sampling)))
        return fill_lookup(self, found.n_draft);
    if (fr_planner_pauses(planner) || paused)
        return fill_decode(self, FR_PLAIN, 1, 0, self->draft);
    size_t n_draft = fr_planner_drafts(planner, self->confidence, most, sampling);
    return fill_decode(self, FR_ROUND, fr_verify_width(self->model, (int64_t)n_draft), n_draft, self->draft);
}

/* Looks up what may follow; how many tokens of it a round can verify. */
static size_t look_up(fr_loop *self, int64_t room) {
    if (!self->looks_up || room < 1)
        return 0;
    size_t n = (size_t)smaller(self->model->lookup_len, room);
    self->common = fr_lookup_draft(&self->lookup, self->found, n);
    return self->common > 0 ? n : 0;
}

fr_run fr_loop_fill(fr_loop *self) {
    const fr_io *io = &self->backend->io;
    const size_t n_uniforms = (size_t)(fr_verify_len(self->model) + self->model->draft_len) + 2;
    io->temperature[0] = self->request.temperature;
    forerun_uniforms(self->request.seed, self->round, n_uniforms, io->uniform);
    if (self->planned && self->position >= self->read_to)
        end_pause(self);
    if (self->position < self->read_to)
        return fill_read(self);
    /* A round commits one token more than it verifies at most: so it can never commit too many. */
    const int64_t room = fr_loop_remaining(self) - 1;
    const bool verifies = self->request.decoding == FORERUN_SPECULATIVE; /* padded rounds have the width alone */
    size_t most = verifies ? (size_t)smaller(self->request.draft_len, room) : 0, most_found = look_up(self, room);
    if (self->planned)
        return fill_planned(self, most, most_found);
    return most_found > 0 ? fill_lookup(self, most_found)
                          : fill_decode(self, graph_of(self), fixed_width(self), most, self->draft);
}
