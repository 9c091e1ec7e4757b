/* What the loop needs from an execution library: run one graph once on buffers that never move. */
#ifndef FORERUN_BACKEND_H
#define FORERUN_BACKEND_H

#include "arena.h"
#include "manifest.h"

#include <stdbool.h>

typedef enum fr_graph_kind { FR_ROUND, FR_PLAIN } fr_graph_kind;

/* What to run. Decoding always continues the run before: a backend may keep the tokens that it gave, and their
 * position, where they are instead of reading them from the loop again. */
typedef struct fr_run {
    fr_graph_kind kind;
    forerun_phase phase;
    size_t width; /* T */
} fr_run;

/* The graphs' inputs and outputs (K = draft_len, M = fr_verify_len). The loop writes the inputs and reads the outputs
 * of one run. */
typedef struct fr_io {
    int64_t *tokens;         /* [T]: n_known committed tokens, n_draft draft tokens, padding */
    int64_t *n_known;        /* [1] */
    int64_t *n_draft;        /* [1] */
    int64_t *position;       /* [1] tokens in the cache */
    float *temperature;      /* [1] */
    float *uniform;          /* [M + K + 2]: M acceptance tests, the own token, K draft tokens, one spare */
    int64_t *looked_up;      /* [1] 1 = the draft tokens come from prompt lookup; only where the model has one */
    int64_t *n_accepted;     /* [1] round graph only */
    int64_t *committed;      /* [M + 1]; the plain graph writes the first */
    int64_t *draft_tokens;   /* [K] round graph only, as the next */
    float *draft_confidence; /* [K] */
} fr_io;

typedef struct fr_backend fr_backend;

/* A backend is a file with one of these tables. */
typedef struct fr_backend_operations {
    /* Makes such runs possible. Called while a generation starts, never within a round, and before the states hold
     * anything of it; what a call for an earlier generation made may be dropped. */
    forerun_status (*prepare)(fr_backend *self, fr_run run, forerun_error *error);
    /* Runs a graph as prepared. */
    forerun_status (*run)(fr_backend *self, fr_run run, forerun_error *error);
    /* State `index` < n_states of the backend. */
    void (*state)(const fr_backend *self, size_t index, forerun_state_info *out);
    /* Releases what does not live in the engine's arena. */
    void (*close)(fr_backend *self);
    /* Forgets the generation before, once all runs are prepared. NULL = a run reads nothing that its generation did not
     * write. */
    forerun_status (*begin)(fr_backend *self, forerun_error *error);
} fr_backend_operations;

/* The head of every backend's own struct. */
struct fr_backend {
    const fr_backend_operations *operations;
    const char *name, *version;
    fr_io io;
    size_t n_states;
    int32_t threads;
    bool has_confidence;  /* its rounds give draft_confidence; else it stays 1 */
    size_t prefill_width; /* 0 = a prefill run is as wide as its chunk; else all have this width, padded at their end */
};

/* Takes the buffers of `io` for the widest run that the loop makes of this model. */
forerun_status fr_io_take(fr_arena *arena, fr_io *io, const fr_model *model, forerun_error *error);

#endif
