/* A bundle's manifest, and the check that the folder holds exactly the files it lists. artifacts/README.md is the
 * format's description. */
#ifndef FORERUN_MANIFEST_H
#define FORERUN_MANIFEST_H

#include "arena.h"
#include "status.h"

#include <stdbool.h>

enum { FR_FORMAT = 5, FR_MAX_RANK = 8, FR_MAX_DRAFT = 256, FR_MAX_LOOKUP = 63, FR_MAX_MATCH = 16 };

typedef enum fr_dtype { FR_INT64, FR_FLOAT32, FR_FLOAT16, FR_BFLOAT16, FR_INT8 } fr_dtype;

typedef struct fr_tensor {
    const char *name;
    fr_dtype dtype;
    size_t rank;
    int64_t shape[FR_MAX_RANK]; /* -1 = chosen by each run */
} fr_tensor;

typedef struct fr_state {
    fr_tensor tensor;   /* the input; every dimension is fixed */
    const char *output; /* the output that replaces it */
} fr_state;

/* Inputs and outputs without the states. */
typedef struct fr_graph {
    const char *file;
    fr_tensor *inputs, *outputs;
    fr_state *states;
    size_t n_inputs, n_outputs, n_states;
} fr_graph;

typedef struct fr_model {
    const char *name, *target_architecture, *drafter_family;
    int64_t vocab_size, draft_len, block_size, capacity, cache_rows, prefill_chunk;
    int64_t lookup_len, lookup_match; /* draft tokens of prompt lookup and the tokens that it matches; 0 = none */
    int64_t *verify_widths;           /* ascending; draft_len + 1 is among them, the last is fr_verify_len + 1 */
    size_t n_verify_widths;
    int64_t *eos_token_ids;
    size_t n_eos_token_ids;
    int64_t bos_token_id; /* -1 = none */
} fr_model;

typedef struct fr_file {
    const char *name;
    int64_t size;
    unsigned char sha256[32];
} fr_file;

/* An engine of a library for GPUs: its files, the devices that it was built for, and its graphs' interface. */
typedef struct fr_engine {
    const char *backend; /* "tensorrt-rtx" or "tensorrt" */
    const char *folder, *library;
    const char *round_plan, *plain_plan;
    const char **capabilities; /* "8.9" */
    size_t n_capabilities;
    fr_graph round, plain;
} fr_engine;

typedef struct fr_manifest {
    fr_model model;
    fr_graph round, plain; /* of ONNX Runtime on the CPU; without a file where the bundle is for GPUs alone */
    fr_engine *engines;
    size_t n_engines;
    fr_file *files;
    size_t n_files;
} fr_manifest;

/* M: most draft tokens that a round verifies, whoever proposed them. */
int64_t fr_verify_len(const fr_model *model);

/* The narrowest verify width that holds the anchor and `n_draft` <= fr_verify_len draft tokens. */
size_t fr_verify_width(const fr_model *model, int64_t n_draft);

/* Whether the graph has an output of that name. */
bool fr_graph_gives(const fr_graph *graph, const char *output);

size_t fr_dtype_bytes(fr_dtype dtype);

/* Bytes of a tensor whose dimensions are all fixed. The manifest's reader has made sure that it fits size_t. */
size_t fr_tensor_bytes(const fr_tensor *tensor);

/* Reads the text of a manifest: seal, format version, every field and the ranges that the loop relies on. `where`
 * names the file in messages; strings of *out live in the arena. */
forerun_status fr_manifest_parse(fr_arena *arena, const char *where, const char *text, size_t length, fr_manifest *out,
                                 forerun_error *error);

/* Reads FOLDER/manifest.json and checks name, size and SHA-256 of every file that it lists. */
forerun_status fr_manifest_open(fr_arena *arena, const char *folder, fr_manifest *out, forerun_error *error);

#endif
