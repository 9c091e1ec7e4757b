#include "backend.h"

forerun_status fr_io_take(fr_arena *arena, fr_io *io, const fr_model *model, forerun_error *error) {
    size_t k = (size_t)model->draft_len, m = (size_t)fr_verify_len(model);
    int64_t chunk = model->prefill_chunk < model->capacity ? model->prefill_chunk : model->capacity;
    size_t max_width = (size_t)chunk > m + 1 ? (size_t)chunk : m + 1;
    io->tokens = fr_arena_take(arena, max_width, sizeof(int64_t));
    io->n_known = fr_arena_take(arena, 1, sizeof(int64_t));
    io->n_draft = fr_arena_take(arena, 1, sizeof(int64_t));
    io->position = fr_arena_take(arena, 1, sizeof(int64_t));
    io->temperature = fr_arena_take(arena, 1, sizeof(float));
    io->uniform = fr_arena_take(arena, m + k + 2, sizeof(float));
    io->looked_up = fr_arena_take(arena, 1, sizeof(int64_t));
    io->n_accepted = fr_arena_take(arena, 1, sizeof(int64_t));
    io->committed = fr_arena_take(arena, m + 1, sizeof(int64_t));
    io->draft_tokens = fr_arena_take(arena, k, sizeof(int64_t));
    io->draft_confidence = fr_arena_take(arena, k, sizeof(float));
    if (!io->tokens || !io->n_known || !io->n_draft || !io->position || !io->temperature || !io->uniform ||
        !io->looked_up || !io->n_accepted || !io->committed || !io->draft_tokens || !io->draft_confidence)
        return fr_fail(error, FORERUN_OUT_OF_MEMORY, "No memory for the inputs and outputs of a round.");
    for (size_t i = 0; i < k; i++)
        io->draft_confidence[i] = 1.0f; /* what a graph without a confidence head leaves there */
    return FORERUN_OK;
}
