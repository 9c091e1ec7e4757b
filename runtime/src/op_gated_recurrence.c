#include "op_gated_recurrence.h"

#include "kernels/linear.h"
#include "op_support.h"

#include <stdlib.h>
#include <string.h>

static const char NAME[] = "GatedRecurrence";

enum { Z, STATE, INPUTS };
enum { NEXT_STATE, OUT, OUTPUTS };

typedef struct kernel {
    fr_ort_api api;
    const fr_float_steps *steps;
    char name[128];
} kernel;

static OrtStatus *check(const kernel *self, const fr_op_tensor *z, const fr_op_tensor *state) {
    const size_t last = z->rank - 1; /* not read at rank 0 */
    if (z->rank >= 1 && z->rank == state->rank && memcmp(z->sizes, state->sizes, last * sizeof *z->sizes) == 0 &&
        z->sizes[last] == 3 * state->sizes[last])
        return NULL;
    char found[2][128];
    return fr_op_refuse(&self->api, NAME, self->name, "expected z [..., 3E] and state [..., E]; found %s and %s.",
                        fr_op_show(z, found[0], sizeof found[0]), fr_op_show(state, found[1], sizeof found[1]));
}

static OrtStatus *compute(void *data, OrtKernelContext *context) {
    const kernel *self = data;
    fr_op_tensor in[INPUTS];
    float *out[OUTPUTS];
    for (size_t i = 0; i < INPUTS; i++)
        FR_OP_TRY(fr_op_read_input(&self->api, context, i, &in[i]));
    FR_OP_TRY(check(self, &in[Z], &in[STATE]));
    for (size_t i = 0; i < OUTPUTS; i++)
        FR_OP_TRY(fr_op_output(&self->api, context, i, in[STATE].sizes, in[STATE].rank, (void **)&out[i]));
    const float *z = in[Z].data, *state = in[STATE].data;
    size_t rows = 1, size = (size_t)in[STATE].sizes[in[STATE].rank - 1];
    for (size_t i = 0; i + 1 < in[STATE].rank; i++)
        rows *= (size_t)in[STATE].sizes[i];
    for (size_t row = 0; row < rows; row++)
        self->steps->recur(z + 3 * row * size, state + row * size, size, out[NEXT_STATE] + row * size,
                           out[OUT] + row * size);
    return NULL;
}

static OrtStatus *create(const OrtCustomOp *op, const OrtApi *table, const OrtKernelInfo *info, void **out) {
    (void)op;
    fr_ort_api api = {.version = ""};
    fr_ort_fill(table, &api);
    kernel *self = calloc(1, sizeof *self);
    if (self == NULL)
        return api.CreateStatus(ORT_INVALID_ARGUMENT, "GatedRecurrence: no memory for a node.");
    const fr_linear_path *paths[FR_LINEAR_MAX_PATHS];
    fr_linear_paths(&fr_linear_int8, paths);
    self->api = api;
    self->steps = paths[0]->steps;
    fr_op_node_name(&api, info, self->name, sizeof self->name);
    *out = self;
    return NULL;
}

static const char *get_name(const OrtCustomOp *op) {
    (void)op;
    return NAME;
}

static size_t count_inputs(const OrtCustomOp *op) {
    (void)op;
    return INPUTS;
}

static size_t count_outputs(const OrtCustomOp *op) {
    (void)op;
    return OUTPUTS;
}

const OrtCustomOp fr_op_gated_recurrence = FR_OP_CALLBACKS(fr_op_float, fr_op_float, fr_op_required, free);
