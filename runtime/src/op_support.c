#include "op_support.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { MAX_SEATS = 64 };

OrtStatus *fr_op_refuse(const fr_ort_api *api, const char *op, const char *node, const char *format, ...) {
    char message[640];
    size_t used = (size_t)snprintf(message, sizeof message, "%s %s: ", op, node);
    if (used >= sizeof message) /* a very long node name leaves no room for more */
        used = sizeof message - 1;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(message + used, sizeof message - used, format, arguments);
    va_end(arguments);
    return api->CreateStatus(ORT_INVALID_ARGUMENT, message);
}

static OrtStatus *take_shape(const fr_ort_api *api, const int64_t *sizes, fr_op_tensor *out) {
    if (out->rank > FR_OP_MAX_RANK)
        return api->CreateStatus(ORT_INVALID_ARGUMENT, "forerun: an input has more than 8 dimensions.");
    for (size_t i = 0; i < out->rank; i++)
        out->sizes[i] = sizes[i];
    return NULL;
}

/* Through an object that the library makes for it, some hundred nanoseconds. */
static OrtStatus *read_old_shape(const fr_ort_api *api, const OrtValue *value, fr_op_tensor *out) {
    OrtTensorTypeAndShapeInfo *info = NULL;
    FR_OP_TRY(api->GetTensorTypeAndShape(value, &info));
    OrtStatus *status = api->GetTensorElementType(info, &out->type);
    if (status == NULL)
        status = api->GetDimensionsCount(info, &out->rank);
    if (status == NULL && out->rank <= FR_OP_MAX_RANK)
        status = api->GetDimensions(info, out->sizes, out->rank);
    api->ReleaseTensorTypeAndShapeInfo(info);
    return status != NULL ? status : take_shape(api, out->sizes, out);
}

static OrtStatus *read_shape(const fr_ort_api *api, const OrtValue *value, fr_op_tensor *out) {
    const int64_t *sizes = NULL;
    if (api->GetTensorElementTypeAndShapeDataReference == NULL)
        return read_old_shape(api, value, out);
    FR_OP_TRY(api->GetTensorElementTypeAndShapeDataReference(value, &out->type, &sizes, &out->rank));
    return take_shape(api, sizes, out);
}

OrtStatus *fr_op_read(const fr_ort_api *api, const OrtValue *value, fr_op_tensor *out) {
    *out = (fr_op_tensor){.rank = 0};
    if (value == NULL)
        return NULL;
    FR_OP_TRY(read_shape(api, value, out));
    /* The library has one function for both; what is const stays so. */
    return api->GetTensorMutableData((OrtValue *)(uintptr_t)value, &out->data);
}

OrtStatus *fr_op_read_input(const fr_ort_api *api, const OrtKernelContext *context, size_t index, fr_op_tensor *out) {
    const OrtValue *value = NULL;
    FR_OP_TRY(api->KernelContext_GetInput(context, index, &value));
    return fr_op_read(api, value, out);
}

OrtStatus *fr_op_constant(const fr_ort_api *api, const OrtKernelInfo *info, size_t index, fr_op_tensor *out) {
    const OrtValue *value = NULL;
    int constant = 0;
    FR_OP_TRY(api->KernelInfoGetConstantInput_tensor(info, index, &constant, &value));
    return fr_op_read(api, constant ? value : NULL, out);
}

OrtStatus *fr_op_output(const fr_ort_api *api, OrtKernelContext *context, size_t index, const int64_t *sizes,
                        size_t rank, void **out) {
    OrtValue *value = NULL;
    FR_OP_TRY(api->KernelContext_GetOutput(context, index, sizes, rank, &value));
    return api->GetTensorMutableData(value, out);
}

size_t fr_op_seats(void) {
    static atomic_size_t known; /* asking the system takes long */
    size_t seats = atomic_load_explicit(&known, memory_order_relaxed);
    if (seats == 0) {
        const long found = sysconf(_SC_NPROCESSORS_ONLN);
        seats = found < 1 ? 1 : found > MAX_SEATS ? MAX_SEATS : (size_t)found;
        atomic_store_explicit(&known, seats, memory_order_relaxed);
    }
    return seats;
}

OrtStatus *fr_op_sit(const fr_ort_api *api, const OrtKernelContext *context, fr_piece sit, size_t seats, void *job) {
    if (seats > 1)
        return api->KernelContext_ParallelFor(context, sit, seats, 0, job);
    if (seats == 1)
        sit(job, 0);
    return NULL;
}

typedef struct shared {
    fr_lanes lanes;
    fr_piece run;
    size_t seats;
    void *job;
} shared;

static void take_parts(void *job, size_t seat) {
    shared *it = job;
    fr_lanes_take(&it->lanes, seat, it->seats, it->run, it->job);
}

OrtStatus *fr_op_run(const fr_ort_api *api, const OrtKernelContext *context, fr_piece run, size_t parts, void *job) {
    shared all = {.run = run, .seats = fr_op_seats(), .job = job};
    if (all.seats > parts)
        all.seats = parts;
    if (parts > 0)
        fr_lanes_begin(&all.lanes, parts, all.seats);
    return fr_op_sit(api, context, take_parts, all.seats, &all);
}

OrtStatus *fr_op_free(const fr_ort_api *api, OrtAllocator *allocator, void *memory, OrtStatus *status) {
    OrtStatus *freed = api->AllocatorFree(allocator, memory);
    if (status == NULL)
        return freed;
    if (freed != NULL)
        api->ReleaseStatus(freed);
    return status;
}

int64_t fr_op_elements(const fr_op_tensor *it) {
    int64_t count = 1;
    for (size_t i = 0; i < it->rank; i++)
        count *= it->sizes[i];
    return count;
}

const char *fr_op_show(const fr_op_tensor *it, char *out, size_t size) {
    size_t used = (size_t)snprintf(out, size, "[");
    for (size_t i = 0; i < it->rank && used < size; i++)
        used += (size_t)snprintf(out + used, size - used, i > 0 ? ", %lld" : "%lld", (long long)it->sizes[i]);
    if (used < size)
        snprintf(out + used, size - used, "]");
    return out;
}

void fr_op_node_name(const fr_ort_api *api, const OrtKernelInfo *info, char *out, size_t size) {
    OrtStatus *status = api->KernelInfo_GetNodeName(info, out, &size);
    if (status != NULL) { /* too long: messages go without it */
        api->ReleaseStatus(status);
        out[0] = '\0';
    }
}

int fr_op_string(const fr_ort_api *api, const OrtKernelInfo *info, const char *name, char *out, size_t size) {
    OrtStatus *status = api->KernelInfoGetAttribute_string(info, name, out, &size);
    if (status == NULL)
        return 1;
    api->ReleaseStatus(status); /* there is no such attribute */
    return 0;
}

OrtStatus *fr_op_choose_path(const fr_ort_api *api, const char *op, const char *node, const OrtKernelInfo *info,
                             const char *attribute, const char *const *names, size_t n_names, size_t *out) {
    char wanted[32], known[128] = "";
    *out = 0;
    if (!fr_op_string(api, info, attribute, wanted, sizeof wanted))
        return NULL;
    for (size_t i = 0, used = 0; i < n_names; i++) {
        if (strcmp(names[i], wanted) == 0) {
            *out = i;
            return NULL;
        }
        used += (size_t)snprintf(known + used, sizeof known - used, " %s", names[i]);
    }
    return fr_op_refuse(api, op, node, "this processor has no path \"%s\"; it has%s.", wanted, known);
}

const char *fr_op_provider(const OrtCustomOp *op) {
    (void)op;
    return "CPUExecutionProvider";
}

int fr_op_required(const OrtCustomOp *op, size_t index) {
    (void)op, (void)index;
    return 0; /* neither optional nor variadic; as a memory type: the default */
}

int fr_op_float(const OrtCustomOp *op, size_t index) {
    (void)op, (void)index;
    return ORT_FLOAT32;
}
