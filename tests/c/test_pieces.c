/* Pieces that threads share: each is done once, whoever comes and however late, and all are seen when a wait ends. */
#include "check.h"
#include "kernels/pieces.h"

#include <pthread.h>

enum { PIECES = 137, THREADS = 5 };

typedef struct counted {
    fr_lanes lanes;
    fr_pieces pieces;
    size_t seats;
    atomic_size_t next_seat;
    atomic_int times[PIECES];
    int seen[PIECES]; /* no atomics: a wait makes them seen */
} counted;

static void count(void *job, size_t piece) {
    counted *it = job;
    atomic_fetch_add(&it->times[piece], 1);
    it->seen[piece] = 1;
}

static void check_seen(const counted *it, size_t pieces) {
    for (size_t i = 0; i < pieces; i++)
        CHECK_INT(it->seen[i], 1);
}

static void *come(void *job) {
    counted *it = job;
    fr_lanes_take(&it->lanes, atomic_fetch_add(&it->next_seat, 1), it->seats, count, it);
    fr_lanes_wait(&it->lanes);
    check_seen(it, it->lanes.count);
    CHECK(fr_lanes_done(&it->lanes));
    return NULL;
}

static void check_once(counted *it, size_t pieces) {
    for (size_t i = 0; i < PIECES; i++)
        CHECK_INT(atomic_load(&it->times[i]), i < pieces);
}

/* As many lanes as `threads`, which is a guess: fewer and more of them come. */
static void test_lanes(size_t pieces, size_t threads, size_t come_at_all) {
    counted it = {.seats = come_at_all};
    pthread_t all[THREADS];
    fr_lanes_begin(&it.lanes, pieces, threads);
    for (size_t i = 0; i < come_at_all; i++)
        REQUIRE(pthread_create(&all[i], NULL, come, &it) == 0);
    for (size_t i = 0; i < come_at_all; i++)
        pthread_join(all[i], NULL);
    check_once(&it, pieces);
}

static void test_seats_begin_apart(void) {
    fr_lanes it;
    fr_lanes_begin(&it, 100, 2);
    CHECK_INT(fr_lanes_first(&it, 0, 2), 0);
    CHECK_INT(fr_lanes_first(&it, 1, 2), 50);
    CHECK_INT(fr_lanes_first(&it, 31, 64), 0);
    CHECK_INT(fr_lanes_first(&it, 63, 64), 50);
}

static void *come_for_few(void *job) {
    counted *it = job;
    fr_pieces_take(&it->pieces, count, it);
    check_seen(it, it->pieces.count);
    CHECK(fr_pieces_done(&it->pieces));
    return NULL;
}

static void test_few(size_t pieces) {
    counted it = {.seats = THREADS};
    pthread_t all[THREADS];
    fr_pieces_begin(&it.pieces, pieces);
    for (size_t i = 0; i < THREADS; i++)
        REQUIRE(pthread_create(&all[i], NULL, come_for_few, &it) == 0);
    for (size_t i = 0; i < THREADS; i++)
        pthread_join(all[i], NULL);
    check_once(&it, pieces);
}

int main(void) {
    static const size_t pieces[] = {0, 1, 3, 8, PIECES};
    for (int round = 0; round < 20; round++)
        for (size_t i = 0; i < sizeof pieces / sizeof pieces[0]; i++) {
            test_lanes(pieces[i], 2, 1);
            test_lanes(pieces[i], 2, THREADS);
            test_lanes(pieces[i], 64, 3);
            test_few(pieces[i]);
        }
    test_seats_begin_apart();
    return check_failures != 0;
}
