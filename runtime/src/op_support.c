#include "op_support.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

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

OrtStatus *fr_op_read(const fr_ort_api *api, const OrtValue *value, fr_op_tensor *out) {
    *out = (fr_op_tensor){.rank = 0};
    if (value == NULL)
        return NULL;
    OrtTensorTypeAndShapeInfo *info = NULL;
    FR_OP_TRY(api->GetTensorTypeAndShape(value, &info));
    OrtStatus *status = api->GetDimensionsCount(info, &out->rank);
    if (status == NULL && out->rank > FR_OP_MAX_RANK)
        status = api->CreateStatus(ORT_INVALID_ARGUMENT, "forerun: an input has more than 8 dimensions.");
    if (status == NULL)
        status = api->GetDimensions(info, out->sizes, out->rank);
    api->ReleaseTensorTypeAndShapeInfo(info);
    FR_OP_TRY(status);
    /* The library has one function for both; what is const stays so. */
    return api->GetTensorMutableData((OrtValue *)(uintptr_t)value, &out->data);
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
                             const char *const *names, size_t n_names, size_t *out) {
    char wanted[32], known[128] = "";
    *out = 0;
    if (!fr_op_string(api, info, "path", wanted, sizeof wanted))
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
