/* Nothing is allocated within a round. */
#include "count_allocations.h"
#include "tables.h"

int main(void) {
    static float target[V * V], draft[V * V];
    forerun_table table = successor_table(target, draft, 0x5A);
    forerun_engine *engine = open_table(&table);
    CHECK(allocations > 0); /* the counters do count */
    const int64_t prompt[12] = {3, 1, 4, 1, 5, 2, 6, 5, 3, 5, 0, 7};
    for (int decoding = 0; decoding < 3; decoding++)
        for (int hot = 0; hot < 2; hot++) {
            size_t before = allocations;
            result found = generate(engine, prompt, 12, request_for(40, hot ? 0.8f : 0.0f, (forerun_decoding)decoding));
            CHECK_INT(found.n_tokens, 40);
            CHECK_INT(allocations - before, 0);
        }
    forerun_close(engine);
    table.lookup_len = 7;
    table.lookup_match = 2;
    engine = open_table(&table);
    const float rounds[] = {1.0f, 1.2f};
    const forerun_costs costs = {sizeof costs, 0.9f, rounds, 2};
    for (int planned = 0; planned < 2; planned++) {
        REQUIRE(forerun_set_costs(engine, planned ? &costs : NULL, NULL) == FORERUN_OK);
        size_t before = allocations;
        result found = generate(engine, prompt, 12, request_for(40, 0.0f, FORERUN_SPECULATIVE));
        CHECK(found.n_wide > 0);
        CHECK_INT(allocations - before, 0);
    }
    forerun_close(engine);
    return check_failures != 0;
}
