#include "cuda_driver.h"

#include <dlfcn.h>
#include <stdbool.h>
#include <string.h>

static forerun_status load_library(const char *name, void **out, forerun_error *error) {
    *out = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    if (*out != NULL)
        return FORERUN_OK;
    const char *reason = dlerror();
    return fr_fail(error, FORERUN_BACKEND_ERROR,
                   "NVIDIA's driver cannot be loaded: %s. Install the driver (in a container: run it with the GPU "
                   "passed through), give the path of libcuda.so.1, or open the bundle on the CPU.",
                   reason != NULL ? reason : name);
}

static forerun_status start_driver(fr_cuda *self, const char *name, forerun_error *error) {
    CUresult result = self->DriverGetVersion(&self->version);
    if (result == CUDA_SUCCESS && self->version < FR_CUDA_OLDEST)
        return fr_fail(error, FORERUN_BACKEND_ERROR,
                       "%s is a driver for CUDA %d.%d; expected 12.0 or newer. Install NVIDIA's driver 525 or newer.",
                       name, self->version / 1000, self->version % 1000 / 10);
    if (result == CUDA_SUCCESS)
        result = self->Init(0);
    if (result == CUDA_ERROR_NO_DEVICE)
        return fr_fail(error, FORERUN_BACKEND_ERROR,
                       "%s finds no NVIDIA GPU (nvidia-smi lists what there is; CUDA_VISIBLE_DEVICES can hide one). "
                       "Open the bundle on the CPU, or on a machine with a GPU.",
                       name);
    if (result != CUDA_SUCCESS)
        return fr_fail(error, FORERUN_BACKEND_ERROR,
                       "%s does not start: CUDA error %d. nvidia-smi says whether driver and kernel module belong "
                       "together.",
                       name, result);
    return FORERUN_OK;
}

/* Whether the library has the function. ISO C has no cast from an object pointer to one, so the bytes are copied. */
static bool find(void *library, const char *symbol, void *function, size_t bytes) {
    void *found = dlsym(library, symbol);
    if (found != NULL)
        memcpy(function, &found, bytes);
    return found != NULL;
}

forerun_status fr_cuda_load(const char *path, fr_cuda *out, forerun_error *error) {
    const char *name = path != NULL ? path : "libcuda.so.1", *missing = NULL;
    void *library = NULL;
    forerun_status status = load_library(name, &library, error);
    if (status != FORERUN_OK)
        return status;
    *out = (fr_cuda){.version = 0};
#define FR_CUDA_FIND(member, symbol, parameters)                                                                       \
    if (!find(library, symbol, (void *)&out->member, sizeof out->member) && missing == NULL)                           \
        missing = symbol;
    FR_CUDA_FUNCTIONS(FR_CUDA_FIND)
#undef FR_CUDA_FIND
    /* An old driver lacks functions, too: its version says more than their names. */
    if (out->Init != NULL && out->DriverGetVersion != NULL)
        status = start_driver(out, name, error);
    if (status == FORERUN_OK && missing != NULL)
        return fr_fail(error, FORERUN_BACKEND_ERROR,
                       "%s has no %s: it is not NVIDIA's driver, or one that forerun %s does not know. Give the path "
                       "of libcuda.so.1 of a driver for CUDA 12.0 or newer.",
                       name, missing, FORERUN_VERSION);
    return status;
}

/* After one of these the context is corrupt: NVIDIA documents that the process must end to use the device again. */
static bool is_fatal(CUresult result) {
    return result == 4 /* deinitialized */ || result == 46 /* device unavailable */ ||
           result == 214 /* memory (ECC) */ || result == 220 /* NVLink */ || result == 226 /* contained */ ||
           result == CUDA_ERROR_ILLEGAL_ADDRESS || result == 702 /* timeout */ ||
           result == 709 /* context destroyed */ || result == 710 /* assertion */ ||
           (result >= 714 && result <= CUDA_ERROR_LAUNCH_FAILED) || result == 721 /* tensor memory */ ||
           result == 810 /* terminated by MPS */ || result == 911 /* external device */ || result == 999 /* unknown */;
}

forerun_status fr_cuda_check(fr_cuda *self, CUresult result, const char *doing, forerun_error *error) {
    if (result == CUDA_SUCCESS)
        return FORERUN_OK;
    const char *name = NULL, *text = NULL;
    if (self->GetErrorName(result, &name) != CUDA_SUCCESS || name == NULL)
        name = "an error that the driver does not name";
    if (self->GetErrorString(result, &text) != CUDA_SUCCESS || text == NULL)
        text = "no description";
    bool fatal = is_fatal(result);
    if (fatal && self->lost == CUDA_SUCCESS)
        self->lost = result;
    forerun_status status = result == CUDA_ERROR_OUT_OF_MEMORY ? FORERUN_OUT_OF_MEMORY : FORERUN_BACKEND_ERROR;
    return fr_fail(error, status, "%s, %s: %s (%d): %s.%s", self->name[0] != '\0' ? self->name : "NVIDIA's driver",
                   doing, name, result, text,
                   fatal ? " The device is lost to this engine: close it and open it again; if that fails too, end the "
                           "process."
                         : "");
}

static forerun_status choose_device(fr_cuda *self, int32_t ordinal, forerun_error *error) {
    int count = 0;
    forerun_status status = fr_cuda_check(self, self->DeviceGetCount(&count), "counting devices", error);
    if (status == FORERUN_OK && (ordinal < 0 || ordinal >= count))
        return fr_fail(error, FORERUN_INVALID_ARGUMENT,
                       "GPU %d does not exist; this process sees %d, numbered from 0 (CUDA_VISIBLE_DEVICES can hide "
                       "some).",
                       ordinal, count);
    if (status == FORERUN_OK)
        status = fr_cuda_check(self, self->DeviceGet(&self->device, ordinal), "finding the device", error);
    if (status == FORERUN_OK)
        status = fr_cuda_check(self, self->DeviceGetName(self->name, sizeof self->name, self->device),
                               "asking its name", error);
    return status;
}

forerun_status fr_cuda_start(fr_cuda *self, int32_t ordinal, forerun_error *error) {
    forerun_status status = choose_device(self, ordinal, error);
    if (status != FORERUN_OK)
        return status;
    CUcontext context = NULL;
    status =
        fr_cuda_check(self, self->DevicePrimaryCtxRetain(&context, self->device), "opening its primary context", error);
    if (status != FORERUN_OK)
        return status;
    self->context = context;
    status = fr_cuda_enter(self, error);
    if (status == FORERUN_OK)
        status =
            fr_cuda_check(self, self->StreamCreate(&self->stream, CU_STREAM_NON_BLOCKING), "creating a stream", error);
    return status;
}

forerun_status fr_cuda_enter(fr_cuda *self, forerun_error *error) {
    if (self->lost == CUDA_SUCCESS)
        return fr_cuda_check(self, self->CtxSetCurrent(self->context), "making its context current", error);
    return fr_fail(error, FORERUN_BACKEND_ERROR,
                   "%s was lost earlier with CUDA error %d: this engine is of no use. Close it and open it again; if "
                   "that fails too, end the process.",
                   self->name, self->lost);
}

void fr_cuda_stop(fr_cuda *self) {
    if (self->stream != NULL)
        self->StreamDestroy(self->stream);
    if (self->context != NULL)
        self->DevicePrimaryCtxRelease(self->device);
    self->stream = NULL;
    self->context = NULL;
}
