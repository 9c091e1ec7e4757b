#include "arena.h"
#include "check.h"

static void gives_zeroed_aligned_memory(void) {
    fr_arena arena = {0};
    uint64_t random = 5;
    for (int i = 0; i < 500; i++) {
        size_t size = next_random(&random) % (i % 50 == 0 ? 300000 : 700);
        unsigned char *memory = fr_arena_take(&arena, size, 1);
        REQUIRE(memory != NULL);
        CHECK_INT((uintptr_t)memory % 64, 0);
        for (size_t j = 0; j < size; j++)
            REQUIRE(memory[j] == 0); /* also: no piece overlaps an earlier one */
        memset(memory, 0xAB, size);
    }
    char *text = fr_arena_text(&arena, "abcdef", 3);
    CHECK(text != NULL && strcmp(text, "abc") == 0);
    CHECK(fr_arena_take(&arena, 0, 8) != fr_arena_take(&arena, 0, 8));
    fr_arena_free(&arena);
    CHECK(arena.blocks == NULL && arena.taken == 0);
}

static void refuses_what_overflows(void) {
    fr_arena arena = {0};
    CHECK(fr_arena_take(&arena, SIZE_MAX, 2) == NULL);
    CHECK(fr_arena_take(&arena, SIZE_MAX / 4, 8) == NULL);
    fr_arena_free(&arena);
}

int main(void) {
    gives_zeroed_aligned_memory();
    refuses_what_overflows();
    return check_failures != 0;
}
