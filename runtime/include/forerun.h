/* forerun: run a compiled speculative decoding bundle. This header is the manual.
 *
 * Ownership  A caller owns every struct it passes in and every array it passes in; forerun copies what it keeps.
 *            Pointers that forerun gives out belong to the engine. Each says below how long it is valid.
 * Threads    An engine is used by one thread at a time; forerun_cancel alone may be called from any thread.
 *            Different engines are independent. The pure functions at the end have no state at all.
 * Failure    A call that can fail returns a forerun_status and, where `error` is not NULL, fills it. Nothing is
 *            printed, the process is never ended, and an output argument is untouched unless FORERUN_OK is returned.
 * Memory     All memory of a generation is taken by forerun_open and forerun_start; forerun_step allocates nothing of
 *            its own (the execution library may).
 * Versions   Structs that may grow carry `struct_size`: set it to sizeof the struct before the call. Zero in any other
 *            field means "the default".
 * Units      Times are nanoseconds of a monotonic clock, sizes are bytes, ids are token ids in 0 .. vocab_size - 1.
 *
 *     forerun_error error;
 *     forerun_engine *engine;
 *     forerun_options options = {.struct_size = sizeof options, .onnxruntime_library = "/.../libonnxruntime.so"};
 *     forerun_request request = {.struct_size = sizeof request, .max_new_tokens = 64};
 *     forerun_round round = {.struct_size = sizeof round};
 *     if (forerun_open("artifacts/demo", &options, &engine, &error)) goto failed;
 *     if (forerun_start(engine, prompt, n_prompt, &request, &error)) goto failed;
 *     do {
 *         if (forerun_step(engine, &round, &error)) goto failed;
 *         for (size_t i = 0; i < round.n_committed; i++) use(round.committed[i]);
 *     } while (round.finish == FORERUN_RUNNING);
 *     forerun_close(engine);
 */
#ifndef FORERUN_H
#define FORERUN_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(FORERUN_BUILD) && defined(__GNUC__)
#define FORERUN_API __attribute__((visibility("default")))
#else
#define FORERUN_API
#endif

#define FORERUN_VERSION "0.1.0"

typedef struct forerun_engine forerun_engine;

typedef enum forerun_status {
    FORERUN_OK = 0,
    FORERUN_INVALID_ARGUMENT = 1, /* an argument is out of its stated range */
    FORERUN_INVALID_STATE = 2,    /* the call does not fit here: forerun_step with no generation running */
    FORERUN_OUT_OF_MEMORY = 3,
    FORERUN_FILE_ERROR = 4,   /* a file is missing or cannot be read */
    FORERUN_BUNDLE_ERROR = 5, /* the bundle is damaged, of another format, or contradicts itself */
    FORERUN_BACKEND_ERROR = 6 /* the execution library is missing, or refused; its own words are in the message */
} forerun_status;

/* Filled on failure. `message` is one UTF-8 line, zero terminated: what, where, expected, found, and what to do. */
typedef struct forerun_error {
    forerun_status status;
    char message[1024];
} forerun_error;

typedef struct forerun_options {
    size_t struct_size;
    /* Path of libonnxruntime (1.31 or newer). NULL = "libonnxruntime.so.1" as the dynamic linker finds it. */
    const char *onnxruntime_library;
    /* Threads that one round may use; 0 = the processors this process may run on. */
    int32_t threads;
    /* ONNX Runtime's execution provider: NULL or "cpu"; "cuda" or "tensorrt", for which the library must have been
     * built (onnxruntime-gpu); "tensorrt-rtx", a plugin whose absolute path is `provider_library`. On a GPU the graphs
     * of an engine run, with their states in the device's memory; what a provider has no kernel for, the library runs
     * on the CPU. */
    const char *provider, *provider_library;
    /* The folder of an engine, as the manifest lists it, whose graphs are run. NULL = on the CPU the bundle's own, on a
     * GPU those of the first engine. With provider "cpu": the graphs of a GPU, to compare with. */
    const char *engine;
    int32_t device; /* of the provider, as CUDA numbers those that this process sees */
} forerun_options;

/* What a bundle is. Pointers are valid until forerun_close. */
typedef struct forerun_facts {
    size_t struct_size;
    const char *name;                /* the recipe's name */
    const char *target_architecture; /* for example "Qwen3ForCausalLM" */
    const char *drafter_family;      /* for example "dspark" */
    const char *backend;             /* "onnxruntime", "reference", or what forerun_graphs says */
    const char *backend_version;     /* of the execution library */
    int64_t vocab_size;
    int64_t draft_len;     /* K: draft tokens of a round */
    int64_t block_size;    /* what the drafter was trained for; draft_len <= block_size */
    int64_t capacity;      /* most tokens that prompt and generation may have together */
    int64_t prefill_chunk; /* most prompt tokens in one prefill round */
    /* What a decoding round may be as wide as: the anchor and its drafts, padded to the next of them. Ascending from 2;
     * draft_len + 1 is among them, the last is 1 + the larger of draft_len and lookup_len. */
    const int64_t *verify_widths;
    size_t n_verify_widths;
    const int64_t *eos_token_ids;
    size_t n_eos_token_ids;
    int64_t bos_token_id; /* -1 = none */
    size_t n_states;      /* for forerun_state */
    int32_t threads;      /* as used */
    int32_t has_costs;    /* 1 once forerun_set_costs gave them; 0: nothing is planned, every draft is verified */
    /* Prompt lookup (Saxena 2023): where the last lookup_match tokens of the text (prompt and committed tokens) stood
     * in it before, the up to lookup_len tokens that followed them may be a round's draft in place of the drafter's.
     * Both 0 = the bundle has none. */
    int64_t lookup_len, lookup_match;
} forerun_facts;

typedef enum forerun_graph {
    FORERUN_GRAPH_ROUND = 0, /* verify, accept, draft */
    FORERUN_GRAPH_PLAIN = 1  /* the target alone */
} forerun_graph;

/* Graphs on an NVIDIA GPU that an outside library (TensorRT) runs. forerun owns the device memory, one stream and the
 * rounds: it has each graph enqueued once for each width, captures that as a CUDA graph, and launches it from then on.
 * A width is a number of tokens: one of verify_widths (plain: 1) while decoding, prefill_chunk while prefilling.
 *
 * The callbacks are called by forerun_open_graphs and forerun_start, on the thread that calls these, with the device's
 * primary context current, and never within a round. 0 is success; after another result `message` is asked for the
 * reason, one UTF-8 line that must live until the next callback. What they refer to (contexts, engines, `user`) must
 * live until forerun_close. The struct and its strings may go once forerun_open_graphs has returned. */
typedef struct forerun_graphs {
    size_t struct_size;
    const char *engine;          /* the engine's folder, as the manifest lists it: its interface is what is bound */
    const char *library;         /* for forerun_facts.backend: "tensorrt-rtx"; NULL = "cuda" */
    const char *library_version; /* for forerun_facts.backend_version; NULL = "unknown" */
    void *user;                  /* handed to every callback */
    /* Input or output `tensor` of the graph at this width stands at `device_address`, a multiple of 256, from now on. A
     * state and its output have one address: the graph reads what it needs of the old before it writes. Called for all
     * tensors of a graph and width before it is enqueued for the first time, and again only after that failed. */
    int (*bind)(void *user, forerun_graph graph, int64_t width, const char *tensor, uint64_t device_address);
    /* Enqueues the graph on `stream`, a CUstream (cudaStream_t), and does not wait. The first time of a graph and width
     * runs at once, so that a library may allocate; the others are captured, where it must neither allocate nor wait
     * nor use another stream. */
    int (*enqueue)(void *user, forerun_graph graph, int64_t width, void *stream);
    const char *(*message)(void *user);
    const char *cuda_library; /* path of NVIDIA's driver; NULL = "libcuda.so.1" as the dynamic linker finds it */
    int32_t device;           /* as CUDA numbers those that this process sees */
} forerun_graphs;

typedef enum forerun_decoding {
    FORERUN_SPECULATIVE = 0, /* verify drafts; with costs only as many as pay, and none where none do */
    FORERUN_PLAIN = 1,       /* one token a round through the target's own graph; nothing of the drafter runs */
    FORERUN_PADDED = 2       /* the fused graph as wide as draft_len drafts need, none verified: off, same kernels */
} forerun_decoding;

typedef struct forerun_request {
    size_t struct_size;
    int64_t max_new_tokens; /* >= 1; never exceeded, also inside an accepted draft */
    float temperature;      /* 0 = greedy (lowest id wins a tie); else finite and > 0 */
    uint64_t seed;          /* same seed, same bundle, same decoding, same machine: same tokens */
    forerun_decoding decoding;
    /* Most of the drafter's tokens to verify a round, 1 .. facts.draft_len; 0 = facts.draft_len. Padded rounds verify
     * none and are as wide as so many need: 1 .. the larger of facts.draft_len and facts.lookup_len. */
    int64_t draft_len;
    /* 1 = verify draft_len tokens in every round, or all that is looked up; 0 = what pays best, where costs are known.
     */
    int32_t fixed_plan;
    int32_t drafter_only; /* 1 = no prompt lookup; 0 = where the bundle has it */
} forerun_request;

/* What rounds of this bundle cost on this machine, as measured, in any unit. */
typedef struct forerun_costs {
    size_t struct_size;
    float plain;         /* of one plain round */
    const float *rounds; /* [n_rounds] of a round of each width of facts.verify_widths */
    size_t n_rounds;
} forerun_costs;

typedef enum forerun_finish {
    FORERUN_RUNNING = 0,
    FORERUN_STOP = 1,      /* an end token was committed; it is the last of `committed` */
    FORERUN_LENGTH = 2,    /* max_new_tokens reached */
    FORERUN_CAPACITY = 3,  /* the context is full */
    FORERUN_CANCELLED = 4, /* forerun_cancel was seen; this step ran nothing */
} forerun_finish;

typedef enum forerun_phase {
    FORERUN_PREFILL = 0, /* reads a chunk of the prompt; the last chunk commits one token, the others none */
    FORERUN_DECODE = 1
} forerun_phase;

/* One round. Pointers are valid until the next forerun_step, forerun_start or forerun_close. */
typedef struct forerun_round {
    size_t struct_size;
    forerun_phase phase;
    forerun_finish finish;
    const int64_t *committed;      /* [n_committed] tokens, in order: n_accepted draft tokens, then the target's own */
    size_t n_committed;            /* cut after an end token, so n_accepted == n_committed is possible at the end */
    forerun_graph graph;           /* what ran: the fused round, or the target alone */
    size_t width;                  /* tokens that it ran on, padding among them */
    size_t n_drafted;              /* draft tokens verified in this round */
    size_t n_accepted;             /* those of them in `committed` */
    const int64_t *draft_tokens;   /* [n_draft_tokens] the drafter's next draft, after the last committed token */
    const float *draft_confidence; /* [n_draft_tokens] estimate that a position is accepted if those before it are */
    size_t n_draft_tokens;         /* facts.draft_len, or 0 where nothing is drafted */
    int64_t position;              /* tokens whose cache rows are valid after this round */
    int64_t session_ns;            /* inside the execution library */
    int64_t loop_ns;               /* everything else between entry and return of forerun_step */
    int32_t looked_up;             /* 1 = the draft tokens verified in this round came from prompt lookup */
} forerun_round;

/* One state buffer: a cache, or the probabilities of the draft. Valid until forerun_close. On a GPU these are device
 * addresses, which the host cannot read. */
typedef struct forerun_state_info {
    size_t struct_size;
    const char *name;
    const void *input_address;  /* bound as the graph's input ... */
    const void *output_address; /* ... and as its output: equal, the round updates its state in place */
    size_t bytes;
} forerun_state_info;

/* A target and a drafter as first-order Markov tables, for tests of everything above the execution library.
 * Probabilities are softmax(logits / temperature); -INFINITY is probability 0, and each row has a finite entry. */
typedef struct forerun_table {
    size_t struct_size;
    int64_t vocab_size;
    int64_t draft_len;
    int64_t capacity;
    int64_t prefill_chunk;
    const int64_t *verify_widths; /* as in forerun_facts; NULL = draft_len + 1, and lookup_len + 1 where it is larger */
    size_t n_verify_widths;
    const float *target_logits; /* [vocab_size, vocab_size] row = last token, column = next token */
    const float *draft_logits;  /* [vocab_size, vocab_size] */
    const int64_t *eos_token_ids;
    size_t n_eos_token_ids;
    int64_t lookup_len, lookup_match; /* as in forerun_facts; 0 = no prompt lookup */
} forerun_table;

/* The library's version; equals FORERUN_VERSION when header and library belong together. */
FORERUN_API const char *forerun_version(void);

/* "bundle error" and so on, static text; "unknown status" for a number that is none. */
FORERUN_API const char *forerun_status_name(forerun_status status);

/* Opens the bundle in the folder `bundle`: checks the manifest's seal and format, then name, size and SHA-256 of every
 * file, all before the execution library sees a byte; then loads the fused round and takes all state memory.
 * `options` may be NULL. On success *out is the caller's to close. */
FORERUN_API forerun_status forerun_open(const char *bundle, const forerun_options *options, forerun_engine **out,
                                        forerun_error *error);

/* Opens a table model: same loop, no execution library, no files. The tables are copied. */
FORERUN_API forerun_status forerun_open_table(const forerun_table *table, forerun_engine **out, forerun_error *error);

/* Opens a bundle, checked as by forerun_open, whose rounds an outside library runs on a GPU: a decoding round is one
 * launch of a CUDA graph and one wait. Takes all device and pinned memory, and captures the decoding round; the other
 * graphs follow at the first forerun_start that needs them. Each forerun_start clears the states. The device's primary
 * context becomes current on threads that call forerun with this engine. No field of `options` concerns it, so NULL
 * will do. After the loss of the device every call fails, and says so. */
FORERUN_API forerun_status forerun_open_graphs(const char *bundle, const forerun_options *options,
                                               const forerun_graphs *graphs, forerun_engine **out,
                                               forerun_error *error);

/* Frees everything. NULL is fine. */
FORERUN_API void forerun_close(forerun_engine *engine);

FORERUN_API forerun_status forerun_describe(const forerun_engine *engine, forerun_facts *out, forerun_error *error);

/* Facts of state `index`, 0 .. facts.n_states - 1. */
FORERUN_API forerun_status forerun_state(const forerun_engine *engine, size_t index, forerun_state_info *out,
                                         forerun_error *error);

/* The bytes that a token decodes to; none for special tokens. Bytes of one character may be spread over tokens.
 * *bytes is not zero terminated and is valid until forerun_close. Table models have no bytes for any token. */
FORERUN_API forerun_status forerun_token_bytes(const forerun_engine *engine, int64_t token, const char **bytes,
                                               size_t *n_bytes, forerun_error *error);

/* From the next forerun_start on, each round verifies as many draft tokens as promise the most tokens for its cost, the
 * drafter's or what was looked up, and where speculation does not pay, plain rounds take its place for a while. The
 * plan follows from these numbers and from the generation itself, never from a clock: equal seeds give equal tokens.
 * `costs` are copied; NULL forgets them. Without costs nothing is planned. */
FORERUN_API forerun_status forerun_set_costs(forerun_engine *engine, const forerun_costs *costs, forerun_error *error);

/* Begins a generation and forgets the one before; also clears an earlier forerun_cancel. Runs nothing by itself, but
 * the first generation of an engine that is plain, or planned, loads the plain graph here. 1 <= n_prompt <
 * facts.capacity. */
FORERUN_API forerun_status forerun_start(forerun_engine *engine, const int64_t *prompt, size_t n_prompt,
                                         const forerun_request *request, forerun_error *error);

/* Exactly one round. When it returns finish != FORERUN_RUNNING, or fails, the generation is over: the next call must
 * be forerun_start. */
FORERUN_API forerun_status forerun_step(forerun_engine *engine, forerun_round *out, forerun_error *error);

/* Asks the running generation to end before its next round. Any thread, at any time before forerun_close. */
FORERUN_API void forerun_cancel(forerun_engine *engine);

/* ---- Pure functions: the rules that the fused graph implements, in their reference form --------------------------
 * V = vocab_size. Probability arrays are row-major float32, finite, >= 0, each row with a positive sum.
 * A uniform is a float32 in [0, 1). They do not check their arguments. */

/* out[0 .. n-1] = uniforms of round `round` under `seed`: a pure function (Philox4x32-10, Salmon et al. 2011), so a
 * run is reproducible whatever happened before. out[i] does not depend on n. Multiples of 2^-24. */
FORERUN_API void forerun_uniforms(uint64_t seed, uint64_t round, size_t n, float *out);

/* out[V] = softmax(logits / temperature), temperature > 0. `out` may be `logits`. */
FORERUN_API void forerun_softmax(const float *logits, size_t vocab_size, float temperature, float *out);

/* Inverse CDF: the number of ids whose cumulative weight is <= uniform * total, never one of weight 0. */
FORERUN_API int64_t forerun_sample(const float *weights, size_t vocab_size, float uniform);

/* Greedy rule: accepts draft[i] while it is the argmax of row i; the own token is the argmax of the next row.
 * target_logits [n_draft + 1, V], draft [n_draft], committed [n_draft + 1]: accepted tokens, own token, then -1.
 * Returns the number of accepted tokens, as do the two below. */
FORERUN_API size_t forerun_accept_greedy(const float *target_logits, size_t vocab_size, const int64_t *draft,
                                         size_t n_draft, int64_t *committed);

/* Ratio test with residual (Leviathan et al. 2023, Chen et al. 2023): accepts draft[i] iff
 * uniform[i] * p_draft[i][draft[i]] < p_target[i][draft[i]]; at the first rejection the own token is drawn from
 * max(p_target - p_draft, 0), or from p_target where that is zero everywhere; after the last draft from p_target.
 * p_target [n_draft + 1, V], p_draft [n_draft, V], uniform [n_draft], scratch [V]. */
FORERUN_API size_t forerun_accept_ratio(const float *p_target, const float *p_draft, size_t vocab_size,
                                        const int64_t *draft, size_t n_draft, const float *uniform, float own_uniform,
                                        float *scratch, int64_t *committed);

/* Delta rule, for drafts that were not sampled: the ratio test with a p_draft that is 1 at draft[i]. */
FORERUN_API size_t forerun_accept_delta(const float *p_target, size_t vocab_size, const int64_t *draft, size_t n_draft,
                                        const float *uniform, float own_uniform, float *scratch, int64_t *committed);

/* How many draft tokens to verify, 0 .. n_draft: the number n with the most expected tokens for its cost,
 * (1 + survival[0] + .. + survival[n - 1]) / cost[n], the smallest of equals. survival[i] is the chance that drafts 0
 * .. i are all kept, cost[n] > 0. Every n is tried, for costs are a staircase. In sampling, a plan that looks at tokens
 * which it decides about changes the distribution: use rates of earlier rounds there. */
FORERUN_API size_t forerun_plan(const float *survival, const float *cost, size_t n_draft);

#ifdef __cplusplus
}
#endif
#endif
