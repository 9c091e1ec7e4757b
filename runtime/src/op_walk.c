#include "op_walk.h"

#include "kernels/walk.h"
#include "op_linear_node.h"

#include <stdlib.h>

#define REFUSE(self, ...) fr_op_refuse(&(self)->api, NAME, (self)->name, __VA_ARGS__)

static const char NAME[] = "GreedyWalk";

enum { ANCHOR, LOGITS, HIDDEN, TABLE, JOINT, BIAS = JOINT + 2, OUTPUT, INPUTS = OUTPUT + 2 }; /* weights, then scales */

/* Its scratch comes from the session's own allocator, and each run takes its own. */
typedef struct kernel {
    fr_ort_api api;
    OrtAllocator *allocator;
    fr_linear_node joint, output;
    int64_t state_size;
    fr_op_tensor constants[INPUTS]; /* those without data are read in each run */
    char name[128];
} kernel;

static OrtStatus *check(const kernel *self, const fr_op_tensor *of) {
    const fr_op_tensor *logits = &of[LOGITS], *hidden = &of[HIDDEN], *table = &of[TABLE];
    char found[3][128];
    const int fits = logits->rank == 3 && hidden->rank == 3 && table->rank == 2 && logits->sizes[0] == 1 &&
                     hidden->sizes[0] == 1 && logits->sizes[1] == hidden->sizes[1] &&
                     table->sizes[0] >= logits->sizes[2] && fr_op_elements(&of[ANCHOR]) == 1;
    if (!fits)
        return REFUSE(self,
                      "expected one anchor, logits [1, K, V], hidden [1, K, H] and a table [at least V, R]; found %lld "
                      "anchors, %s, %s and %s.",
                      (long long)fr_op_elements(&of[ANCHOR]), fr_op_show(logits, found[0], sizeof found[0]),
                      fr_op_show(hidden, found[1], sizeof found[1]), fr_op_show(table, found[2], sizeof found[2]));
    const int64_t anchor = *(const int64_t *)of[ANCHOR].data;
    if (anchor < 0 || anchor >= table->sizes[0])
        return REFUSE(self, "expected an anchor below %lld; found %lld.", (long long)table->sizes[0],
                      (long long)anchor);
    if (fr_op_elements(&of[BIAS]) == 3 * self->state_size)
        return NULL;
    return REFUSE(self, "expected a bias of %lld numbers; found %s.", (long long)(3 * self->state_size),
                  fr_op_show(&of[BIAS], found[0], sizeof found[0]));
}

/* One row of `inputs` numbers to `outputs`. */
static OrtStatus *take_product(const kernel *self, const fr_linear_node *node, const fr_op_tensor *weight,
                               int64_t inputs, int64_t outputs, fr_linear *job) {
    const fr_linear_tensors in = {.x = {.rank = 2, .sizes = {1, inputs}}, .weight = weight[0], .scale = weight[1]};
    FR_OP_TRY(fr_linear_node_take(node, &in, job));
    if ((int64_t)job->n == outputs)
        return NULL;
    return REFUSE(self, "expected %lld outputs of %s; found %zu.", (long long)outputs, node->name, job->n);
}

static OrtStatus *take(const kernel *self, const fr_op_tensor *of, fr_walk *job) {
    const int64_t state = self->state_size, rank = of[TABLE].sizes[1], width = of[HIDDEN].sizes[2];
    *job = (fr_walk){.table = of[TABLE].data,
                     .hidden = of[HIDDEN].data,
                     .logits = of[LOGITS].data,
                     .anchor = *(const int64_t *)of[ANCHOR].data,
                     .slots = (size_t)of[LOGITS].sizes[1],
                     .state_size = (size_t)state,
                     .rank = (size_t)rank,
                     .width = (size_t)width};
    FR_OP_TRY(take_product(self, &self->joint, &of[JOINT], state + rank + width, 3 * state, &job->joint));
    job->joint.addend = of[BIAS].data;
    return take_product(self, &self->output, &of[OUTPUT], state, of[LOGITS].sizes[2], &job->output);
}

static void run_seat(void *job, size_t seat) {
    (void)seat;
    fr_walk_seat(job);
}

static OrtStatus *compute(void *data, OrtKernelContext *context) {
    const kernel *self = data;
    fr_op_tensor of[INPUTS];
    fr_walk job;
    for (size_t i = 0; i < INPUTS; i++)
        if (self->constants[i].data != NULL)
            of[i] = self->constants[i];
        else
            FR_OP_TRY(fr_op_read_input(&self->api, context, i, &of[i]));
    FR_OP_TRY(check(self, of));
    FR_OP_TRY(take(self, of, &job));
    FR_OP_TRY(fr_op_output(&self->api, context, 0, of[LOGITS].sizes, 2, (void **)&job.tokens));
    FR_OP_TRY(self->api.AllocatorAlloc(self->allocator, fr_walk_scratch(&job), &job.scratch));
    const size_t most = fr_walk_begin(&job), seats = fr_op_seats();
    OrtStatus *status = fr_op_sit(&self->api, context, run_seat, most < seats ? most : seats, &job);
    return fr_op_free(&self->api, self->allocator, job.scratch, status);
}

static OrtStatus *set_up(kernel *self, const OrtKernelInfo *info) {
    fr_op_node_name(&self->api, info, self->name, sizeof self->name);
    const fr_linear_part_name joint = {.part = "joint", .node = self->name},
                              output = {.part = "output", .node = self->name};
    FR_OP_TRY(fr_linear_node_set_up_part(&self->joint, &self->api, info, &joint));
    FR_OP_TRY(fr_linear_node_set_up_part(&self->output, &self->api, info, &output));
    FR_OP_TRY(self->api.KernelInfoGetAttribute_int64(info, "state_size", &self->state_size));
    if (self->state_size < 1)
        return REFUSE(self, "expected the attribute state_size of at least 1; found %lld.",
                      (long long)self->state_size);
    FR_OP_TRY(self->api.KernelInfoGetAllocator(info, ORT_MEMORY_DEFAULT, &self->allocator));
    for (size_t i = 0; i < INPUTS; i++)
        FR_OP_TRY(fr_op_constant(&self->api, info, i, &self->constants[i]));
    return NULL;
}

static void destroy(void *data) {
    kernel *self = data;
    if (self->allocator != NULL)
        self->api.ReleaseAllocator(self->allocator);
    free(self);
}

static OrtStatus *create(const OrtCustomOp *op, const OrtApi *table, const OrtKernelInfo *info, void **out) {
    (void)op;
    fr_ort_api api = {.version = ""};
    fr_ort_fill(table, &api);
    kernel *self = calloc(1, sizeof *self);
    if (self == NULL)
        return fr_op_refuse(&api, NAME, "", "no memory for a node.");
    self->api = api;
    OrtStatus *status = set_up(self, info);
    if (status != NULL)
        destroy(self);
    else
        *out = self;
    return status;
}

static const char *get_name(const OrtCustomOp *op) {
    (void)op;
    return NAME;
}

static int get_input_type(const OrtCustomOp *op, size_t index) {
    (void)op;
    if (index == ANCHOR)
        return ORT_INT64;
    if (index == JOINT || index == OUTPUT)
        return ORT_UINT8;
    return index == JOINT + 1 || index == OUTPUT + 1 ? ORT_ANY_TYPE : ORT_FLOAT32;
}

static int get_output_type(const OrtCustomOp *op, size_t index) {
    (void)op, (void)index;
    return ORT_INT64;
}

static size_t count_inputs(const OrtCustomOp *op) {
    (void)op;
    return INPUTS;
}

static size_t count_outputs(const OrtCustomOp *op) {
    (void)op;
    return 1;
}

const OrtCustomOp fr_op_greedy_walk = FR_OP_CALLBACKS(get_input_type, get_output_type, fr_op_required, destroy);
