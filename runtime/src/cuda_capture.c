#include "cuda_capture.h"

#include <inttypes.h>
#include <string.h>

static bool same_graph(fr_run a, fr_run b) {
    return a.kind == b.kind && a.width == b.width;
}

fr_capture *fr_capture_find(const fr_captures *self, fr_run run) {
    for (fr_capture *it = self->first; it != NULL; it = it->next)
        if (same_graph(it->run, run) && it->run.phase == run.phase)
            return it;
    return NULL;
}

static forerun_graph public_kind(fr_run run) {
    return run.kind == FR_PLAIN ? FORERUN_GRAPH_PLAIN : FORERUN_GRAPH_ROUND;
}

/* What the library's callback said. */
static forerun_status refused(const fr_captures *self, fr_run run, const char *doing, const char *what,
                              forerun_error *error) {
    const char *said = self->library.message(self->library.user);
    return fr_fail(error, FORERUN_BACKEND_ERROR, "%s, %zu tokens, %s%s: %s", self->graphs[run.kind]->file, run.width,
                   doing, what, said != NULL && said[0] != '\0' ? said : "the library refused and did not say why");
}

static forerun_status bind(const fr_captures *self, fr_run run, const char *name, CUdeviceptr address,
                           forerun_error *error) {
    if (self->library.bind(self->library.user, public_kind(run), (int64_t)run.width, name, address) == 0)
        return FORERUN_OK;
    return refused(self, run, "binding ", name, error);
}

static forerun_status bind_all(const fr_captures *self, fr_run run, forerun_error *error) {
    const fr_graph *graph = self->graphs[run.kind];
    fr_port ports[FR_CUDA_PORTS];
    size_t n_ports = fr_cuda_ports(self->buffers, self->io, run.kind, ports);
    for (size_t i = 0; i < n_ports; i++) {
        const fr_cuda_block *block = ports[i].output ? &self->buffers->results : &self->buffers->inputs;
        if (fr_port_find(graph, &ports[i]) != NULL)
            TRY(bind(self, run, ports[i].name, fr_cuda_address(block, ports[i].data), error));
    }
    for (size_t i = 0; i < graph->n_states; i++) {
        const fr_state *facts = &graph->states[i];
        const fr_cuda_state *state = fr_cuda_find_state(self->buffers, &facts->tensor);
        TRY(bind(self, run, facts->tensor.name, state->address, error));
        TRY(bind(self, run, facts->output, state->address, error));
    }
    return FORERUN_OK;
}

static forerun_status enqueue(const fr_captures *self, fr_run run, const char *doing, forerun_error *error) {
    if (self->library.enqueue(self->library.user, public_kind(run), (int64_t)run.width, self->cuda->stream) == 0)
        return FORERUN_OK;
    return refused(self, run, doing, "", error);
}

/* One greedy run of one token at position 0. */
static forerun_status warm_up(const fr_captures *self, fr_run run, forerun_error *error) {
    const fr_io *io = self->io;
    memset(self->buffers->inputs.host, 0, self->buffers->inputs.bytes);
    io->n_known[0] = 1;
    const fr_run whole = {run.kind, FORERUN_PREFILL, run.width};
    TRY(fr_cuda_copy_in(self->cuda, self->buffers, io, whole, error));
    TRY(enqueue(self, run, "running it once before its capture", error));
    return fr_cuda_check(self->cuda, self->cuda->StreamSynchronize(self->cuda->stream),
                         "running a graph once before its capture", error);
}

static forerun_status enqueue_all(const fr_captures *self, fr_run run, forerun_error *error) {
    TRY(fr_cuda_copy_in(self->cuda, self->buffers, self->io, run, error));
    TRY(enqueue(self, run, "capturing it", error));
    return fr_cuda_copy_out(self->cuda, self->buffers, self->io, run, error);
}

/* `first` is what failed while it was enqueued, if anything did. */
static forerun_status uncapturable(const fr_captures *self, fr_run run, CUresult result, const forerun_error *first,
                                   forerun_error *error) {
    forerun_error said = *first;
    if (said.status == FORERUN_OK)
        fr_cuda_check(self->cuda, result, "capturing", &said);
    return fr_fail(error, FORERUN_BACKEND_ERROR,
                   "%s, %zu tokens, cannot be captured as one CUDA graph: its library allocated, waited or used "
                   "another stream while it was enqueued. Build the engine again without such operators (its build log "
                   "says which stream_capturable it has). %s",
                   self->graphs[run.kind]->file, run.width, said.message);
}

static bool is_capture_error(CUresult result) {
    return result >= CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED && result <= CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD;
}

static forerun_status capture(const fr_captures *self, fr_run run, CUgraph *out, forerun_error *error) {
    fr_cuda *cuda = self->cuda;
    CUresult result = cuda->StreamBeginCapture(cuda->stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL);
    TRY(fr_cuda_check(cuda, result, "beginning a capture", error));
    forerun_error first = {FORERUN_OK, ""};
    forerun_status status = enqueue_all(self, run, &first);
    result = cuda->StreamEndCapture(cuda->stream, out); /* also after a failure: it leaves the stream usable */
    if (is_capture_error(result))
        return uncapturable(self, run, result, &first, error);
    return status != FORERUN_OK ? fr_fail(error, status, "%s", first.message)
                                : fr_cuda_check(cuda, result, "ending a capture", error);
}

static forerun_status instantiate(const fr_captures *self, CUgraph graph, fr_capture *out, forerun_error *error) {
    fr_cuda *cuda = self->cuda;
    TRY(fr_cuda_check(cuda, cuda->GraphInstantiate(&out->exec, graph, 0), "making a captured graph ready", error));
    /* The first launch would do this within a round. */
    TRY(fr_cuda_check(cuda, cuda->GraphUpload(out->exec, cuda->stream), "uploading a captured graph", error));
    return fr_cuda_check(cuda, cuda->StreamSynchronize(cuda->stream), "uploading a captured graph", error);
}

static bool is_bound(const fr_captures *self, fr_run run) {
    for (const fr_capture *it = self->first; it != NULL; it = it->next)
        if (same_graph(it->run, run))
            return true;
    return false;
}

forerun_status fr_capture_make(fr_captures *self, fr_arena *arena, fr_run run, forerun_error *error) {
    fr_cuda *cuda = self->cuda;
    fr_capture *made = fr_arena_take(arena, 1, sizeof *made);
    if (made == NULL)
        return fr_fail(error, FORERUN_OUT_OF_MEMORY, "No memory to capture %s.", self->graphs[run.kind]->file);
    made->run = run;
    if (!is_bound(self, run)) {
        TRY(bind_all(self, run, error));
        TRY(warm_up(self, run, error));
    }
    CUgraph graph = NULL;
    forerun_status status = capture(self, run, &graph, error);
    if (status == FORERUN_OK)
        status = instantiate(self, graph, made, error);
    if (graph != NULL)
        cuda->GraphDestroy(graph);
    if (status != FORERUN_OK) {
        if (made->exec != NULL)
            cuda->GraphExecDestroy(made->exec);
        return status;
    }
    made->next = self->first;
    self->first = made;
    return FORERUN_OK;
}

void fr_captures_close(fr_captures *self) {
    for (fr_capture *it = self->first; it != NULL; it = it->next)
        self->cuda->GraphExecDestroy(it->exec);
    self->first = NULL;
}
