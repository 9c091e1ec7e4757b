/* The driver's symbols, without a device. FAKE_CUDA_OLD makes it an old driver, which lacks one. */
#include "fake_cuda_parts.h"

#include <stdio.h>
#include <stdlib.h>

#define DRIVER(name, parameters)                                                                                       \
    __attribute__((visibility("default"))) CUresult name parameters;                                                   \
    CUresult name parameters

#define ENTER(call)                                                                                                    \
    do {                                                                                                               \
        CUresult result_ = (call);                                                                                     \
        if (result_ != CUDA_SUCCESS)                                                                                   \
            return result_;                                                                                            \
    } while (0)

DRIVER(cuInit, (unsigned flags)) {
    ENTER(fake_enter("cuInit"));
    return flags != 0 ? fake_misuse("cuInit takes no flags") : fake.devices == 0 ? CUDA_ERROR_NO_DEVICE : CUDA_SUCCESS;
}

DRIVER(cuDriverGetVersion, (int *out)) {
    ENTER(fake_enter("cuDriverGetVersion"));
    *out = fake.version;
    return CUDA_SUCCESS;
}

DRIVER(cuGetErrorName, (CUresult code, const char **out)) {
    static const struct {
        CUresult code;
        const char *name;
    } names[] = {{CUDA_ERROR_OUT_OF_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY"},
                 {CUDA_ERROR_INVALID_CONTEXT, "CUDA_ERROR_INVALID_CONTEXT"},
                 {CUDA_ERROR_ILLEGAL_ADDRESS, "CUDA_ERROR_ILLEGAL_ADDRESS"},
                 {CUDA_ERROR_LAUNCH_FAILED, "CUDA_ERROR_LAUNCH_FAILED"},
                 {CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED"},
                 {CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED"}};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (names[i].code == code) {
            *out = names[i].name;
            return CUDA_SUCCESS;
        }
    return 1;
}

DRIVER(cuGetErrorString, (CUresult code, const char **out)) {
    *out = "in the driver's words";
    return code == CUDA_ERROR_OUT_OF_MEMORY || code >= CUDA_ERROR_INVALID_CONTEXT ? CUDA_SUCCESS : 1;
}

DRIVER(cuDeviceGetCount, (int *out)) {
    ENTER(fake_enter("cuDeviceGetCount"));
    *out = fake.devices;
    return CUDA_SUCCESS;
}

DRIVER(cuDeviceGet, (CUdevice * out, int ordinal)) {
    ENTER(fake_enter("cuDeviceGet"));
    *out = 40 + ordinal; /* a handle is not its ordinal */
    return CUDA_SUCCESS;
}

DRIVER(cuDeviceGetName, (char *out, int length, CUdevice device)) {
    ENTER(fake_enter("cuDeviceGetName"));
    snprintf(out, (size_t)length, "Fake GPU %d", device - 40);
    return CUDA_SUCCESS;
}

DRIVER(cuDevicePrimaryCtxRetain, (CUcontext * out, CUdevice device)) {
    ENTER(fake_enter("cuDevicePrimaryCtxRetain"));
    if (device < 40 || device >= 40 + fake.devices)
        return fake_misuse("no such device");
    fake.context.retained++;
    *out = &fake.context;
    return CUDA_SUCCESS;
}

DRIVER(cuDevicePrimaryCtxRelease_v2, (CUdevice device)) {
    CUresult result = fake_enter("cuDevicePrimaryCtxRelease_v2");
    if (device < 40 || fake.context.retained == 0)
        return fake_misuse("a context was released that nobody retains");
    fake.context.retained--;
    return result;
}

DRIVER(cuCtxSetCurrent, (CUcontext it)) {
    ENTER(fake_enter("cuCtxSetCurrent"));
    fake_current = it;
    return CUDA_SUCCESS;
}

DRIVER(cuMemGetInfo_v2, (size_t *left, size_t *total)) {
    ENTER(fake_enter_inside("cuMemGetInfo_v2", 0));
    *left = 4096;
    *total = 8192;
    return CUDA_SUCCESS;
}

DRIVER(cuMemAlloc_v2, (CUdeviceptr * out, size_t bytes)) {
    ENTER(fake_enter_uncaptured("cuMemAlloc_v2"));
    uint64_t address = 0;
    ENTER(fake_take(bytes, true, &address));
    *out = address;
    return CUDA_SUCCESS;
}

DRIVER(cuMemFree_v2, (CUdeviceptr address)) {
    return fake_give_back(address, true, fake_enter_inside("cuMemFree_v2", 0));
}

DRIVER(cuMemHostAlloc, (void **out, size_t bytes, unsigned flags)) {
    ENTER(fake_enter_uncaptured("cuMemHostAlloc"));
    uint64_t address = 0;
    ENTER(flags != 0 ? fake_misuse("unexpected flags") : fake_take(bytes, false, &address));
    *out = fake_host(address, false);
    return CUDA_SUCCESS;
}

DRIVER(cuMemFreeHost, (void *address)) {
    return fake_give_back((uintptr_t)address, false, fake_enter_inside("cuMemFreeHost", 0));
}

DRIVER(cuMemcpyHtoDAsync_v2, (CUdeviceptr to, const void *from, size_t bytes, CUstream stream)) {
    ENTER(fake_enter_inside("cuMemcpyHtoDAsync_v2", bytes));
    return fake_add(stream, (fake_work){.kind = COPY_IN, .to = to, .from = (uintptr_t)from, .bytes = bytes});
}

DRIVER(cuMemcpyDtoHAsync_v2, (void *to, CUdeviceptr from, size_t bytes, CUstream stream)) {
    ENTER(fake_enter_inside("cuMemcpyDtoHAsync_v2", bytes));
    return fake_add(stream, (fake_work){.kind = COPY_OUT, .to = (uintptr_t)to, .from = from, .bytes = bytes});
}

DRIVER(cuMemcpyDtoDAsync_v2, (CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream)) {
    ENTER(fake_enter_inside("cuMemcpyDtoDAsync_v2", bytes));
    return fake_add(stream, (fake_work){.kind = COPY_DEVICE, .to = to, .from = from, .bytes = bytes});
}

DRIVER(cuMemsetD8Async, (CUdeviceptr to, unsigned char value, size_t bytes, CUstream stream)) {
    ENTER(fake_enter_inside("cuMemsetD8Async", bytes));
    return fake_add(stream, (fake_work){.kind = SET, .to = to, .value = value, .bytes = bytes});
}

static void *make(size_t bytes) {
    fake.objects++;
    return calloc(1, bytes);
}

static void unmake(void *object) {
    fake.objects--;
    free(object);
}

DRIVER(cuStreamCreate, (CUstream * out, unsigned flags)) {
    ENTER(fake_enter_uncaptured("cuStreamCreate"));
    if (flags != CU_STREAM_NON_BLOCKING)
        return fake_misuse("a stream that waits for the default stream");
    *out = make(sizeof **out);
    return CUDA_SUCCESS;
}

DRIVER(cuStreamDestroy_v2, (CUstream stream)) {
    CUresult result = fake_enter_inside("cuStreamDestroy_v2", 0);
    if (stream->queue.count > 0 && fake.lost == 0)
        fake_misuse("a stream was destroyed while it had work");
    unmake(stream);
    return result;
}

DRIVER(cuStreamSynchronize, (CUstream stream)) {
    ENTER(fake_enter_uncaptured("cuStreamSynchronize"));
    fake_run(stream);
    return CUDA_SUCCESS;
}

DRIVER(cuStreamBeginCapture_v2, (CUstream stream, int mode)) {
    ENTER(fake_enter_inside("cuStreamBeginCapture_v2", 0));
    if (fake.capturing != NULL || mode != CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
        return fake_misuse("two captures at once, or another mode");
    stream->capture = make(sizeof *stream->capture);
    stream->invalid = false;
    fake.capturing = stream;
    return CUDA_SUCCESS;
}

/* Ends the capture whatever happens, as the driver does. */
DRIVER(cuStreamEndCapture, (CUstream stream, CUgraph *out)) {
    CUresult result = fake_enter_inside("cuStreamEndCapture", 0);
    if (stream->capture == NULL)
        return fake_misuse("no capture to end");
    if (result == CUDA_SUCCESS && stream->invalid)
        result = CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    if (result == CUDA_SUCCESS)
        *out = stream->capture;
    else
        unmake(stream->capture);
    stream->capture = NULL;
    fake.capturing = NULL;
    return result;
}

#ifndef FAKE_CUDA_OLD
DRIVER(cuGraphInstantiateWithFlags, (CUgraphExec * out, CUgraph graph, unsigned long long flags)) {
    ENTER(fake_enter_inside("cuGraphInstantiateWithFlags", 0));
    if (flags != 0)
        return fake_misuse("unexpected flags");
    *out = make(sizeof **out);
    (*out)->graph = *graph;
    return CUDA_SUCCESS;
}
#endif

DRIVER(cuGraphUpload, (CUgraphExec exec, CUstream stream)) {
    ENTER(fake_enter_inside("cuGraphUpload", 0));
    return exec == NULL || stream == NULL ? fake_misuse("nothing to upload") : CUDA_SUCCESS;
}

DRIVER(cuGraphLaunch, (CUgraphExec exec, CUstream stream)) {
    ENTER(fake_enter_inside("cuGraphLaunch", 0));
    for (size_t i = 0; i < exec->graph.count; i++)
        ENTER(fake_add(stream, exec->graph.list[i]));
    return CUDA_SUCCESS;
}

DRIVER(cuGraphDestroy, (CUgraph graph)) {
    CUresult result = fake_enter_inside("cuGraphDestroy", 0);
    unmake(graph);
    return result;
}

DRIVER(cuGraphExecDestroy, (CUgraphExec exec)) {
    CUresult result = fake_enter_inside("cuGraphExecDestroy", 0);
    unmake(exec);
    return result;
}
