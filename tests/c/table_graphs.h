/* The table model as an outside library behind forerun_graphs: it enqueues a round of the reference backend as a kernel
 * of the fake driver, which reads and writes nothing but what was bound. */
#ifndef FORERUN_TABLE_GRAPHS_H
#define FORERUN_TABLE_GRAPHS_H

#include "cuda_buffers.h"
#include "cuda_graphs.h"
#include "fake_cuda.h"
#include "loop.h"
#include "reference.h"
#include "tables.h"

enum { MOST_BINDINGS = 128, MOST_RUNS = 64, MOST_TENSORS = 8 };

typedef struct table_binding {
    forerun_graph graph;
    int64_t width;
    char name[32];
    uint64_t address;
} table_binding;

struct table_graphs;

typedef struct table_run {
    struct table_graphs *self;
    forerun_graph graph;
    int64_t width;
} table_run;

typedef struct table_graphs {
    fr_arena arena;
    fr_model model;
    fr_backend *reference;
    fr_tensor tensors[2][2][MOST_TENSORS]; /* graph, inputs or outputs */
    fr_state states[2][2];
    fr_graph graphs[2];
    table_binding bindings[MOST_BINDINGS];
    table_run runs[MOST_RUNS];
    size_t n_bindings, n_rebound, n_runs, n_enqueued, n_kernels;
    const char *refuse_tensor;  /* bind refuses it */
    size_t refuse_enqueue;      /* the nth call of enqueue fails; 0 = none */
    size_t allocate_in_enqueue; /* the nth call of enqueue allocates, as a lazy library does */
    uint64_t allocated;         /* what it got */
    int64_t skip;               /* added to next_position: a wrong graph */
    bool silent;                /* it does not say why it refuses */
    bool warming;               /* its kernels run before a generation: they must see one token at position 0 */
    int64_t last_row;           /* the highest end of the rows of prefill runs wider than decoding */
    char said[128];
} table_graphs;

static inline void *bound(const table_run *run, const char *name, size_t bytes) {
    const table_graphs *self = run->self;
    for (size_t i = 0; i < self->n_bindings; i++) {
        const table_binding *it = &self->bindings[i];
        if (it->graph == run->graph && it->width == run->width && strcmp(it->name, name) == 0) {
            void *memory = fake_cuda_memory(it->address, bytes);
            REQUIRE(memory != NULL);
            return memory;
        }
    }
    printf("%s was not bound\n", name);
    exit(2);
}

static inline void *state_memory(const table_graphs *self, size_t index, size_t *bytes) {
    forerun_state_info info = {.struct_size = sizeof info};
    self->reference->operations->state(self->reference, index, &info);
    *bytes = info.bytes;
    return (void *)(uintptr_t)info.input_address;
}

static inline void read_inputs(const table_run *run) {
    const fr_io *io = &run->self->reference->io;
    const bool plain = run->graph == FORERUN_GRAPH_PLAIN;
    size_t bytes, n_states = plain ? 1 : 2;
    memcpy(io->tokens, bound(run, "tokens", (size_t)run->width * 8), (size_t)run->width * 8);
    memcpy(io->n_known, bound(run, "n_known", 8), 8);
    memcpy(io->position, bound(run, "position", 8), 8);
    memcpy(io->temperature, bound(run, "temperature", 4), 4);
    if (!plain)
        memcpy(io->n_draft, bound(run, "n_draft", 8), 8);
    if (plain)
        memcpy(io->uniform + K, bound(run, "uniform", 4), 4);
    else
        memcpy(io->uniform, bound(run, "uniform", (2 * K + 2) * 4), (2 * K + 2) * 4);
    const bool decodes =
        run->width <= K + 1 && fr_verify_width(&run->self->model, run->width - 1) == (size_t)run->width;
    for (int64_t i = io->n_known[0]; !decodes && (plain || io->n_draft[0] == 0) && i < run->width; i++)
        CHECK_INT(io->tokens[i], 0); /* the padding of a prefill */
    if (run->self->warming)
        CHECK(io->position[0] == 0 && io->n_known[0] == 1 && io->tokens[0] == 0 && io->temperature[0] == 0.0f);
    if (run->width > K + 1 && run->self->last_row < io->position[0] + run->width)
        run->self->last_row = io->position[0] + run->width;
    for (size_t i = 0; i < n_states; i++) {
        void *memory = state_memory(run->self, i, &bytes);
        memcpy(memory, bound(run, i == 0 ? "cache" : "draft_probs", bytes), bytes);
    }
}

/* A library may use the memory of its outputs before it has read its inputs, but for the states. */
static inline void spoil_outputs(const table_run *run) {
    const bool plain = run->graph == FORERUN_GRAPH_PLAIN;
    const size_t k = plain ? 0 : K;
    memset(bound(run, "committed", (k + 1) * 8), 0xEE, (k + 1) * 8);
    memset(bound(run, "next_tokens", (k + 1) * 8), 0xEE, (k + 1) * 8);
    memset(bound(run, "next_position", 8), 0xEE, 8);
    if (plain)
        return;
    memset(bound(run, "n_accepted", 8), 0xEE, 8);
    memset(bound(run, "draft_tokens", K * 8), 0xEE, K * 8);
}

static inline void write_outputs(const table_run *run) {
    const fr_io *io = &run->self->reference->io;
    const bool plain = run->graph == FORERUN_GRAPH_PLAIN;
    const size_t k = plain ? 0 : K;
    int64_t accepted = plain ? 0 : io->n_accepted[0], next = io->position[0] + io->n_known[0] + accepted;
    size_t bytes;
    next += run->self->skip;
    memcpy(bound(run, "committed", (k + 1) * 8), io->committed, (k + 1) * 8);
    memcpy(bound(run, "next_position", 8), &next, 8);
    int64_t *next_tokens = bound(run, "next_tokens", (k + 1) * 8);
    next_tokens[0] = io->committed[accepted];
    void *cache = state_memory(run->self, 0, &bytes);
    memcpy(bound(run, "cache.out", bytes), cache, bytes);
    if (plain)
        return;
    memcpy(next_tokens + 1, io->draft_tokens, K * 8);
    memcpy(bound(run, "n_accepted", 8), io->n_accepted, 8);
    memcpy(bound(run, "draft_tokens", K * 8), io->draft_tokens, K * 8);
    if (run->self->graphs[FR_ROUND].n_outputs == 6)
        memcpy(bound(run, "draft_confidence", K * 4), io->draft_confidence, K * 4);
    void *probs = state_memory(run->self, 1, &bytes);
    memcpy(bound(run, "draft_probs.out", bytes), probs, bytes);
}

static inline void run_table(void *argument) {
    const table_run *run = argument;
    fr_backend *reference = run->self->reference;
    forerun_error error;
    run->self->n_kernels++;
    spoil_outputs(run);
    read_inputs(run);
    const fr_run what = {run->graph == FORERUN_GRAPH_PLAIN ? FR_PLAIN : FR_ROUND, FORERUN_DECODE, (size_t)run->width};
    if (reference->operations->run(reference, what, &error) != FORERUN_OK) {
        printf("%s\n", error.message);
        exit(2);
    }
    write_outputs(run);
}

static inline int table_bind(void *user, forerun_graph graph, int64_t width, const char *tensor, uint64_t address) {
    table_graphs *self = user;
    if (self->refuse_tensor != NULL && strcmp(self->refuse_tensor, tensor) == 0) {
        snprintf(self->said, sizeof self->said, "the engine has no tensor %s", tensor);
        return 7;
    }
    CHECK_INT(address % 256, 0);
    size_t i = 0;
    while (i < self->n_bindings && (self->bindings[i].graph != graph || self->bindings[i].width != width ||
                                    strcmp(self->bindings[i].name, tensor) != 0))
        i++;
    REQUIRE(i < MOST_BINDINGS);
    self->n_rebound += i < self->n_bindings;
    self->n_bindings += i == self->n_bindings;
    table_binding *it = &self->bindings[i];
    *it = (table_binding){.graph = graph, .width = width, .address = address};
    snprintf(it->name, sizeof it->name, "%s", tensor);
    return 0;
}

static inline int table_enqueue(void *user, forerun_graph graph, int64_t width, void *stream) {
    CUresult cuMemAlloc_v2(CUdeviceptr *, size_t);
    table_graphs *self = user;
    self->n_enqueued++;
    if (self->n_enqueued == self->allocate_in_enqueue)
        cuMemAlloc_v2((CUdeviceptr *)&self->allocated, 64);
    if (self->n_enqueued == self->refuse_enqueue) {
        snprintf(self->said, sizeof self->said, "call %zu was refused", self->n_enqueued);
        return -1;
    }
    REQUIRE(self->n_runs < MOST_RUNS);
    self->runs[self->n_runs] = (table_run){self, graph, width};
    fake_cuda_kernel(stream, run_table, &self->runs[self->n_runs++]);
    return 0;
}

static inline const char *table_message(void *user) {
    const table_graphs *self = user;
    return self->silent ? NULL : self->said;
}

static inline fr_tensor tensor(const char *name, fr_dtype dtype, size_t rank, int64_t a, int64_t b) {
    return (fr_tensor){.name = name, .dtype = dtype, .rank = rank, .shape = {a, b}};
}

static inline void describe_states(table_graphs *self, size_t vocab) {
    for (int kind = 0; kind < 2; kind++) {
        fr_tensor cache = {"cache", FR_INT64, 4, {1, 1, self->model.cache_rows, 1}};
        self->states[kind][0] = (fr_state){cache, "cache.out"};
        self->states[kind][1] = (fr_state){tensor("draft_probs", FR_FLOAT32, 2, K, (int64_t)vocab), "draft_probs.out"};
        self->graphs[kind].states = self->states[kind];
        self->graphs[kind].n_states = kind == FR_PLAIN ? 1 : 2;
    }
}

/* What the manifest of such an engine would say. */
static inline void describe_graphs(table_graphs *self, size_t vocab) {
    static const char *files[2] = {"engines/table/round.engine", "engines/table/plain.engine"};
    for (int kind = 0; kind < 2; kind++) {
        const bool plain = kind == FR_PLAIN;
        const int64_t k = plain ? 0 : K;
        const fr_tensor in[] = {tensor("tokens", FR_INT64, 2, 1, -1),
                                tensor("n_known", FR_INT64, 1, 1, 0),
                                tensor("position", FR_INT64, 1, 1, 0),
                                tensor("temperature", FR_FLOAT32, 1, 1, 0),
                                tensor("uniform", FR_FLOAT32, 2, 1, plain ? 1 : 2 * K + 2),
                                tensor("n_draft", FR_INT64, 1, 1, 0)};
        const fr_tensor out[] = {
            tensor("committed", FR_INT64, 2, 1, k + 1),   tensor("next_position", FR_INT64, 1, 1, 0),
            tensor("next_tokens", FR_INT64, 2, 1, k + 1), tensor("n_accepted", FR_INT64, 1, 1, 0),
            tensor("draft_tokens", FR_INT64, 2, 1, K),    tensor("draft_confidence", FR_FLOAT32, 2, 1, K)};
        memcpy(self->tensors[kind][0], in, sizeof in);
        memcpy(self->tensors[kind][1], out, sizeof out);
        self->graphs[kind] = (fr_graph){.file = files[kind],
                                        .inputs = self->tensors[kind][0],
                                        .outputs = self->tensors[kind][1],
                                        .n_inputs = plain ? 5 : 6,
                                        .n_outputs = plain ? 3 : 6};
    }
    describe_states(self, vocab);
}

/* The model and its graphs; table_graphs_close frees them. */
static inline void table_graphs_make(table_graphs *self, const forerun_table *table) {
    forerun_error error;
    *self = (table_graphs){.n_runs = 0};
    REQUIRE(fr_reference_open(&self->arena, table, &self->model, &self->reference, &error) == FORERUN_OK);
    describe_graphs(self, (size_t)table->vocab_size);
}

static inline void table_graphs_close(table_graphs *self) {
    fr_arena_free(&self->arena);
}

static inline forerun_graphs callbacks(table_graphs *self) {
    return (forerun_graphs){.struct_size = sizeof(forerun_graphs),
                            .engine = "engines/table",
                            .library = "table",
                            .library_version = "1.2",
                            .user = self,
                            .bind = table_bind,
                            .enqueue = table_enqueue,
                            .message = table_message,
                            .cuda_library = FAKE_CUDA_LIBRARY};
}

#endif
