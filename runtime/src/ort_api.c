#include "ort_api.h"

#include <dlfcn.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

typedef void (*any_function)(void);

/* The head of the library's table; slots are counted, not named. */
struct OrtApi {
    any_function slots[415];
};

typedef const OrtApiBase *(*get_api_base)(void);

/* Tables of libraries since 1.24, as many as a process can have copies of the library. */
enum { MAX_NEWER = 8 };
static _Atomic(const OrtApi *) newer[MAX_NEWER];

static int is_newer(const OrtApi *table) {
    int found = 0;
    for (size_t i = 0; i < MAX_NEWER; i++)
        found |= atomic_load(&newer[i]) == table;
    return found;
}

/* A library is not asked for a version that it lacks: it would print that on standard error. */
static int is_since(const char *version, int wanted) {
    const char *minor = strchr(version, '.');
    return atoi(version) != 1 || (minor != NULL && atoi(minor + 1) >= wanted);
}

void fr_ort_know(const OrtApiBase *base) {
    const OrtApi *table = base->GetApi(ORT_API_VERSION_USED);
    if (table == NULL || !is_since(base->GetVersionString(), ORT_SHAPES_SINCE) ||
        base->GetApi(ORT_SHAPES_SINCE) != table)
        return;
    for (size_t i = 0; i < MAX_NEWER; i++) {
        const OrtApi *empty = NULL;
        if (atomic_compare_exchange_strong(&newer[i], &empty, table) || empty == table)
            return;
    }
}

void fr_ort_fill(const OrtApi *table, fr_ort_api *out) {
#define FR_ORT_FILL(slot, result, name, parameters) out->name = (result(*) parameters)table->slots[slot];
    FR_ORT_FUNCTIONS(FR_ORT_FILL)
    if (is_newer(table)) {
        FR_ORT_SHAPE_FUNCTIONS(FR_ORT_FILL)
    }
#undef FR_ORT_FILL
}

OrtStatus *fr_ort_too_old(const OrtApiBase *base) {
    typedef OrtStatus *(*create_status)(int, const char *); /* the first slot of the first version */
    return ((create_status)base->GetApi(1)->slots[0])(ORT_INVALID_ARGUMENT,
                                                      "forerun's operators need ONNX Runtime 1.20 or newer.");
}

static void fill_plugins(const OrtApiBase *base, fr_ort_api *out) {
    const OrtApi *table = is_since(out->version, ORT_PLUGINS_SINCE) ? base->GetApi(ORT_PLUGINS_SINCE) : NULL;
#define FR_ORT_FILL(slot, result, name, parameters) out->name = (result(*) parameters)table->slots[slot];
    if (table != NULL) {
        FR_ORT_PLUGIN_FUNCTIONS(FR_ORT_FILL)
    }
#undef FR_ORT_FILL
}

forerun_status fr_ort_load(const char *path, fr_ort_api *out, forerun_error *error) {
    const char *name = path != NULL ? path : "libonnxruntime.so.1";
    void *library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    if (library == NULL) {
        const char *reason = dlerror();
        return fr_fail(error, FORERUN_BACKEND_ERROR,
                       "ONNX Runtime cannot be loaded: %s. Give the path of libonnxruntime.so (1.20 or newer) in the "
                       "options; the onnxruntime wheel has it in onnxruntime/capi.",
                       reason != NULL ? reason : name);
    }
    void *symbol = dlsym(library, "OrtGetApiBase");
    if (symbol == NULL)
        return fr_fail(error, FORERUN_BACKEND_ERROR,
                       "%s is a library without OrtGetApiBase: not ONNX Runtime. Give the path of libonnxruntime.so.",
                       name);
    get_api_base base;
    memcpy(&base, &symbol, sizeof base); /* ISO C has no cast from an object pointer to a function pointer */
    out->version = base()->GetVersionString();
    const OrtApi *api = base()->GetApi(ORT_API_VERSION_USED);
    if (api == NULL)
        return fr_fail(error, FORERUN_BACKEND_ERROR,
                       "%s is ONNX Runtime %s, which lacks version %d of its C interface. Use 1.20 or newer.", name,
                       out->version, ORT_API_VERSION_USED);
    fr_ort_know(base());
    fr_ort_fill(api, out);
    fill_plugins(base(), out);
    return FORERUN_OK;
}

forerun_status fr_ort_check(const fr_ort_api *api, OrtStatus *status, const char *doing, forerun_error *error) {
    if (status == NULL)
        return FORERUN_OK;
    const char *said = api->GetErrorMessage(status);
    const char *advice = strstr(said, "is not a registered function/op") != NULL
                             ? ". The bundle needs an operator that this forerun does not have: build it again, or "
                               "install the version that built it."
                             : "";
    fr_fail(error, FORERUN_BACKEND_ERROR, "ONNX Runtime %s, %s: %s%s", api->version, doing, said, advice);
    for (char *line = error != NULL ? strchr(error->message, '\n') : NULL; line != NULL; line = strchr(line, '\n'))
        *line = ' '; /* a message is one line */
    api->ReleaseStatus(status);
    return FORERUN_BACKEND_ERROR;
}
