/* Bad arguments, and a backend that fails or lies. */
#include "loop.h"
#include "tables.h"

static float target[V * V], draft[V * V];
static forerun_error error;

static void refuses_bad_requests(void) {
    forerun_table table = successor_table(target, draft, 0);
    forerun_engine *engine = open_table(&table);
    const int64_t prompt[CAPACITY] = {1, 2, 3}, outside[2] = {1, V}, negative[1] = {-1};
    const forerun_request good = request_for(4, 0.0f, FORERUN_SPECULATIVE);
    static const float temperatures[] = {-1.0f, NAN, INFINITY};
    for (int i = 0; i < 3; i++) {
        forerun_request bad = good;
        bad.temperature = temperatures[i];
        CHECK(forerun_start(engine, prompt, 3, &bad, &error) == FORERUN_INVALID_ARGUMENT);
        CHECK_HAS(error.message, "temperature");
    }
    forerun_request bad = good;
    bad.max_new_tokens = 0;
    CHECK(forerun_start(engine, prompt, 3, &bad, &error) == FORERUN_INVALID_ARGUMENT);
    CHECK_HAS(error.message, "max_new_tokens must be at least 1, found 0");
    bad = good;
    bad.decoding = (forerun_decoding)3;
    CHECK(forerun_start(engine, prompt, 3, &bad, &error) == FORERUN_INVALID_ARGUMENT);
    bad = good;
    bad.draft_len = K + 1;
    CHECK(forerun_start(engine, prompt, 3, &bad, &error) == FORERUN_INVALID_ARGUMENT);
    CHECK_HAS(error.message, "1 .. 4");
    bad = good;
    bad.struct_size = 8;
    CHECK(forerun_start(engine, prompt, 3, &bad, &error) == FORERUN_INVALID_ARGUMENT);
    CHECK_HAS(error.message, "struct_size");
    CHECK(forerun_start(engine, prompt, 0, &good, &error) == FORERUN_INVALID_ARGUMENT);
    CHECK(forerun_start(engine, NULL, 3, &good, &error) == FORERUN_INVALID_ARGUMENT);
    CHECK(forerun_start(engine, prompt, CAPACITY, &good, &error) == FORERUN_INVALID_ARGUMENT);
    CHECK_HAS(error.message, "64 tokens");
    CHECK(forerun_start(engine, outside, 2, &good, &error) == FORERUN_INVALID_ARGUMENT);
    CHECK_HAS(error.message, "Token 1 of the prompt is 8; this bundle's ids are 0 .. 7");
    CHECK(forerun_start(engine, negative, 1, &good, NULL) == FORERUN_INVALID_ARGUMENT);
    forerun_round round = {.struct_size = sizeof round}; /* a refused start leaves nothing running */
    CHECK(forerun_step(engine, &round, &error) == FORERUN_INVALID_STATE);
    CHECK(forerun_start(NULL, prompt, 3, &good, &error) == FORERUN_INVALID_ARGUMENT);
    CHECK(forerun_start(engine, prompt, 3, NULL, &error) == FORERUN_INVALID_ARGUMENT);
    CHECK(forerun_step(engine, NULL, &error) == FORERUN_INVALID_ARGUMENT);
    forerun_close(engine);
}

static void describes_an_engine(void) {
    const int64_t ends[2] = {7, 2};
    forerun_table table = successor_table(target, draft, 0);
    table.eos_token_ids = ends;
    table.n_eos_token_ids = 2;
    forerun_engine *engine = open_table(&table);
    forerun_facts facts = {.struct_size = sizeof facts};
    CHECK(forerun_describe(engine, &facts, &error) == FORERUN_OK);
    CHECK(facts.vocab_size == V && facts.draft_len == K && facts.block_size == K && facts.capacity == CAPACITY);
    CHECK(facts.n_eos_token_ids == 2 && facts.eos_token_ids[1] == 2 && facts.bos_token_id == -1 && facts.n_states == 2);
    CHECK(strcmp(facts.backend, "reference") == 0);
    facts.struct_size = 0;
    CHECK(forerun_describe(engine, &facts, &error) == FORERUN_INVALID_ARGUMENT);
    const char *bytes;
    size_t n = 9;
    CHECK(forerun_token_bytes(engine, 3, &bytes, &n, &error) == FORERUN_OK && n == 0);
    CHECK(forerun_token_bytes(engine, V, &bytes, &n, &error) == FORERUN_INVALID_ARGUMENT);
    CHECK(forerun_token_bytes(engine, -1, &bytes, &n, &error) == FORERUN_INVALID_ARGUMENT);
    forerun_close(engine);
    forerun_close(NULL);
}

static void refuses_bad_tables(void) {
    const forerun_table good = successor_table(target, draft, 0);
    forerun_engine *engine = NULL;
    forerun_table bad = good;
    bad.vocab_size = 0;
    CHECK(forerun_open_table(&bad, &engine, &error) == FORERUN_INVALID_ARGUMENT);
    bad = good;
    bad.draft_logits = NULL;
    CHECK(forerun_open_table(&bad, &engine, &error) == FORERUN_INVALID_ARGUMENT);
    CHECK_HAS(error.message, "draft_logits");
    const int64_t end = V;
    bad = good;
    bad.eos_token_ids = &end;
    bad.n_eos_token_ids = 1;
    CHECK(forerun_open_table(&bad, &engine, &error) == FORERUN_INVALID_ARGUMENT);
    float kept = target[9];
    target[9] = NAN;
    CHECK(forerun_open_table(&good, &engine, &error) == FORERUN_INVALID_ARGUMENT);
    CHECK_HAS(error.message, "target_logits[1][1]");
    target[9] = kept;
    for (int i = 0; i < V; i++)
        target[2 * V + i] = -INFINITY;
    CHECK(forerun_open_table(&good, &engine, &error) == FORERUN_INVALID_ARGUMENT);
    CHECK_HAS(error.message, "Row 2");
    CHECK(engine == NULL);
}

static void refuses_bad_bundles(void) {
    forerun_engine *engine = NULL;
    forerun_options options = {.struct_size = sizeof options};
    CHECK(forerun_open("/nonexistent", &options, &engine, &error) == FORERUN_FILE_ERROR);
    CHECK_HAS(error.message, "/nonexistent/manifest.json");
    CHECK(forerun_open(NULL, &options, &engine, &error) == FORERUN_INVALID_ARGUMENT);
    CHECK(forerun_open("/nonexistent", NULL, &engine, NULL) == FORERUN_FILE_ERROR);
    options.threads = -1;
    CHECK(forerun_open("/nonexistent", &options, &engine, &error) == FORERUN_INVALID_ARGUMENT);
    CHECK(engine == NULL);
}

/* A backend whose outputs a test chooses. */
typedef struct liar {
    fr_backend base;
    int64_t n_accepted, committed, drafted;
    forerun_status status;
} liar;

static forerun_status liar_prepare(fr_backend *base, fr_run run, forerun_error *out) {
    (void)base, (void)run, (void)out;
    return FORERUN_OK;
}

static forerun_status liar_run(fr_backend *base, fr_run run, forerun_error *out) {
    (void)run;
    const liar *self = (const liar *)base;
    base->io.n_accepted[0] = self->n_accepted;
    for (int i = 0; i <= K; i++)
        base->io.committed[i] = self->committed;
    for (int i = 0; i < K; i++)
        base->io.draft_tokens[i] = self->drafted;
    return self->status == FORERUN_OK ? FORERUN_OK : fr_fail(out, self->status, "the device fell off");
}

/* Wrong outputs of a graph end the generation with a message; they never become a position or an index. */
static void does_not_trust_the_graph(void) {
    static const struct {
        int64_t n_accepted, committed, drafted;
        forerun_status status;
        const char *message;
    } cases[] = {
        {1, 0, 0, FORERUN_OK, "accepted 1 of 0"}, /* in prefill nothing was drafted */
        {-1, 0, 0, FORERUN_OK, "accepted -1"},
        {0, V, 0, FORERUN_OK, "outside 0 .. 7"},
        {0, -1, 0, FORERUN_OK, "outside"},
        {0, 0, V, FORERUN_OK, "outside"},
        {0, 0, 0, FORERUN_BACKEND_ERROR, "the device fell off"},
    };
    static const fr_backend_operations operations = {.prepare = liar_prepare, .run = liar_run};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const fr_model model = {.vocab_size = V, .draft_len = K, .block_size = K, .capacity = 16, .prefill_chunk = 4};
        liar backend = {.base = {.operations = &operations},
                        .n_accepted = cases[i].n_accepted,
                        .committed = cases[i].committed,
                        .drafted = cases[i].drafted,
                        .status = cases[i].status};
        fr_arena arena = {0};
        fr_loop loop;
        REQUIRE(fr_io_take(&arena, &backend.base.io, &model, &error) == FORERUN_OK);
        REQUIRE(fr_loop_open(&loop, &arena, &backend.base, &model, &error) == FORERUN_OK);
        const forerun_request request = request_for(4, 0.0f, FORERUN_SPECULATIVE);
        const int64_t prompt = 1;
        forerun_round round = {.struct_size = sizeof round};
        REQUIRE(fr_loop_start(&loop, &prompt, 1, &request, &error) == FORERUN_OK);
        CHECK(fr_loop_step(&loop, &round, &error) == FORERUN_BACKEND_ERROR);
        CHECK_HAS(error.message, cases[i].message);
        CHECK(fr_loop_step(&loop, &round, &error) == FORERUN_INVALID_STATE);
        fr_arena_free(&arena);
    }
}

int main(void) {
    refuses_bad_requests();
    describes_an_engine();
    refuses_bad_tables();
    refuses_bad_bundles();
    does_not_trust_the_graph();
    return check_failures != 0;
}
