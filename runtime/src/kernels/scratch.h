/* One piece of scratch memory, shared out in lines of the processor's cache. */
#ifndef FORERUN_SCRATCH_H
#define FORERUN_SCRATCH_H

#include <stddef.h>
#include <stdint.h>

enum { FR_LINE = 64 };

/* To whole lines. */
static inline size_t fr_lines(size_t bytes) {
    return (bytes + FR_LINE - 1) / FR_LINE * FR_LINE;
}

/* The first line of memory that has one line more than is taken of it. */
static inline char *fr_first_line(void *scratch) {
    return (char *)scratch + (fr_lines((uintptr_t)scratch) - (uintptr_t)scratch);
}

/* Whole lines of what is free. */
static inline void *fr_take_lines(char **free, size_t bytes) {
    void *taken = *free;
    *free += fr_lines(bytes);
    return taken;
}

#endif
