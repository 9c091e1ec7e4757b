/* Whole generations through the CUDA backend, on the fake driver, against the table model itself. */
#include "count_allocations.h"
#include "cuda_engine.h"

static float target[V * V], draft[V * V];
static int64_t prompt[CAPACITY];
static forerun_error error;

/* One round; a decoding round is one launch and one wait, and nothing else. */
static void step(cuda_engine *engine, forerun_round *round) {
    size_t before = allocations;
    fake_cuda_forget();
    if (fr_loop_step(&engine->loop, round, &error) != FORERUN_OK) {
        printf("%s\n", error.message);
        exit(2);
    }
    CHECK(strcmp(fake_cuda_log(), "cuGraphLaunch cuStreamSynchronize") == 0);
    CHECK_INT(allocations - before, 0);
}

static result generate_cuda(cuda_engine *engine, size_t n_prompt, forerun_request request) {
    result out = {0};
    forerun_round round = {.struct_size = sizeof round};
    CHECK(allocations > 0); /* the counters do count */
    REQUIRE(fr_loop_start(&engine->loop, prompt, n_prompt, &request, &error) == FORERUN_OK);
    do {
        step(engine, &round);
        memcpy(out.tokens + out.n_tokens, round.committed, round.n_committed * sizeof(int64_t));
        out.n_tokens += round.n_committed;
        out.n_prefill += round.phase == FORERUN_PREFILL;
        out.n_rounds += round.phase == FORERUN_DECODE;
        out.n_drafted += round.n_drafted;
        out.n_accepted += round.n_accepted;
        count_kind(&out, &round);
    } while (round.finish == FORERUN_RUNNING);
    out.finish = round.finish;
    return out;
}

static void same(const result *found, const result *expected) {
    CHECK_INT(found->n_tokens, expected->n_tokens);
    CHECK(memcmp(found->tokens, expected->tokens, sizeof found->tokens) == 0);
    CHECK_INT(found->finish, expected->finish);
    CHECK_INT(found->n_rounds, expected->n_rounds);
    CHECK_INT(found->n_prefill, expected->n_prefill);
    CHECK_INT(found->n_drafted, expected->n_drafted);
    CHECK_INT(found->n_accepted, expected->n_accepted);
    CHECK_INT(found->n_plain, expected->n_plain);
}

/* All decodings, greedy and sampled, at one prompt length. */
static void compare(cuda_engine *engine, forerun_engine *expected, size_t n_prompt, int64_t most) {
    for (int decoding = 0; decoding < 3; decoding++)
        for (int hot = 0; hot < 2; hot++) {
            forerun_request request = request_for(most, hot ? 0.9f : 0.0f, (forerun_decoding)decoding);
            request.draft_len = decoding == FORERUN_SPECULATIVE && n_prompt % 3 == 0 ? K - 1 : 0;
            result found = generate_cuda(engine, n_prompt, request),
                   wanted = generate(expected, prompt, n_prompt, request);
            same(&found, &wanted);
        }
}

/* Plans between captures of all widths, pauses in plain rounds, and the reading of these after them. */
static void plans_as_the_table_model(void) {
    static const int64_t widths[] = {2, K, K + 1};
    static const float rounds[][3] = {{1, 1.2f, 3}, {1, 1, 1}};
    size_t n_plain = 0, n_narrow = 0;
    for (int64_t chunk = 3; chunk <= 40; chunk += 37)
        for (unsigned i = 0; i < 6; i++) {
            forerun_table table = successor_table(target, draft, i % 3 == 0 ? 0 : i % 3 == 1 ? 0x5A : 0xFF);
            table.prefill_chunk = chunk;
            table.verify_widths = widths;
            table.n_verify_widths = 3;
            table_graphs graphs;
            cuda_engine engine;
            table_graphs_make(&graphs, &table);
            REQUIRE(cuda_engine_open(&engine, &graphs, &error) == FORERUN_OK);
            forerun_engine *expected = open_table(&table);
            const forerun_costs costs = {sizeof costs, 0.8f, rounds[i / 3], 3};
            fr_loop_costs(&engine.loop, &costs);
            REQUIRE(forerun_set_costs(expected, &costs, &error) == FORERUN_OK);
            for (size_t n_prompt = 1; n_prompt < 60; n_prompt += 5)
                for (int hot = 0; hot < 2; hot++) {
                    forerun_request request = request_for(1000, hot ? 0.9f : 0.0f, FORERUN_SPECULATIVE);
                    result found = generate_cuda(&engine, n_prompt, request),
                           wanted = generate(expected, prompt, n_prompt, request);
                    same(&found, &wanted);
                    n_plain += found.n_plain;
                    n_narrow += found.n_narrow;
                }
            forerun_close(expected);
            cuda_engine_close(&engine);
            table_graphs_close(&graphs);
        }
    CHECK(n_plain > 100 && n_narrow > 100);
}

/* Chunks smaller than, as wide as, and wider than a decoding round; the widest must begin early near the cache's end.
 */
static void equals_the_table_model(int64_t chunk) {
    static const unsigned wrong[] = {0x00, 0x5A, 0xFF};
    const int64_t end = 6;
    for (int i = 0; i < 3; i++)
        for (int stops = 0; stops < 2; stops++) {
            forerun_table table = successor_table(target, draft, wrong[i]);
            table.prefill_chunk = chunk;
            static const int64_t widths[] = {2, K, K + 1};
            table.verify_widths = widths;
            table.n_verify_widths = i == 1 ? 3 : 0; /* without: the widest alone */
            table.eos_token_ids = &end;
            table.n_eos_token_ids = (size_t)stops;
            table_graphs graphs;
            cuda_engine engine;
            table_graphs_make(&graphs, &table);
            REQUIRE(cuda_engine_open(&engine, &graphs, &error) == FORERUN_OK);
            forerun_engine *expected = open_table(&table);
            for (size_t n_prompt = 1; n_prompt < CAPACITY; n_prompt += n_prompt < 12 || n_prompt > 56 ? 1 : 7)
                compare(&engine, expected, n_prompt, n_prompt % 2 == 0 ? 1000 : 20);
            CHECK_INT(graphs.last_row, chunk <= K + 1 ? 0 : CAPACITY + 1); /* and a block after it: all rows */
            forerun_close(expected);
            cuda_engine_close(&engine);
            table_graphs_close(&graphs);
            CHECK_INT(fake_cuda_live(), 0);
            CHECK(fake_cuda_mistake()[0] == '\0');
        }
}

/* A prefill as wide as a decoding round shares its bindings, but not its capture: its tokens come from the host. */
static void binds_a_width_once(void) {
    forerun_table table = successor_table(target, draft, 0x5A);
    table.prefill_chunk = K + 1;
    table_graphs graphs;
    cuda_engine engine;
    table_graphs_make(&graphs, &table);
    REQUIRE(cuda_engine_open(&engine, &graphs, &error) == FORERUN_OK);
    CHECK_INT(graphs.n_bindings, 6 + 6 + 2 * 2);
    CHECK_INT(graphs.n_enqueued, 2); /* once to warm up, once captured */
    CHECK_INT(graphs.n_kernels, 1);
    generate_cuda(&engine, 9, request_for(12, 0.0f, FORERUN_SPECULATIVE));
    CHECK_INT(graphs.n_bindings, 6 + 6 + 2 * 2);
    CHECK_INT(graphs.n_enqueued, 3);
    size_t calls = graphs.n_enqueued;
    CHECK_INT(graphs.n_rebound, 0);
    generate_cuda(&engine, 9, request_for(12, 0.7f, FORERUN_PADDED));
    CHECK_INT(graphs.n_enqueued, calls); /* what was captured stays */
    forerun_request request = request_for(12, 0.7f, FORERUN_PLAIN);
    graphs.warming = true; /* whatever the generation before left in the inputs */
    REQUIRE(fr_loop_start(&engine.loop, prompt, 9, &request, &error) == FORERUN_OK);
    CHECK_INT(graphs.n_enqueued, calls + 4);
    cuda_engine_close(&engine);
    table_graphs_close(&graphs);
}

/* Pieces of a block are 256 bytes here: each is smaller than that. */
static void copies_once_each_way(void) {
    forerun_table table = successor_table(target, draft, 0x5A);
    table_graphs graphs;
    cuda_engine engine;
    char expected[1024];
    table_graphs_make(&graphs, &table);
    fake_cuda_forget();
    REQUIRE(cuda_engine_open(&engine, &graphs, &error) == FORERUN_OK);
    const int piece = 256;
    snprintf(expected, sizeof expected,
             "cuCtxSetCurrent cuMemcpyHtoDAsync_v2:%d kernel cuStreamSynchronize "
             "cuStreamBeginCapture_v2 cuMemcpyHtoDAsync_v2:%d kernel cuMemcpyDtoDAsync_v2:%d "
             "cuMemcpyDtoHAsync_v2:%d cuStreamEndCapture cuGraphInstantiateWithFlags cuGraphUpload cuStreamSynchronize "
             "cuGraphDestroy",
             6 * piece + (K + 1) * 8, 4 * piece + 4, piece + (K + 1) * 8, 4 * piece + 8);
    const char *log = strstr(fake_cuda_log(), "cuStreamSynchronize cuCtxSetCurrent "); /* clearing has ended */
    REQUIRE(log != NULL);
    CHECK(strcmp(log + strlen("cuStreamSynchronize "), expected) == 0);
    fake_cuda_forget();
    forerun_request request = request_for(3, 0.0f, FORERUN_PLAIN);
    REQUIRE(fr_loop_start(&engine.loop, prompt, 3, &request, &error) == FORERUN_OK);
    snprintf(expected, sizeof expected,
             "cuMemcpyHtoDAsync_v2:%d kernel cuMemcpyDtoDAsync_v2:%d cuMemcpyDtoHAsync_v2:%d cuStreamEndCapture",
             4 * piece + 4, piece + 8, piece + 8);
    CHECK_HAS(fake_cuda_log(), expected); /* decoding */
    snprintf(expected, sizeof expected, "cuStreamBeginCapture_v2 cuMemcpyHtoDAsync_v2:%d kernel",
             6 * piece + CHUNK * 8);
    CHECK_HAS(fake_cuda_log(), expected); /* prefill */
    cuda_engine_close(&engine);
    table_graphs_close(&graphs);
}

static void takes_what_the_interface_says(void) {
    forerun_table table = successor_table(target, draft, 0);
    table_graphs graphs;
    cuda_engine engine;
    table_graphs_make(&graphs, &table);
    REQUIRE(cuda_engine_open(&engine, &graphs, &error) == FORERUN_OK);
    const size_t cache = (CAPACITY + K + 1) * 8, probs = K * V * 4;
    CHECK_INT(fake_cuda_used(), cache + probs + 7 * 256 + 6 * 256);
    CHECK_INT(engine.backend->n_states, 2);
    CHECK_INT(engine.backend->io.n_accepted[0], 0);
    forerun_state_info info = {.struct_size = sizeof info};
    engine.backend->operations->state(engine.backend, 0, &info);
    CHECK(strcmp(info.name, "cache") == 0 && info.bytes == cache && info.input_address == info.output_address);
    engine.backend->operations->state(engine.backend, 1, &info);
    CHECK(strcmp(info.name, "draft_probs") == 0 && info.bytes == probs && info.input_address == info.output_address);
    CHECK(strcmp(engine.backend->name, "table") == 0 && strcmp(engine.backend->version, "1.2") == 0);
    cuda_engine_close(&engine);
    table_graphs_close(&graphs);
    table_graphs_make(&graphs, &table); /* half the width, half the memory */
    graphs.states[FR_ROUND][0].tensor.dtype = graphs.states[FR_PLAIN][0].tensor.dtype = FR_BFLOAT16;
    graphs.states[FR_ROUND][0].tensor.shape[3] = graphs.states[FR_PLAIN][0].tensor.shape[3] = 4; /* as many bytes */
    graphs.states[FR_ROUND][1].tensor.dtype = FR_FLOAT16;
    graphs.states[FR_ROUND][1].tensor.shape[1] *= 2;
    REQUIRE(cuda_engine_open(&engine, &graphs, &error) == FORERUN_OK);
    CHECK_INT(fake_cuda_used(), cache + probs + 7 * 256 + 6 * 256);
    cuda_engine_close(&engine);
    table_graphs_close(&graphs);
}

static void open_buffers(fr_cuda *cuda, fr_arena *arena, const fr_model *model, const fr_graph *graph, fr_io *io,
                         fr_cuda_buffers *out) {
    *out = (fr_cuda_buffers){.n_states = 0};
    REQUIRE(fr_cuda_load(FAKE_CUDA_LIBRARY, cuda, &error) == FORERUN_OK &&
            fr_cuda_start(cuda, 0, &error) == FORERUN_OK);
    REQUIRE(fr_cuda_buffers_open(cuda, arena, model, graph, io, out, &error) == FORERUN_OK);
}

static void lays_out_pieces_of_256_bytes(void) {
    fr_state states[2] = {{tensor("probs", FR_FLOAT16, 3, 1, 2), "probs.out"}, {{.name = "k"}, "k.out"}};
    states[0].tensor.shape[2] = 100;
    states[1].tensor = (fr_tensor){"k", FR_BFLOAT16, 4, {1, 2, 100, 3}};
    const fr_graph graph = {.states = states, .n_states = 2};
    const fr_model model = {.draft_len = 40, .prefill_chunk = 1, .capacity = 8};
    fr_cuda cuda;
    fr_arena arena = {0};
    fr_cuda_buffers it;
    fr_io io;
    open_buffers(&cuda, &arena, &model, &graph, &io, &it);
    CHECK_INT(it.inputs.bytes, 256 * 5 + 512 * 2);  /* 82 uniforms, and 41 tokens, though a prefill has one */
    CHECK_INT(it.results.bytes, 256 * 3 + 512 * 3); /* 40 drafts and 41 tokens of 8 bytes, 40 confidences of 4 */
    CHECK(it.states[0].bytes == 400 && it.states[1].bytes == 1200);
    for (size_t i = 0; i < 2; i++) { /* fresh memory holds NaN here */
        const unsigned char *bytes = fake_cuda_memory(it.states[i].address, it.states[i].bytes);
        for (size_t j = 0; bytes != NULL && j < it.states[i].bytes; j++)
            CHECK_INT(bytes[j], 0);
    }
    CHECK_INT(fake_cuda_used(), it.inputs.bytes + it.results.bytes + 400 + 1200);
    fr_cuda_buffers_close(&cuda, &it);
    fr_cuda_stop(&cuda);
    fr_arena_free(&arena);
}

/* The device's rows are those that the loop means: prompt and answer, rejected rows overwritten. */
static void leaves_the_right_cache(void) {
    forerun_table table = successor_table(target, draft, 0x5A);
    table_graphs graphs;
    cuda_engine engine;
    table_graphs_make(&graphs, &table);
    REQUIRE(cuda_engine_open(&engine, &graphs, &error) == FORERUN_OK);
    result found = generate_cuda(&engine, 12, request_for(25, 0.9f, FORERUN_SPECULATIVE));
    forerun_state_info info = {.struct_size = sizeof info};
    engine.backend->operations->state(engine.backend, 0, &info);
    const int64_t *cache = fake_cuda_memory((uint64_t)(uintptr_t)info.input_address, info.bytes);
    REQUIRE(cache != NULL);
    CHECK(memcmp(cache, prompt, 12 * sizeof prompt[0]) == 0);
    CHECK(memcmp(cache + 12, found.tokens, (found.n_tokens - 1) * sizeof(int64_t)) == 0);
    memset((void *)(uintptr_t)cache, 0xFF, info.bytes); /* as if it had ended in NaN */
    generate_cuda(&engine, 3, request_for(2, 0.0f, FORERUN_PLAIN));
    for (size_t i = 10; i < info.bytes / sizeof(int64_t); i++)
        CHECK_INT(cache[i], 0);
    cuda_engine_close(&engine);
    table_graphs_close(&graphs);
}

/* Captures of several widths continue each other: the tokens of a narrow one are the first of the draft. */
static void widths_share_the_buffers(void) {
    static const size_t widths[] = {3, K + 1, 2, K + 1, 3};
    forerun_table table = successor_table(target, draft, 0); /* a perfect drafter */
    table_graphs graphs;
    cuda_engine engine;
    forerun_round round = {.struct_size = sizeof round};
    table_graphs_make(&graphs, &table);
    REQUIRE(cuda_engine_open(&engine, &graphs, &error) == FORERUN_OK);
    fr_backend *backend = engine.backend;
    const forerun_request request = request_for(40, 0.0f, FORERUN_SPECULATIVE);
    REQUIRE(fr_loop_start(&engine.loop, prompt, 3, &request, &error) == FORERUN_OK);
    for (size_t i = 0; i < 5; i++)
        REQUIRE(backend->operations->prepare(backend, (fr_run){FR_ROUND, FORERUN_DECODE, widths[i]}, &error) ==
                FORERUN_OK);
    step(&engine, &round);
    int64_t last = round.committed[0], position = 3;
    for (size_t i = 0; i < 5; i++) {
        backend->io.n_known[0] = 1;
        backend->io.n_draft[0] = (int64_t)widths[i] - 1;
        backend->io.position[0] = position;
        REQUIRE(backend->operations->run(backend, (fr_run){FR_ROUND, FORERUN_DECODE, widths[i]}, &error) == FORERUN_OK);
        CHECK_INT(backend->io.n_accepted[0], widths[i] - 1);
        for (size_t j = 0; j < widths[i]; j++, last = (last + 1) % V)
            CHECK_INT(backend->io.committed[j], (last + 1) % V);
        position += (int64_t)widths[i];
    }
    cuda_engine_close(&engine);
    table_graphs_close(&graphs);
}

int main(void) {
    for (int i = 0; i < CAPACITY; i++)
        prompt[i] = (i * i + 3 * i + 1) % V;
    equals_the_table_model(3);
    equals_the_table_model(K + 1);
    equals_the_table_model(40);
    plans_as_the_table_model();
    binds_a_width_once();
    copies_once_each_way();
    takes_what_the_interface_says();
    leaves_the_right_cache();
    widths_share_the_buffers();
    lays_out_pieces_of_256_bytes();
    CHECK_INT(fake_cuda_live(), 0);
    CHECK(fake_cuda_mistake()[0] == '\0');
    return check_failures != 0;
}
