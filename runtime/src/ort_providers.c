#include "ort_providers.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* What a provider is added with. */
typedef struct order {
    const fr_ort_api *api;
    OrtEnv *env;
    OrtSessionOptions *options;
    const char *library;
    int32_t ordinal;
    const OrtMemoryInfo **memory;
    bool *owned;
} order;

struct fr_provider {
    const char *name;
    const char *library_name; /* as ONNX Runtime calls it */
    const char *get;          /* where a library with it comes from */
    forerun_status (*add)(const fr_provider *self, const order *it, forerun_error *error);
};

/* How the library names the memory of CUDA devices. */
static const char CUDA_MEMORY[] = "Cuda";

/* Whether the library was built with a provider; *list names those it has. */
static bool is_available(const fr_ort_api *api, const char *name, char *list, size_t size) {
    char **names = NULL;
    int count = 0;
    bool found = false;
    list[0] = '\0';
    OrtStatus *status = api->GetAvailableProviders(&names, &count);
    for (int i = 0; status == NULL && i < count; i++) {
        size_t used = strlen(list);
        snprintf(list + used, size - used, "%s%s", i > 0 ? ", " : "", names[i]);
        found = found || strcmp(names[i], name) == 0;
    }
    if (status == NULL)
        status = api->ReleaseAvailableProviders(names, count);
    if (status != NULL)
        api->ReleaseStatus(status);
    return found;
}

/* Those that are part of ONNX Runtime itself. */
static forerun_status check_available(const fr_provider *self, const order *it, forerun_error *error) {
    char list[256];
    if (is_available(it->api, self->library_name, list, sizeof list))
        return FORERUN_OK;
    return fr_fail(error, FORERUN_BACKEND_ERROR,
                   "The provider \"%s\" is not in this ONNX Runtime %s, which has %s. Give the path of a "
                   "libonnxruntime.so that has %s: %s.",
                   self->name, it->api->version, list, self->library_name, self->get);
}

static forerun_status check(const fr_provider *self, const order *it, OrtStatus *status, forerun_error *error) {
    char doing[64];
    snprintf(doing, sizeof doing, "provider \"%s\" on device %" PRId32, self->name, it->ordinal);
    return fr_ort_check(it->api, status, doing, error);
}

static forerun_status give_cuda_memory(const fr_provider *self, const order *it, forerun_error *error) {
    OrtMemoryInfo *memory = NULL;
    TRY(check(self, it,
              it->api->CreateMemoryInfo(CUDA_MEMORY, ORT_DEVICE_ALLOCATOR, it->ordinal, ORT_MEMORY_DEFAULT, &memory),
              error));
    *it->memory = memory;
    *it->owned = true;
    return FORERUN_OK;
}

static forerun_status add_cuda(const fr_provider *self, const order *it, forerun_error *error) {
    char ordinal[12];
    OrtCudaOptions *cuda = NULL;
    TRY(check_available(self, it, error));
    snprintf(ordinal, sizeof ordinal, "%" PRId32, it->ordinal);
    const char *keys[] = {"device_id"}, *values[] = {ordinal};
    OrtStatus *status = it->api->CreateCudaOptions(&cuda);
    if (status == NULL)
        status = it->api->UpdateCudaOptions(cuda, keys, values, 1);
    if (status == NULL)
        status = it->api->AppendCuda(it->options, cuda);
    if (cuda != NULL)
        it->api->ReleaseCudaOptions(cuda);
    TRY(check(self, it, status, error));
    return give_cuda_memory(self, it, error);
}

/* What TensorRT refuses, CUDA runs: both are added, in this order. */
static forerun_status add_tensorrt(const fr_provider *self, const order *it, forerun_error *error) {
    char ordinal[12];
    OrtTensorRtOptions *tensorrt = NULL;
    TRY(check_available(self, it, error));
    snprintf(ordinal, sizeof ordinal, "%" PRId32, it->ordinal);
    /* The graphs say in which type each product is: without the second the library computes half as float. */
    const char *keys[] = {"device_id", "trt_fp16_enable"}, *values[] = {ordinal, "1"};
    OrtStatus *status = it->api->CreateTensorRtOptions(&tensorrt);
    if (status == NULL)
        status = it->api->UpdateTensorRtOptions(tensorrt, keys, values, 2);
    if (status == NULL)
        status = it->api->AppendTensorRt(it->options, tensorrt);
    if (tensorrt != NULL)
        it->api->ReleaseTensorRtOptions(tensorrt);
    TRY(check(self, it, status, error));
    const fr_provider *cuda = NULL;
    TRY(fr_provider_find("cuda", &cuda, error));
    return add_cuda(cuda, it, error);
}

/* The `ordinal`-th GPU of a plugin provider; NULL and their number where there are fewer. */
static const OrtEpDevice *find_gpu(const fr_provider *self, const order *it, const OrtEpDevice *const *devices,
                                   size_t n_devices, int32_t *n_gpus) {
    *n_gpus = 0;
    for (size_t i = 0; i < n_devices; i++) {
        if (strcmp(it->api->EpDevice_EpName(devices[i]), self->library_name) != 0 ||
            it->api->HardwareDevice_Type(it->api->EpDevice_Device(devices[i])) != ORT_HARDWARE_GPU)
            continue;
        if ((*n_gpus)++ == it->ordinal)
            return devices[i];
    }
    return NULL;
}

static forerun_status add_plugin(const fr_provider *self, const order *it, forerun_error *error) {
    const OrtEpDevice *const *devices = NULL;
    size_t n_devices = 0;
    int32_t n_gpus = 0;
    if (it->api->RegisterProviderLibrary == NULL)
        return fr_fail(error, FORERUN_BACKEND_ERROR,
                       "The provider \"%s\" is a plugin, which ONNX Runtime %s does not load. Use 1.23 or newer.",
                       self->name, it->api->version);
    if (it->library == NULL)
        return fr_fail(error, FORERUN_INVALID_ARGUMENT,
                       "The provider \"%s\" is a plugin: give its path in provider_library; %s.", self->name,
                       self->get);
    TRY(check(self, it, it->api->GetEpDevices(it->env, &devices, &n_devices), error));
    if (find_gpu(self, it, devices, n_devices, &n_gpus) == NULL && n_gpus == 0) { /* once for all engines */
        TRY(check(self, it, it->api->RegisterProviderLibrary(it->env, self->library_name, it->library), error));
        TRY(check(self, it, it->api->GetEpDevices(it->env, &devices, &n_devices), error));
    }
    const OrtEpDevice *device = find_gpu(self, it, devices, n_devices, &n_gpus);
    if (device == NULL)
        return fr_fail(error, FORERUN_BACKEND_ERROR,
                       "The provider \"%s\" has no device %" PRId32 ": it finds %" PRId32
                       " that it can use. Check the driver with nvidia-smi.",
                       self->name, it->ordinal, n_gpus);
    TRY(check(self, it, it->api->AppendProvider(it->options, it->env, &device, 1, NULL, NULL, 0), error));
    *it->memory = it->api->EpDevice_MemoryInfo(device, ORT_MEMORY_DEFAULT);
    *it->owned = false;
    if (*it->memory == NULL)
        return fr_fail(error, FORERUN_BACKEND_ERROR, "The provider \"%s\" gives no memory of its device.", self->name);
    return FORERUN_OK;
}

static const fr_provider PROVIDERS[] = {
    {"cpu", "CPUExecutionProvider", "", NULL},
    {"cuda", "CUDAExecutionProvider", "the onnxruntime-gpu wheel has one in onnxruntime/capi", add_cuda},
    {"tensorrt", "TensorrtExecutionProvider", "the onnxruntime-gpu wheel has one in onnxruntime/capi", add_tensorrt},
    {"tensorrt-rtx", "NvTensorRTRTXExecutionProvider",
     "the wheel onnxruntime-ep-nv-tensorrt-rtx has it as libonnxruntime_providers_nv_tensorrt_rtx.so", add_plugin},
};

forerun_status fr_provider_find(const char *name, const fr_provider **out, forerun_error *error) {
    for (size_t i = 0; i < sizeof PROVIDERS / sizeof PROVIDERS[0]; i++)
        if (strcmp(PROVIDERS[i].name, name != NULL ? name : "cpu") == 0) {
            *out = &PROVIDERS[i];
            return FORERUN_OK;
        }
    return fr_fail(error, FORERUN_INVALID_ARGUMENT,
                   "provider must be \"cpu\", \"cuda\", \"tensorrt\" or \"tensorrt-rtx\", found \"%.100s\".", name);
}

const char *fr_provider_device(const fr_provider *provider) {
    return provider->add == NULL ? NULL : provider->name;
}

forerun_status fr_provider_add(const fr_provider *provider, const fr_ort_api *api, OrtEnv *env,
                               OrtSessionOptions *options, const char *library, int32_t ordinal,
                               const OrtMemoryInfo **memory, bool *owned, forerun_error *error) {
    const order it = {api, env, options, library, ordinal, memory, owned};
    if (provider->add == NULL)
        return FORERUN_OK;
    if (ordinal < 0)
        return fr_fail(error, FORERUN_INVALID_ARGUMENT, "device must be 0 or more, found %" PRId32 ".", ordinal);
    return provider->add(provider, &it, error);
}
