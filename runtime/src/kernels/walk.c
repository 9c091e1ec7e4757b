#include "walk.h"

#include "../sampler.h"
#include "scratch.h"

#include <string.h>

/* What threads do one after the other in a slot. */
enum { JOINT, RECUR, OUTPUT, CHOOSE, PHASES };

typedef struct fr_walk_slot {
    fr_walk *walk;
    fr_linear joint, output;
    struct {
        _Alignas(FR_LINE) fr_pieces of; /* in a line of its own: threads take it from each other */
    } phases[PHASES];
} fr_walk_slot;

static size_t larger(size_t a, size_t b) {
    return a > b ? a : b;
}

/* Products never run at the same time: they share their scratch. */
static size_t products_scratch(const fr_walk *it) {
    return fr_lines(larger(fr_linear_scratch(&it->joint), fr_linear_scratch(&it->output)));
}

/* At most: a part has at least one column. */
static size_t most_parts(const fr_walk *it) {
    return (it->output.n + FR_LINEAR_OUTPUTS - 1) / FR_LINEAR_OUTPUTS;
}

size_t fr_walk_scratch(const fr_walk *it) {
    const size_t state = fr_lines(it->state_size * sizeof(float));
    return FR_LINE + fr_lines(it->slots * sizeof(fr_walk_slot)) + fr_lines(it->joint.k * sizeof(float)) +
           fr_lines(it->joint.n * sizeof(float)) + 2 * state + fr_lines(it->output.n * sizeof(float)) +
           fr_lines(most_parts(it) * sizeof(int64_t)) + products_scratch(it);
}

/* Returns what is left, the scratch of products. */
static void *share_out(fr_walk *it) {
    char *free = fr_first_line(it->scratch);
    it->steps = fr_take_lines(&free, it->slots * sizeof(fr_walk_slot));
    it->x = fr_take_lines(&free, it->joint.k * sizeof(float));
    it->z = fr_take_lines(&free, it->joint.n * sizeof(float));
    it->next = fr_take_lines(&free, it->state_size * sizeof(float));
    it->out = fr_take_lines(&free, it->state_size * sizeof(float));
    it->scores = fr_take_lines(&free, it->output.n * sizeof(float));
    it->best = fr_take_lines(&free, most_parts(it) * sizeof(int64_t));
    return free;
}

/* Behind the state, which stands there already. */
static void prepare(fr_walk *it, size_t slot, int64_t token) {
    float *row = it->x + it->state_size;
    memcpy(row, it->table + (size_t)token * it->rank, it->rank * sizeof(float));
    memcpy(row + it->rank, it->hidden + slot * it->width, it->width * sizeof(float));
}

static size_t begin_slot(fr_walk *it, size_t number, void *scratch) {
    fr_walk_slot *slot = &it->steps[number];
    slot->walk = it;
    slot->joint = it->joint, slot->output = it->output;
    slot->joint.x = it->x, slot->joint.y = it->z, slot->joint.scratch = scratch;
    slot->output.x = it->out, slot->output.y = it->scores, slot->output.scratch = scratch;
    slot->output.addend = it->logits + number * it->output.n;
    const size_t counts[PHASES] = {fr_linear_begin(&slot->joint), 1, fr_linear_begin(&slot->output), 1};
    for (size_t i = 0; i < PHASES; i++)
        fr_pieces_begin(&slot->phases[i].of, counts[i]);
    return larger(counts[JOINT], counts[OUTPUT]);
}

size_t fr_walk_begin(fr_walk *it) {
    void *scratch = share_out(it);
    size_t most = 0;
    memset(it->x, 0, it->state_size * sizeof(float));
    if (it->slots > 0)
        prepare(it, 0, it->anchor);
    for (size_t i = 0; i < it->slots; i++)
        most = larger(most, begin_slot(it, i, scratch));
    return most;
}

static void join(void *job, size_t part) {
    fr_walk_slot *slot = job;
    fr_linear_part(&slot->joint, part);
}

static void recur(void *job, size_t piece) {
    (void)piece;
    fr_walk *it = ((fr_walk_slot *)job)->walk;
    it->joint.path->steps->recur(it->z, it->x, it->state_size, it->next, it->out);
    memcpy(it->x, it->next, it->state_size * sizeof(float));
}

static void score(void *job, size_t part) {
    fr_walk_slot *slot = job;
    const fr_walk *it = slot->walk;
    fr_linear_part(&slot->output, part);
    const size_t per_part = slot->output.columns_per_part * FR_LINEAR_OUTPUTS, first = part * per_part;
    const size_t left = it->output.n - first;
    it->best[part] = (int64_t)first + fr_argmax(it->scores + first, left < per_part ? left : per_part);
}

static void choose(void *job, size_t piece) {
    (void)piece;
    fr_walk_slot *slot = job;
    fr_walk *it = slot->walk;
    int64_t token = it->best[0];
    for (size_t part = 1; part < slot->phases[OUTPUT].of.count; part++)
        if (it->scores[it->best[part]] > it->scores[token])
            token = it->best[part];
    const size_t number = (size_t)(slot - it->steps);
    it->tokens[number] = token;
    if (number + 1 < it->slots)
        prepare(it, number + 1, token);
}

void fr_walk_seat(fr_walk *it) {
    static void (*const work[PHASES])(void *, size_t) = {join, recur, score, choose};
    if (it->slots == 0 || fr_pieces_done(&it->steps[it->slots - 1].phases[CHOOSE].of))
        return;
    for (size_t i = 0; i < it->slots; i++)
        for (size_t phase = 0; phase < PHASES; phase++)
            fr_pieces_take(&it->steps[i].phases[phase].of, work[phase], &it->steps[i]);
}
