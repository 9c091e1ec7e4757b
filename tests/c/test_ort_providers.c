/* Adding execution providers, on a library of our own that answers as it is told: what is asked of it, in which order,
 * and every refusal. */
#include "check.h"
#include "ort_providers.h"

#include <inttypes.h>

static char calls[512];   /* what was called, separated by spaces */
static const char *fails; /* the call that gives a status */
static int options_storage, env_storage, memory_storage, device_memory_storage, status_storage;
static const char *available[3] = {"CUDAExecutionProvider", "TensorrtExecutionProvider", "CPUExecutionProvider"};
static int n_available = 3;
static int n_devices, n_registered; /* GPUs of the plugin, once it is registered */
static bool without_memory;

static OrtStatus *call(const char *name, const char *argument) {
    size_t used = strlen(calls);
    snprintf(calls + used, sizeof calls - used, "%s%s%s%s", used > 0 ? " " : "", name, argument[0] != '\0' ? ":" : "",
             argument);
    return fails != NULL && strcmp(fails, name) == 0 ? (OrtStatus *)(void *)&status_storage : NULL;
}

static const char *message(const OrtStatus *status) {
    (void)status;
    return "libcudart.so.13: cannot open\nshared object file";
}

static void release_status(OrtStatus *status) {
    (void)status;
}

static OrtStatus *get_available(char ***names, int *count) {
    *names = (char **)(uintptr_t)available;
    *count = n_available;
    return NULL;
}

static OrtStatus *release_available(char **names, int count) {
    CHECK(names == (char **)(uintptr_t)available);
    CHECK_INT(count, n_available);
    return NULL;
}

static OrtStatus *create_memory(const char *name, int kind, int ordinal, int type, OrtMemoryInfo **out) {
    char text[32];
    CHECK(strcmp(name, "Cuda") == 0 && kind == ORT_DEVICE_ALLOCATOR && type == ORT_MEMORY_DEFAULT);
    snprintf(text, sizeof text, "%d", ordinal);
    *out = (OrtMemoryInfo *)(void *)&memory_storage;
    return call("CreateMemoryInfo", text);
}

static OrtStatus *update(const char *name, const char *const *keys, const char *const *values, size_t count) {
    char text[128] = "";
    for (size_t i = 0; i < count; i++) {
        size_t used = strlen(text);
        snprintf(text + used, sizeof text - used, "%s%s=%s", i > 0 ? "," : "", keys[i], values[i]);
    }
    return call(name, text);
}

static OrtStatus *create_cuda(OrtCudaOptions **out) {
    *out = (OrtCudaOptions *)(void *)&options_storage;
    return call("CreateCuda", "");
}

static OrtStatus *update_cuda(OrtCudaOptions *cuda, const char *const *keys, const char *const *values, size_t count) {
    CHECK(cuda == (OrtCudaOptions *)(void *)&options_storage);
    return update("UpdateCuda", keys, values, count);
}

static OrtStatus *append_cuda(OrtSessionOptions *session, const OrtCudaOptions *cuda) {
    (void)session;
    CHECK(cuda == (OrtCudaOptions *)(void *)&options_storage);
    return call("AppendCuda", "");
}

static void release_cuda(OrtCudaOptions *cuda) {
    (void)cuda;
    call("ReleaseCuda", "");
}

static OrtStatus *create_tensorrt(OrtTensorRtOptions **out) {
    *out = (OrtTensorRtOptions *)(void *)&options_storage;
    return call("CreateTensorRt", "");
}

static OrtStatus *update_tensorrt(OrtTensorRtOptions *it, const char *const *keys, const char *const *values,
                                  size_t count) {
    (void)it;
    return update("UpdateTensorRt", keys, values, count);
}

static OrtStatus *append_tensorrt(OrtSessionOptions *session, const OrtTensorRtOptions *it) {
    (void)session;
    (void)it;
    return call("AppendTensorRt", "");
}

static void release_tensorrt(OrtTensorRtOptions *it) {
    (void)it;
    call("ReleaseTensorRt", "");
}

/* Device 0 is the CPU of the library itself; the plugin's follow: GPUs, and a CPU that it also offers. */
static const char names[4] = "cpgg";

static OrtStatus *register_library(OrtEnv *env, const char *name, const char *path) {
    CHECK(env == (OrtEnv *)(void *)&env_storage && strcmp(name, "NvTensorRTRTXExecutionProvider") == 0);
    n_registered++;
    return call("Register", path);
}

static OrtStatus *get_devices(const OrtEnv *env, const OrtEpDevice *const **out, size_t *count) {
    static const OrtEpDevice *devices[4];
    (void)env;
    for (size_t i = 0; i < 4; i++)
        devices[i] = (const OrtEpDevice *)(const void *)&names[i];
    *out = devices;
    *count = n_registered > 0 ? 2 + (size_t)n_devices : 1;
    return NULL;
}

static const char *device_name(const OrtEpDevice *device) {
    return (const char *)device == &names[0] ? "CPUExecutionProvider" : "NvTensorRTRTXExecutionProvider";
}

static const OrtHardwareDevice *hardware(const OrtEpDevice *device) {
    return (const OrtHardwareDevice *)(const void *)device;
}

static int hardware_type(const OrtHardwareDevice *device) {
    return *(const char *)(const void *)device == 'g' ? ORT_HARDWARE_GPU : 0;
}

static OrtStatus *append_provider(OrtSessionOptions *session, OrtEnv *env, const OrtEpDevice *const *devices,
                                  size_t count, const char *const *keys, const char *const *values, size_t n_options) {
    char text[16];
    (void)session;
    (void)env;
    CHECK(count == 1 && keys == NULL && values == NULL && n_options == 0);
    snprintf(text, sizeof text, "%d", (int)((const char *)(const void *)devices[0] - names));
    return call("AppendProvider", text);
}

static const OrtMemoryInfo *device_memory(const OrtEpDevice *device, int type) {
    CHECK(device != NULL && type == ORT_MEMORY_DEFAULT);
    return without_memory ? NULL : (const OrtMemoryInfo *)(const void *)&device_memory_storage;
}

static const fr_ort_api API = {.version = "1.31.1",
                               .GetErrorMessage = message,
                               .ReleaseStatus = release_status,
                               .GetAvailableProviders = get_available,
                               .ReleaseAvailableProviders = release_available,
                               .CreateMemoryInfo = create_memory,
                               .CreateCudaOptions = create_cuda,
                               .UpdateCudaOptions = update_cuda,
                               .AppendCuda = append_cuda,
                               .ReleaseCudaOptions = release_cuda,
                               .CreateTensorRtOptions = create_tensorrt,
                               .UpdateTensorRtOptions = update_tensorrt,
                               .AppendTensorRt = append_tensorrt,
                               .ReleaseTensorRtOptions = release_tensorrt,
                               .RegisterProviderLibrary = register_library,
                               .GetEpDevices = get_devices,
                               .AppendProvider = append_provider,
                               .HardwareDevice_Type = hardware_type,
                               .EpDevice_EpName = device_name,
                               .EpDevice_Device = hardware,
                               .EpDevice_MemoryInfo = device_memory};

static forerun_error error;
static const OrtMemoryInfo *memory;
static bool owned;

static forerun_status add(const char *name, const fr_ort_api *api, const char *library, int32_t ordinal) {
    const fr_provider *provider = NULL;
    calls[0] = '\0';
    memory = NULL;
    owned = false;
    REQUIRE(fr_provider_find(name, &provider, &error) == FORERUN_OK);
    return fr_provider_add(provider, api, (OrtEnv *)(void *)&env_storage, (OrtSessionOptions *)(void *)&options_storage,
                           library, ordinal, &memory, &owned, &error);
}

static void refused(const char *name, const char *library, int32_t ordinal, forerun_status status, const char *text) {
    CHECK_INT(add(name, &API, library, ordinal), status);
    CHECK_HAS(error.message, text);
    CHECK(strchr(error.message, '\n') == NULL);
    CHECK(!owned);
}

static void test_the_cpu_needs_nothing(void) {
    const fr_provider *provider = NULL;
    CHECK(add(NULL, &API, NULL, 0) == FORERUN_OK);
    CHECK(add("cpu", &API, NULL, 0) == FORERUN_OK);
    CHECK(calls[0] == '\0' && memory == NULL);
    REQUIRE(fr_provider_find("cpu", &provider, &error) == FORERUN_OK);
    CHECK(fr_provider_device(provider) == NULL);
    CHECK(fr_provider_find("rocm", &provider, &error) == FORERUN_INVALID_ARGUMENT);
    CHECK_HAS(error.message, "found \"rocm\"");
}

static void test_cuda(void) {
    CHECK(add("cuda", &API, NULL, 2) == FORERUN_OK);
    CHECK(strcmp(calls, "CreateCuda UpdateCuda:device_id=2 AppendCuda ReleaseCuda CreateMemoryInfo:2") == 0);
    CHECK(memory == (OrtMemoryInfo *)(void *)&memory_storage && owned);
    static const char *const steps[] = {"CreateCuda", "UpdateCuda", "AppendCuda", "CreateMemoryInfo"};
    for (size_t i = 0; i < 4; i++) {
        fails = steps[i];
        refused("cuda", NULL, 1, FORERUN_BACKEND_ERROR, "provider \"cuda\" on device 1: libcudart.so.13: cannot open");
        CHECK_HAS(calls, "ReleaseCuda");
    }
    fails = NULL;
}

static void test_tensorrt_leaves_the_rest_to_cuda(void) {
    CHECK(add("tensorrt", &API, NULL, 0) == FORERUN_OK);
    CHECK(strcmp(calls, "CreateTensorRt UpdateTensorRt:device_id=0,trt_fp16_enable=1 AppendTensorRt ReleaseTensorRt "
                        "CreateCuda UpdateCuda:device_id=0 AppendCuda ReleaseCuda CreateMemoryInfo:0") == 0);
    CHECK(owned);
    fails = "AppendTensorRt";
    refused("tensorrt", NULL, 0, FORERUN_BACKEND_ERROR, "provider \"tensorrt\" on device 0: libcudart.so.13");
    CHECK_HAS(calls, "ReleaseTensorRt");
    fails = NULL;
}

static void test_a_library_without_a_provider(void) {
    available[0] = available[1] = "CPUExecutionProvider";
    n_available = 1;
    refused("cuda", NULL, 0, FORERUN_BACKEND_ERROR,
            "The provider \"cuda\" is not in this ONNX Runtime 1.31.1, which has CPUExecutionProvider. Give");
    refused("tensorrt", NULL, 0, FORERUN_BACKEND_ERROR, "that has TensorrtExecutionProvider: the onnxruntime-gpu");
    CHECK(calls[0] == '\0');
}

static void test_plugin(void) {
    n_devices = 2;
    CHECK(add("tensorrt-rtx", &API, "/p.so", 1) == FORERUN_OK);
    CHECK(strcmp(calls, "Register:/p.so AppendProvider:3") == 0);
    CHECK(memory == (const OrtMemoryInfo *)(const void *)&device_memory_storage && !owned);
    CHECK(add("tensorrt-rtx", &API, "/p.so", 0) == FORERUN_OK);
    CHECK(strcmp(calls, "AppendProvider:2") == 0); /* registered already: the library refuses a second time */
    refused("tensorrt-rtx", "/p.so", 2, FORERUN_BACKEND_ERROR,
            "has no device 2: it finds 2 that it can use. Check the driver with nvidia-smi.");
    CHECK(calls[0] == '\0');
    refused("tensorrt-rtx", NULL, 0, FORERUN_INVALID_ARGUMENT, "is a plugin: give its path in provider_library");
    without_memory = true;
    refused("tensorrt-rtx", "/p.so", 0, FORERUN_BACKEND_ERROR, "gives no memory of its device");
    without_memory = false;
    fails = "AppendProvider";
    refused("tensorrt-rtx", "/p.so", 0, FORERUN_BACKEND_ERROR, "provider \"tensorrt-rtx\" on device 0: libcudart");
    fails = "Register";
    n_registered = 0;
    refused("tensorrt-rtx", "/p.so", 0, FORERUN_BACKEND_ERROR, "provider \"tensorrt-rtx\" on device 0: libcudart");
    fails = NULL;
    n_registered = n_devices = 0;
    refused("tensorrt-rtx", "/p.so", 0, FORERUN_BACKEND_ERROR, "it finds 0 that it can use");
}

static void test_a_library_before_plugins(void) {
    fr_ort_api old = API;
    old.version = "1.22.0";
    old.RegisterProviderLibrary = NULL;
    CHECK(add("tensorrt-rtx", &old, "/p.so", 0) == FORERUN_BACKEND_ERROR);
    CHECK_HAS(error.message, "is a plugin, which ONNX Runtime 1.22.0 does not load. Use 1.23 or newer.");
}

static void test_a_negative_device(void) {
    refused("cuda", NULL, -1, FORERUN_INVALID_ARGUMENT, "device must be 0 or more, found -1.");
}

int main(void) {
    test_the_cpu_needs_nothing();
    test_cuda();
    test_tensorrt_leaves_the_rest_to_cuda();
    test_plugin();
    test_a_library_before_plugins();
    test_a_negative_device();
    test_a_library_without_a_provider();
    return check_failures != 0;
}
