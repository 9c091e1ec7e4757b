/* The part of NVIDIA's driver interface that we call, declared by ourselves and found with dlopen, so that nothing of
 * CUDA is needed to build. Names and parameters are those of CUDA 12 and 13; "_v2" is part of a symbol's name. */
#ifndef FORERUN_CUDA_DRIVER_H
#define FORERUN_CUDA_DRIVER_H

#include "status.h"

#include <stddef.h>
#include <stdint.h>

typedef int CUresult;
typedef int CUdevice;
typedef unsigned long long CUdeviceptr;
typedef struct CUctx_st *CUcontext;
typedef struct CUstream_st *CUstream;
typedef struct CUgraph_st *CUgraph;
typedef struct CUgraphExec_st *CUgraphExec;

enum {
    CUDA_SUCCESS = 0,
    CUDA_ERROR_OUT_OF_MEMORY = 2,
    CUDA_ERROR_NO_DEVICE = 100,
    CUDA_ERROR_INVALID_CONTEXT = 201,
    CUDA_ERROR_INVALID_HANDLE = 400,
    CUDA_ERROR_ILLEGAL_ADDRESS = 700,
    CUDA_ERROR_LAUNCH_FAILED = 719,
    CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED = 900,
    CUDA_ERROR_STREAM_CAPTURE_INVALIDATED = 901,
    CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD = 908,
    CU_STREAM_NON_BLOCKING = 1,              /* does not wait for other libraries' default stream */
    CU_STREAM_CAPTURE_MODE_THREAD_LOCAL = 1, /* other threads may allocate meanwhile */
    FR_CUDA_OLDEST = 12000                   /* CUDA 12.0, which NVIDIA's driver 525 brought */
};

/* X(name, symbol, parameters); all give a CUresult. What tells a library's age comes first. */
#define FR_CUDA_FUNCTIONS(X)                                                                                           \
    X(Init, "cuInit", (unsigned))                                                                                      \
    X(DriverGetVersion, "cuDriverGetVersion", (int *))                                                                 \
    X(GetErrorName, "cuGetErrorName", (CUresult, const char **))                                                       \
    X(GetErrorString, "cuGetErrorString", (CUresult, const char **))                                                   \
    X(DeviceGetCount, "cuDeviceGetCount", (int *))                                                                     \
    X(DeviceGet, "cuDeviceGet", (CUdevice *, int))                                                                     \
    X(DeviceGetName, "cuDeviceGetName", (char *, int, CUdevice))                                                       \
    X(DevicePrimaryCtxRetain, "cuDevicePrimaryCtxRetain", (CUcontext *, CUdevice))                                     \
    X(DevicePrimaryCtxRelease, "cuDevicePrimaryCtxRelease_v2", (CUdevice))                                             \
    X(CtxSetCurrent, "cuCtxSetCurrent", (CUcontext))                                                                   \
    X(MemGetInfo, "cuMemGetInfo_v2", (size_t *, size_t *))                                                             \
    X(MemAlloc, "cuMemAlloc_v2", (CUdeviceptr *, size_t))                                                              \
    X(MemFree, "cuMemFree_v2", (CUdeviceptr))                                                                          \
    X(MemHostAlloc, "cuMemHostAlloc", (void **, size_t, unsigned))                                                     \
    X(MemFreeHost, "cuMemFreeHost", (void *))                                                                          \
    X(MemcpyHtoDAsync, "cuMemcpyHtoDAsync_v2", (CUdeviceptr, const void *, size_t, CUstream))                          \
    X(MemcpyDtoHAsync, "cuMemcpyDtoHAsync_v2", (void *, CUdeviceptr, size_t, CUstream))                                \
    X(MemcpyDtoDAsync, "cuMemcpyDtoDAsync_v2", (CUdeviceptr, CUdeviceptr, size_t, CUstream))                           \
    X(MemsetD8Async, "cuMemsetD8Async", (CUdeviceptr, unsigned char, size_t, CUstream))                                \
    X(StreamCreate, "cuStreamCreate", (CUstream *, unsigned))                                                          \
    X(StreamDestroy, "cuStreamDestroy_v2", (CUstream))                                                                 \
    X(StreamSynchronize, "cuStreamSynchronize", (CUstream))                                                            \
    X(StreamBeginCapture, "cuStreamBeginCapture_v2", (CUstream, int))                                                  \
    X(StreamEndCapture, "cuStreamEndCapture", (CUstream, CUgraph *))                                                   \
    X(GraphInstantiate, "cuGraphInstantiateWithFlags", (CUgraphExec *, CUgraph, unsigned long long))                   \
    X(GraphUpload, "cuGraphUpload", (CUgraphExec, CUstream))                                                           \
    X(GraphLaunch, "cuGraphLaunch", (CUgraphExec, CUstream))                                                           \
    X(GraphDestroy, "cuGraphDestroy", (CUgraph))                                                                       \
    X(GraphExecDestroy, "cuGraphExecDestroy", (CUgraphExec))

/* The driver, and the one device that an engine uses. */
typedef struct fr_cuda {
#define FR_CUDA_MEMBER(name, symbol, parameters) CUresult(*name) parameters;
    FR_CUDA_FUNCTIONS(FR_CUDA_MEMBER)
#undef FR_CUDA_MEMBER
    int version; /* of CUDA, the newest that the driver supports: 13000 is 13.0 */
    CUdevice device;
    char name[128]; /* "NVIDIA H200" */
    CUcontext context;
    CUstream stream;
    CUresult lost; /* the error after which the context is of no use */
} fr_cuda;

/* Loads the library at `path` (NULL = libcuda.so.1 as the dynamic linker finds it), fills the functions and starts the
 * driver. It stays loaded until the process ends, as every CUDA library expects. */
forerun_status fr_cuda_load(const char *path, fr_cuda *out, forerun_error *error);

/* Retains the primary context of device `ordinal`, which all CUDA libraries of a process share, makes it current on
 * this thread and creates a stream. fr_cuda_stop undoes it, also when it failed. */
forerun_status fr_cuda_start(fr_cuda *self, int32_t ordinal, forerun_error *error);

/* Makes the context current on this thread; fails once the device was lost. */
forerun_status fr_cuda_enter(fr_cuda *self, forerun_error *error);

void fr_cuda_stop(fr_cuda *self);

/* FORERUN_OK for CUDA_SUCCESS; else the driver's own words after "DOING: ", and the device is noted as lost where the
 * error is one that no later call survives. */
forerun_status fr_cuda_check(fr_cuda *self, CUresult result, const char *doing, forerun_error *error);

#endif
