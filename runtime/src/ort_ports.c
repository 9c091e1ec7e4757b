#include "ort_ports.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

size_t fr_ports(const fr_io *io, fr_graph_kind kind, const fr_model *model, fr_port ports[FR_MAX_PORTS]) {
    const int64_t k = model->draft_len, m = fr_verify_len(model);
    /* The plain graph's one uniform is the round graph's for the own token: equal seeds sample alike. */
    const fr_port plain[] = {
        {"tokens", FR_INT64, false, 2, {1, -1}, io->tokens},
        {"n_known", FR_INT64, false, 1, {1}, io->n_known},
        {"position", FR_INT64, false, 1, {1}, io->position},
        {"temperature", FR_FLOAT32, false, 1, {1}, io->temperature},
        {"uniform", FR_FLOAT32, false, 2, {1, 1}, io->uniform + m},
        {"committed", FR_INT64, true, 2, {1, 1}, io->committed},
    };
    const fr_port round[] = {
        {"tokens", FR_INT64, false, 2, {1, -1}, io->tokens},
        {"n_known", FR_INT64, false, 1, {1}, io->n_known},
        {"n_draft", FR_INT64, false, 1, {1}, io->n_draft},
        {"position", FR_INT64, false, 1, {1}, io->position},
        {"temperature", FR_FLOAT32, false, 1, {1}, io->temperature},
        {"uniform", FR_FLOAT32, false, 2, {1, m + k + 2}, io->uniform},
        {"n_accepted", FR_INT64, true, 1, {1}, io->n_accepted},
        {"committed", FR_INT64, true, 2, {1, m + 1}, io->committed},
        {"draft_tokens", FR_INT64, true, 2, {1, k}, io->draft_tokens},
        {"draft_confidence", FR_FLOAT32, true, 2, {1, k}, io->draft_confidence},
        {"looked_up", FR_INT64, false, 1, {1}, io->looked_up}, /* the last: left out where nothing is looked up */
    };
    const bool is_plain = kind == FR_PLAIN;
    memcpy(ports, is_plain ? plain : round, is_plain ? sizeof plain : sizeof round);
    if (is_plain)
        return sizeof plain / sizeof plain[0];
    return sizeof round / sizeof round[0] - (model->lookup_len > 0 ? 0 : 1);
}

const fr_tensor *fr_port_find(const fr_graph *graph, const fr_port *port) {
    const fr_tensor *tensors = port->output ? graph->outputs : graph->inputs;
    size_t count = port->output ? graph->n_outputs : graph->n_inputs;
    for (size_t i = 0; i < count; i++)
        if (strcmp(tensors[i].name, port->name) == 0)
            return &tensors[i];
    return NULL;
}

static bool fits(const fr_tensor *tensor, const fr_port *port) {
    if (tensor->dtype != port->dtype || tensor->rank != port->rank)
        return false;
    for (size_t i = 0; i < port->rank; i++)
        if (tensor->shape[i] != port->shape[i] && tensor->shape[i] != -1)
            return false;
    return true;
}

static forerun_status unfit(const fr_graph *graph, const fr_port *port, forerun_error *error) {
    char last[24] = "";
    if (port->rank == 2 && port->shape[1] < 0)
        snprintf(last, sizeof last, ", T");
    else if (port->rank == 2)
        snprintf(last, sizeof last, ", %" PRId64, port->shape[1]);
    return fr_fail(
        error, FORERUN_BUNDLE_ERROR,
        "%s: expected the %s \"%s\" as %s [1%s], found none or another. Build the bundle again with forerun %s.",
        graph->file, port->output ? "output" : "input", port->name, port->dtype == FR_INT64 ? "int64" : "float32", last,
        FORERUN_VERSION);
}

forerun_status fr_ports_check(const fr_graph *graph, const fr_port *ports, size_t n_ports, forerun_error *error) {
    size_t found = 0;
    for (size_t i = 0; i < n_ports; i++) {
        const fr_tensor *tensor = fr_port_find(graph, &ports[i]);
        if (tensor == NULL && strcmp(ports[i].name, "draft_confidence") == 0)
            continue;
        if (tensor == NULL || !fits(tensor, &ports[i]))
            return unfit(graph, &ports[i], error);
        found++;
    }
    if (found == graph->n_inputs + graph->n_outputs)
        return FORERUN_OK;
    return fr_fail(
        error, FORERUN_BUNDLE_ERROR,
        "%s: expected %zu inputs and outputs beside its states, found %zu: it has some that this runtime does "
        "not know. Build the bundle again with forerun %s.",
        graph->file, found, graph->n_inputs + graph->n_outputs, FORERUN_VERSION);
}
