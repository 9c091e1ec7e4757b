#include "arena.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { ALIGNMENT = 64, BLOCK_BYTES = 1 << 16 };

struct fr_block {
    fr_block *next;
    unsigned char *free;
    size_t left;
};

/* calloc, not malloc and memset: the kernel gives large blocks as zero pages, so that a cache of which only the first
 * rows are ever used does not cost its whole capacity in resident memory. */
static fr_block *new_block(size_t bytes) {
    fr_block *block = calloc(1, sizeof(fr_block) + ALIGNMENT + bytes);
    if (block == NULL)
        return NULL;
    uintptr_t start = (uintptr_t)(block + 1);
    uintptr_t aligned = (start + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    block->free = (unsigned char *)(block + 1) + (aligned - start);
    block->left = bytes;
    return block;
}

void *fr_arena_take(fr_arena *arena, size_t count, size_t size) {
    if (size != 0 && count > (SIZE_MAX / 2) / size)
        return NULL;
    size_t bytes = count * size;
    size_t rounded = bytes == 0 ? ALIGNMENT : (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    fr_block *block = arena->blocks;
    if (block == NULL || block->left < rounded) {
        fr_block *fresh = new_block(rounded > BLOCK_BYTES ? rounded : BLOCK_BYTES);
        if (fresh == NULL)
            return NULL;
        fresh->next = block;
        arena->blocks = fresh;
        block = fresh;
    }
    void *result = block->free;
    block->free += rounded;
    block->left -= rounded;
    arena->taken += bytes;
    return result;
}

char *fr_arena_text(fr_arena *arena, const char *text, size_t length) {
    char *copy = fr_arena_take(arena, length + 1, 1);
    if (copy != NULL)
        memcpy(copy, text, length);
    return copy;
}

void fr_arena_free(fr_arena *arena) {
    fr_block *block = arena->blocks;
    while (block != NULL) {
        fr_block *next = block->next;
        free(block);
        block = next;
    }
    *arena = (fr_arena){0};
}
