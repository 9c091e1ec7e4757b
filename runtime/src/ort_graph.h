/* A graph in ONNX Runtime: its session, and its inputs and outputs bound once for each width. */
#ifndef FORERUN_ORT_GRAPH_H
#define FORERUN_ORT_GRAPH_H

#include "backend.h"
#include "ort_ports.h"
#include "ort_states.h"

enum { FR_ORT_PORTS = FR_MAX_PORTS + 2 };

/* All inputs and outputs of a graph bound for one width, so that a round is one call. */
typedef struct fr_ort_binding {
    size_t width; /* 0 = free */
    uint64_t last_prepared;
    OrtIoBinding *handle;
    OrtValue *tokens;
} fr_ort_binding;

typedef struct fr_ort_graph {
    const fr_graph *facts;
    fr_graph_kind kind;
    const fr_ort_api *api;
    const OrtMemoryInfo *host;
    const fr_io *io;
    const fr_ort_states *states;
    const fr_model *model;
    bool on_device; /* an engine's graph, whose states may be in a device's memory */
    OrtSession *session;
    OrtValue *ports[FR_ORT_PORTS]; /* NULL for tokens, whose shape depends on the width, and for what is not bound */
} fr_ort_graph;

/* Checks the graph's interface and creates its session from the file at `path`. */
forerun_status fr_ort_graph_load(fr_ort_graph *self, const OrtEnv *env, const OrtSessionOptions *options,
                                 const char *path, forerun_error *error);

/* Binds everything for to->width. fr_ort_graph_unbind undoes it, also when it failed. */
forerun_status fr_ort_graph_bind(const fr_ort_graph *self, fr_ort_binding *to, forerun_error *error);

void fr_ort_graph_unbind(const fr_ort_graph *self, fr_ort_binding *it);

/* One run, with the inputs as they are now. */
forerun_status fr_ort_graph_run(const fr_ort_graph *self, const fr_ort_binding *it, forerun_error *error);

void fr_ort_graph_close(fr_ort_graph *self);

#endif
