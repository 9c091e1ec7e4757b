/* Memory that lives as long as one engine: taken piece by piece while it opens, freed at once. */
#ifndef FORERUN_ARENA_H
#define FORERUN_ARENA_H

#include <stddef.h>

typedef struct fr_block fr_block;

typedef struct fr_arena {
    fr_block *blocks;
    size_t taken; /* bytes handed out */
} fr_arena;

/* Zeroed memory of `count` * `size` bytes, aligned to 64 bytes (a cache line; what vector kernels like best).
 * NULL when memory is out or the product overflows. A zero-sized request gives a valid, unique pointer. */
void *fr_arena_take(fr_arena *arena, size_t count, size_t size);

/* A zero-terminated copy of text[0 .. length-1]; NULL when memory is out. */
char *fr_arena_text(fr_arena *arena, const char *text, size_t length);

/* Frees all pieces; the arena is empty and usable afterwards. */
void fr_arena_free(fr_arena *arena);

#endif
