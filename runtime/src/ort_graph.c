#include "ort_graph.h"

static forerun_status check(const fr_ort_graph *self, OrtStatus *status, const char *doing, forerun_error *error) {
    return fr_ort_check(self->api, status, doing, error);
}

/* The graphs of an engine also give what a loop on a device would read next: known, but not bound here. */
static size_t list_ports(const fr_ort_graph *self, fr_port ports[FR_ORT_PORTS]) {
    size_t count = fr_ports(self->io, self->kind, self->model, ports);
    if (!self->on_device)
        return count;
    const int64_t next = self->kind == FR_PLAIN ? 1 : fr_verify_len(self->model) + 1;
    ports[count] = (fr_port){"next_tokens", FR_INT64, true, 2, {1, next}, NULL};
    ports[count + 1] = (fr_port){"next_position", FR_INT64, true, 1, {1}, NULL};
    return count + 2;
}

forerun_status fr_ort_graph_load(fr_ort_graph *self, const OrtEnv *env, const OrtSessionOptions *options,
                                 const char *path, forerun_error *error) {
    fr_port ports[FR_ORT_PORTS];
    size_t n_ports = list_ports(self, ports);
    TRY(fr_ports_check(self->facts, ports, n_ports, error));
    for (size_t i = 0; i < n_ports; i++)
        if (ports[i].data != NULL && ports[i].data != self->io->tokens && self->ports[i] == NULL)
            TRY(fr_ort_value(self->api, self->host, ports[i].dtype, ports[i].shape, ports[i].rank, ports[i].data,
                             &self->ports[i], error));
    return check(self, self->api->CreateSession(env, path, options, &self->session), path, error);
}

static forerun_status bind_inputs(const fr_ort_graph *self, const fr_ort_binding *to, forerun_error *error) {
    fr_port ports[FR_ORT_PORTS];
    size_t n_ports = list_ports(self, ports);
    for (size_t i = 0; i < n_ports; i++) {
        OrtValue *value = self->ports[i] != NULL ? self->ports[i] : to->tokens;
        if (!ports[i].output)
            TRY(check(self, self->api->BindInput(to->handle, ports[i].name, value), ports[i].name, error));
    }
    return FORERUN_OK;
}

static forerun_status bind_outputs(const fr_ort_graph *self, const fr_ort_binding *to, forerun_error *error) {
    fr_port ports[FR_ORT_PORTS];
    size_t n_ports = list_ports(self, ports);
    for (size_t i = 0; i < n_ports; i++)
        if (ports[i].output && ports[i].data != NULL && fr_port_find(self->facts, &ports[i]) != NULL)
            TRY(check(self, self->api->BindOutput(to->handle, ports[i].name, self->ports[i]), ports[i].name, error));
    return FORERUN_OK;
}

forerun_status fr_ort_graph_bind(const fr_ort_graph *self, fr_ort_binding *to, forerun_error *error) {
    const int64_t shape[2] = {1, (int64_t)to->width};
    TRY(check(self, self->api->CreateIoBinding(self->session, &to->handle), "binding", error));
    TRY(fr_ort_value(self->api, self->host, FR_INT64, shape, 2, self->io->tokens, &to->tokens, error));
    TRY(bind_inputs(self, to, error));
    TRY(bind_outputs(self, to, error));
    for (size_t i = 0; i < self->facts->n_states; i++) {
        const fr_state *state = &self->facts->states[i];
        OrtValue *value = NULL;
        TRY(fr_ort_states_find(self->states, self->facts, &state->tensor, &value, error));
        TRY(check(self, self->api->BindInput(to->handle, state->tensor.name, value), state->tensor.name, error));
        TRY(check(self, self->api->BindOutput(to->handle, state->output, value), state->output, error));
    }
    return FORERUN_OK;
}

void fr_ort_graph_unbind(const fr_ort_graph *self, fr_ort_binding *it) {
    if (it->handle != NULL)
        self->api->ReleaseIoBinding(it->handle);
    if (it->tokens != NULL)
        self->api->ReleaseValue(it->tokens);
    *it = (fr_ort_binding){0};
}

forerun_status fr_ort_graph_run(const fr_ort_graph *self, const fr_ort_binding *it, forerun_error *error) {
    /* The library copies an input to a device when it is bound, not when it is run. */
    if (self->on_device)
        TRY(bind_inputs(self, it, error));
    return check(self, self->api->RunWithBinding(self->session, NULL, it->handle), self->facts->file, error);
}

void fr_ort_graph_close(fr_ort_graph *self) {
    for (size_t i = 0; i < FR_ORT_PORTS; i++)
        if (self->ports[i] != NULL)
            self->api->ReleaseValue(self->ports[i]);
    if (self->session != NULL)
        self->api->ReleaseSession(self->session);
}
