#include "pieces.h"

#include <sched.h>

/* Longer than any piece takes: the other thread lost its processor. */
enum { SPINS = 10000 };

static int is_done(const atomic_size_t *done, size_t count) {
    return atomic_load_explicit(done, memory_order_acquire) == count;
}

static void wait_for(const atomic_size_t *done, size_t count) {
    for (int spins = 0; !is_done(done, count); spins++)
        if (spins > SPINS)
            sched_yield();
}

void fr_pieces_begin(fr_pieces *it, size_t count) {
    it->count = count;
    atomic_init(&it->next, 0);
    atomic_init(&it->done, 0);
}

int fr_pieces_done(const fr_pieces *it) {
    return is_done(&it->done, it->count);
}

/* Takes pieces up to `end`; returns how many. */
static size_t take(atomic_size_t *next, size_t end, fr_piece work, void *job) {
    size_t piece, taken = 0;
    for (; (piece = atomic_fetch_add_explicit(next, 1, memory_order_relaxed)) < end; taken++)
        work(job, piece);
    return taken;
}

void fr_pieces_take(fr_pieces *it, fr_piece work, void *job) {
    const size_t taken = take(&it->next, it->count, work, job);
    atomic_fetch_add_explicit(&it->done, taken, memory_order_release);
    wait_for(&it->done, it->count);
}

static size_t start_of(const fr_lanes *it, size_t lane) {
    return lane * it->count / it->lanes;
}

void fr_lanes_begin(fr_lanes *it, size_t count, size_t threads) {
    it->count = count;
    it->lanes = threads < FR_LANES ? threads : FR_LANES;
    atomic_init(&it->done.of, 0);
    for (size_t i = 0; i < it->lanes; i++)
        atomic_init(&it->next[i].of, start_of(it, i));
}

static size_t lane_of(const fr_lanes *it, size_t seat, size_t seats) {
    return seat * it->lanes / seats;
}

size_t fr_lanes_first(const fr_lanes *it, size_t seat, size_t seats) {
    return start_of(it, lane_of(it, seat, seats));
}

void fr_lanes_take(fr_lanes *it, size_t seat, size_t seats, fr_piece work, void *job) {
    const size_t own = lane_of(it, seat, seats);
    for (size_t i = 0; i < it->lanes; i++) {
        const size_t lane = (own + i) % it->lanes, end = start_of(it, lane + 1);
        if (atomic_load_explicit(&it->next[lane].of, memory_order_relaxed) >= end) /* a look costs less than a take */
            continue;
        const size_t taken = take(&it->next[lane].of, end, work, job);
        atomic_fetch_add_explicit(&it->done.of, taken, memory_order_release);
    }
}

int fr_lanes_done(const fr_lanes *it) {
    return is_done(&it->done.of, it->count);
}

void fr_lanes_wait(const fr_lanes *it) {
    wait_for(&it->done.of, it->count);
}
