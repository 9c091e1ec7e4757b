#include "reference_table.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

static forerun_status check_logits(const char *name, const float *logits, size_t vocab, forerun_error *error) {
    if (logits == NULL)
        return fr_fail(error, FORERUN_INVALID_ARGUMENT, "The table's %s is NULL.", name);
    for (size_t row = 0; row < vocab; row++) {
        size_t finite = 0;
        for (size_t i = 0; i < vocab; i++) {
            float value = logits[row * vocab + i];
            if (isnan(value) || value == INFINITY)
                return fr_fail(error, FORERUN_INVALID_ARGUMENT, "The table's %s[%zu][%zu] is NaN or +infinity.", name,
                               row, i);
            finite += isfinite(value) ? 1 : 0;
        }
        if (finite == 0)
            return fr_fail(error, FORERUN_INVALID_ARGUMENT, "Row %zu of the table's %s has no finite entry.", row,
                           name);
    }
    return FORERUN_OK;
}

static bool good_widths(const forerun_table *table) {
    const int64_t k = table->draft_len, m = k > table->lookup_len ? k : table->lookup_len;
    int64_t before = 1;
    bool holds_draft = false;
    if (table->n_verify_widths == 0)
        return true;
    for (size_t i = 0; table->verify_widths != NULL && i < table->n_verify_widths; i++) {
        if (table->verify_widths[i] <= before)
            return false;
        before = table->verify_widths[i];
        holds_draft = holds_draft || before == k + 1;
    }
    return holds_draft && before == m + 1;
}

static forerun_status check_table(const forerun_table *table, forerun_error *error) {
    if (table->vocab_size < 1 || table->vocab_size > 4096 || table->draft_len < 1 || table->draft_len > FR_MAX_DRAFT ||
        table->capacity < 2 || table->capacity > INT32_MAX || table->prefill_chunk < 1 ||
        table->prefill_chunk > INT32_MAX || (table->n_eos_token_ids > 0 && table->eos_token_ids == NULL))
        return fr_fail(error, FORERUN_INVALID_ARGUMENT,
                       "A table needs vocab_size 1 .. 4096, draft_len 1 .. %d, capacity >= 2, prefill_chunk >= 1.",
                       FR_MAX_DRAFT);
    const bool lookup = table->lookup_len != 0;
    if (table->lookup_len < 0 || table->lookup_len > FR_MAX_LOOKUP || table->lookup_match < (lookup ? 1 : 0) ||
        table->lookup_match > (lookup ? FR_MAX_MATCH : 0))
        return fr_fail(error, FORERUN_INVALID_ARGUMENT,
                       "A table needs lookup_len 0 .. %d, and with it lookup_match 1 .. %d, else 0.", FR_MAX_LOOKUP,
                       FR_MAX_MATCH);
    if (!good_widths(table))
        return fr_fail(error, FORERUN_INVALID_ARGUMENT,
                       "The table's verify_widths must ascend from 2 or more, with draft_len + 1 = %" PRId64
                       " among them, to the larger of that and lookup_len + 1 = %" PRId64 ".",
                       table->draft_len + 1, table->lookup_len + 1);
    for (size_t i = 0; i < table->n_eos_token_ids; i++)
        if (table->eos_token_ids[i] < 0 || table->eos_token_ids[i] >= table->vocab_size)
            return fr_fail(error, FORERUN_INVALID_ARGUMENT, "The table's eos_token_ids[%zu] is not in its vocabulary.",
                           i);
    forerun_status status = check_logits("target_logits", table->target_logits, (size_t)table->vocab_size, error);
    return status != FORERUN_OK ? status
                                : check_logits("draft_logits", table->draft_logits, (size_t)table->vocab_size, error);
}

/* Those of the table, or what its draft and what is looked up take. */
static forerun_status take_widths(fr_arena *arena, const forerun_table *table, fr_model *model, forerun_error *error) {
    const size_t count = table->n_verify_widths;
    model->verify_widths = fr_arena_take(arena, count > 2 ? count : 2, sizeof(int64_t));
    if (model->verify_widths == NULL)
        return fr_fail(error, FORERUN_OUT_OF_MEMORY, "No memory for the table model.");
    if (count > 0) {
        memcpy(model->verify_widths, table->verify_widths, count * sizeof(int64_t));
        return FORERUN_OK;
    }
    model->verify_widths[model->n_verify_widths++] = model->draft_len + 1;
    if (model->lookup_len > model->draft_len)
        model->verify_widths[model->n_verify_widths++] = model->lookup_len + 1;
    return FORERUN_OK;
}

forerun_status fr_table_describe(fr_arena *arena, const forerun_table *table, fr_model *model, forerun_error *error) {
    TRY(check_table(table, error));
    *model = (fr_model){.name = "table",
                        .target_architecture = "table",
                        .drafter_family = "table",
                        .vocab_size = table->vocab_size,
                        .draft_len = table->draft_len,
                        .block_size = table->draft_len,
                        .capacity = table->capacity,
                        .lookup_len = table->lookup_len,
                        .lookup_match = table->lookup_match,
                        .prefill_chunk = table->prefill_chunk,
                        .n_verify_widths = table->n_verify_widths,
                        .n_eos_token_ids = table->n_eos_token_ids,
                        .bos_token_id = -1};
    model->cache_rows = model->capacity + fr_verify_len(model) + 1;
    model->eos_token_ids = fr_arena_take(arena, table->n_eos_token_ids, sizeof(int64_t));
    if (model->eos_token_ids == NULL)
        return fr_fail(error, FORERUN_OUT_OF_MEMORY, "No memory for the table model.");
    if (table->n_eos_token_ids > 0)
        memcpy(model->eos_token_ids, table->eos_token_ids, table->n_eos_token_ids * sizeof(int64_t));
    return take_widths(arena, table, model, error);
}
