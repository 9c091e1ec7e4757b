/* Work in pieces that some threads share: whoever comes takes the next piece. A thread waits for pieces that another
 * one works on, never for a thread that has not come. */
#ifndef FORERUN_PIECES_H
#define FORERUN_PIECES_H

#include <stdatomic.h>
#include <stddef.h>

typedef void (*fr_piece)(void *job, size_t piece);

/* A few pieces. */
typedef struct fr_pieces {
    size_t count;
    atomic_size_t next, done;
} fr_pieces;

/* Before any thread comes. */
void fr_pieces_begin(fr_pieces *it, size_t count);

/* Whether all are done; what they wrote is seen then. */
int fr_pieces_done(const fr_pieces *it);

/* Calls work(job, piece) for pieces that nobody has taken until none is left; returns when all are done. */
void fr_pieces_take(fr_pieces *it, fr_piece work, void *job);

/* Many pieces, in lanes of neighbours: threads begin in lanes of their own, so that each reads one stretch of memory
 * and writes no line that another one writes; who is done with a lane helps in the next. */
enum { FR_LANES = 8 /* at most */ };
typedef struct fr_lanes {
    size_t count, lanes;
    struct {
        _Alignas(64) atomic_size_t of;
    } done, next[FR_LANES];
} fr_lanes;

/* For a number of threads that is a guess: more may come, and fewer. */
void fr_lanes_begin(fr_lanes *it, size_t count, size_t threads);

/* The first piece of the thread on `seat`, one of `seats`. */
size_t fr_lanes_first(const fr_lanes *it, size_t seat, size_t seats);

/* Calls work(job, piece) for pieces that nobody has taken until none is left. */
void fr_lanes_take(fr_lanes *it, size_t seat, size_t seats, fr_piece work, void *job);

int fr_lanes_done(const fr_lanes *it);

/* Returns when all pieces are done; by then every one of them must have been taken. */
void fr_lanes_wait(const fr_lanes *it);

#endif
