/* The part of ONNX Runtime's C API that we call, declared by ourselves, so that nothing of it is needed to build.
 *
 * The API is a table of function pointers whose order never changes between releases (onnxruntime_c_api.cc asserts
 * it). We ask for version 18, the lowest that holds every slot below. */
#ifndef FORERUN_ORT_API_H
#define FORERUN_ORT_API_H

#include "status.h"

typedef struct OrtStatus OrtStatus; /* NULL = success */
typedef struct OrtEnv OrtEnv;
typedef struct OrtSession OrtSession;
typedef struct OrtSessionOptions OrtSessionOptions;
typedef struct OrtRunOptions OrtRunOptions;
typedef struct OrtMemoryInfo OrtMemoryInfo;
typedef struct OrtValue OrtValue;
typedef struct OrtIoBinding OrtIoBinding;
typedef struct OrtAllocator OrtAllocator;
typedef struct OrtCudaOptions OrtCudaOptions;
typedef struct OrtTensorRtOptions OrtTensorRtOptions;
typedef struct OrtEpDevice OrtEpDevice;
typedef struct OrtHardwareDevice OrtHardwareDevice;
typedef struct OrtTensorTypeAndShapeInfo OrtTensorTypeAndShapeInfo;
typedef struct OrtKernelInfo OrtKernelInfo;
typedef struct OrtKernelContext OrtKernelContext;
typedef struct OrtCustomOp OrtCustomOp;
typedef struct OrtCustomOpDomain OrtCustomOpDomain;
typedef struct OrtApi OrtApi;
typedef struct OrtApiBase OrtApiBase;

enum {
    ORT_API_VERSION_USED = 18,
    ORT_PLUGINS_SINCE = 23, /* the second number of "1.23.0", and the version of the table */
    ORT_SHAPES_SINCE = 24,
    ORT_FATAL = 4,
    ORT_INVALID_ARGUMENT = 2,
    ORT_ANY_TYPE = 0, /* of an operator's input */
    ORT_FLOAT32 = 1,
    ORT_UINT8 = 2,
    ORT_INT8 = 3,
    ORT_INT64 = 7,
    ORT_FLOAT16 = 10,
    ORT_BFLOAT16 = 16,
    ORT_DEVICE_ALLOCATOR = 0,
    ORT_ARENA_ALLOCATOR = 1,
    ORT_MEMORY_DEFAULT = 0,
    ORT_HARDWARE_GPU = 1,
    ORT_ENABLE_ALL = 99
};

/* X(slot, result, name, parameters) */
#define FR_ORT_FUNCTIONS(X)                                                                                            \
    X(0, OrtStatus *, CreateStatus, (int, const char *))                                                               \
    X(2, const char *, GetErrorMessage, (const OrtStatus *))                                                           \
    X(3, OrtStatus *, CreateEnv, (int, const char *, OrtEnv **))                                                       \
    X(7, OrtStatus *, CreateSession, (const OrtEnv *, const char *, const OrtSessionOptions *, OrtSession **))         \
    X(10, OrtStatus *, CreateSessionOptions, (OrtSessionOptions **))                                                   \
    X(23, OrtStatus *, SetSessionGraphOptimizationLevel, (OrtSessionOptions *, int))                                   \
    X(24, OrtStatus *, SetIntraOpNumThreads, (OrtSessionOptions *, int))                                               \
    X(25, OrtStatus *, SetInterOpNumThreads, (OrtSessionOptions *, int))                                               \
    X(26, OrtStatus *, CreateCustomOpDomain, (const char *, OrtCustomOpDomain **))                                     \
    X(27, OrtStatus *, CustomOpDomain_Add, (OrtCustomOpDomain *, const OrtCustomOp *))                                 \
    X(28, OrtStatus *, AddCustomOpDomain, (OrtSessionOptions *, OrtCustomOpDomain *))                                  \
    X(48, OrtStatus *, CreateTensorAsOrtValue, (OrtAllocator *, const int64_t *, size_t, int, OrtValue **))            \
    X(49, OrtStatus *, CreateTensorWithDataAsOrtValue,                                                                 \
      (const OrtMemoryInfo *, void *, size_t, const int64_t *, size_t, int, OrtValue **))                              \
    X(51, OrtStatus *, GetTensorMutableData, (OrtValue *, void **))                                                    \
    X(60, OrtStatus *, GetTensorElementType, (const OrtTensorTypeAndShapeInfo *, int *))                               \
    X(61, OrtStatus *, GetDimensionsCount, (const OrtTensorTypeAndShapeInfo *, size_t *))                              \
    X(62, OrtStatus *, GetDimensions, (const OrtTensorTypeAndShapeInfo *, int64_t *, size_t))                          \
    X(65, OrtStatus *, GetTensorTypeAndShape, (const OrtValue *, OrtTensorTypeAndShapeInfo **))                        \
    X(68, OrtStatus *, CreateMemoryInfo, (const char *, int, int, int, OrtMemoryInfo **))                              \
    X(69, OrtStatus *, CreateCpuMemoryInfo, (int, int, OrtMemoryInfo **))                                              \
    X(75, OrtStatus *, AllocatorAlloc, (OrtAllocator *, size_t, void **))                                              \
    X(76, OrtStatus *, AllocatorFree, (OrtAllocator *, void *))                                                        \
    X(85, OrtStatus *, KernelInfoGetAttribute_float, (const OrtKernelInfo *, const char *, float *))                   \
    X(86, OrtStatus *, KernelInfoGetAttribute_int64, (const OrtKernelInfo *, const char *, int64_t *))                 \
    X(87, OrtStatus *, KernelInfoGetAttribute_string, (const OrtKernelInfo *, const char *, char *, size_t *))         \
    X(88, OrtStatus *, KernelContext_GetInputCount, (const OrtKernelContext *, size_t *))                              \
    X(90, OrtStatus *, KernelContext_GetInput, (const OrtKernelContext *, size_t, const OrtValue **))                  \
    X(91, OrtStatus *, KernelContext_GetOutput, (OrtKernelContext *, size_t, const int64_t *, size_t, OrtValue **))    \
    X(92, void, ReleaseEnv, (OrtEnv *))                                                                                \
    X(93, void, ReleaseStatus, (OrtStatus *))                                                                          \
    X(94, void, ReleaseMemoryInfo, (OrtMemoryInfo *))                                                                  \
    X(95, void, ReleaseSession, (OrtSession *))                                                                        \
    X(96, void, ReleaseValue, (OrtValue *))                                                                            \
    X(99, void, ReleaseTensorTypeAndShapeInfo, (OrtTensorTypeAndShapeInfo *))                                          \
    X(100, void, ReleaseSessionOptions, (OrtSessionOptions *))                                                         \
    X(101, void, ReleaseCustomOpDomain, (OrtCustomOpDomain *))                                                         \
    X(125, OrtStatus *, GetAvailableProviders, (char ***, int *))                                                      \
    X(126, OrtStatus *, ReleaseAvailableProviders, (char **, int))                                                     \
    X(130, OrtStatus *, AddSessionConfigEntry, (OrtSessionOptions *, const char *, const char *))                      \
    X(131, OrtStatus *, CreateAllocator, (const OrtSession *, const OrtMemoryInfo *, OrtAllocator **))                 \
    X(132, void, ReleaseAllocator, (OrtAllocator *))                                                                   \
    X(133, OrtStatus *, RunWithBinding, (OrtSession *, const OrtRunOptions *, const OrtIoBinding *))                   \
    X(134, OrtStatus *, CreateIoBinding, (OrtSession *, OrtIoBinding **))                                              \
    X(135, void, ReleaseIoBinding, (OrtIoBinding *))                                                                   \
    X(136, OrtStatus *, BindInput, (OrtIoBinding *, const char *, const OrtValue *))                                   \
    X(137, OrtStatus *, BindOutput, (OrtIoBinding *, const char *, const OrtValue *))                                  \
    X(170, OrtStatus *, AppendTensorRt, (OrtSessionOptions *, const OrtTensorRtOptions *))                             \
    X(171, OrtStatus *, CreateTensorRtOptions, (OrtTensorRtOptions **))                                                \
    X(172, OrtStatus *, UpdateTensorRtOptions,                                                                         \
      (OrtTensorRtOptions *, const char *const *, const char *const *, size_t))                                        \
    X(174, void, ReleaseTensorRtOptions, (OrtTensorRtOptions *))                                                       \
    X(204, OrtStatus *, AppendCuda, (OrtSessionOptions *, const OrtCudaOptions *))                                     \
    X(205, OrtStatus *, CreateCudaOptions, (OrtCudaOptions **))                                                        \
    X(206, OrtStatus *, UpdateCudaOptions, (OrtCudaOptions *, const char *const *, const char *const *, size_t))       \
    X(208, void, ReleaseCudaOptions, (OrtCudaOptions *))                                                               \
    X(230, OrtStatus *, KernelInfo_GetInputCount, (const OrtKernelInfo *, size_t *))                                   \
    X(244, OrtStatus *, KernelInfo_GetNodeName, (const OrtKernelInfo *, char *, size_t *))                             \
    X(249, OrtStatus *, KernelInfoGetConstantInput_tensor, (const OrtKernelInfo *, size_t, int *, const OrtValue **))  \
    X(274, OrtStatus *, KernelContext_ParallelFor,                                                                     \
      (const OrtKernelContext *, void (*)(void *, size_t), size_t, size_t, void *))                                    \
    X(278, OrtStatus *, KernelInfoGetAllocator, (const OrtKernelInfo *, int, OrtAllocator **))

/* Plugin providers: a longer table, which libraries since 1.23 have. */
#define FR_ORT_PLUGIN_FUNCTIONS(X)                                                                                     \
    X(301, OrtStatus *, RegisterProviderLibrary, (OrtEnv *, const char *, const char *))                               \
    X(303, OrtStatus *, GetEpDevices, (const OrtEnv *, const OrtEpDevice *const **, size_t *))                         \
    X(304, OrtStatus *, AppendProvider,                                                                                \
      (OrtSessionOptions *, OrtEnv *, const OrtEpDevice *const *, size_t, const char *const *, const char *const *,    \
       size_t))                                                                                                        \
    X(307, int, HardwareDevice_Type, (const OrtHardwareDevice *))                                                      \
    X(312, const char *, EpDevice_EpName, (const OrtEpDevice *))                                                       \
    X(316, const OrtHardwareDevice *, EpDevice_Device, (const OrtEpDevice *))                                          \
    X(374, const OrtMemoryInfo *, EpDevice_MemoryInfo, (const OrtEpDevice *, int))

/* What libraries since 1.24 have beside it: the shape of a tensor where the library keeps it, without a copy. */
#define FR_ORT_SHAPE_FUNCTIONS(X)                                                                                      \
    X(414, OrtStatus *, GetTensorElementTypeAndShapeDataReference,                                                     \
      (const OrtValue *, int *, const int64_t **, size_t *))

typedef struct fr_ort_api {
#define FR_ORT_MEMBER(slot, result, name, parameters) result(*name) parameters;
    FR_ORT_FUNCTIONS(FR_ORT_MEMBER)
    FR_ORT_PLUGIN_FUNCTIONS(FR_ORT_MEMBER) /* NULL in an older library */
    FR_ORT_SHAPE_FUNCTIONS(FR_ORT_MEMBER)  /* NULL in an older library, or in one that fr_ort_know was not told of */
#undef FR_ORT_MEMBER
    const char *version;
} fr_ort_api;

/* What a library hands out to find its table, and to a library of custom operators. */
struct OrtApiBase {
    const OrtApi *(*GetApi)(uint32_t version);
    const char *(*GetVersionString)(void);
};

/* A custom operator: callbacks in the library's order. `version` says how many of them there are. */
struct OrtCustomOp {
    uint32_t version;
    void *(*CreateKernel)(const OrtCustomOp *, const OrtApi *, const OrtKernelInfo *); /* not called since 16 */
    const char *(*GetName)(const OrtCustomOp *);
    const char *(*GetExecutionProviderType)(const OrtCustomOp *);
    int (*GetInputType)(const OrtCustomOp *, size_t);
    size_t (*GetInputTypeCount)(const OrtCustomOp *);
    int (*GetOutputType)(const OrtCustomOp *, size_t);
    size_t (*GetOutputTypeCount)(const OrtCustomOp *);
    void (*KernelCompute)(void *, OrtKernelContext *); /* not called since 16 */
    void (*KernelDestroy)(void *);
    int (*GetInputCharacteristic)(const OrtCustomOp *, size_t); /* 0 = required */
    int (*GetOutputCharacteristic)(const OrtCustomOp *, size_t);
    int (*GetInputMemoryType)(const OrtCustomOp *, size_t); /* 0 = the provider's own */
    int (*GetVariadicInputMinArity)(const OrtCustomOp *);
    int (*GetVariadicInputHomogeneity)(const OrtCustomOp *);
    int (*GetVariadicOutputMinArity)(const OrtCustomOp *);
    int (*GetVariadicOutputHomogeneity)(const OrtCustomOp *);
    OrtStatus *(*CreateKernelV2)(const OrtCustomOp *, const OrtApi *, const OrtKernelInfo *, void **);
    OrtStatus *(*KernelComputeV2)(void *, OrtKernelContext *);
    OrtStatus *(*InferOutputShapeFn)(const OrtCustomOp *, void *); /* may be NULL, as all below */
    int (*GetStartVersion)(const OrtCustomOp *);
    int (*GetEndVersion)(const OrtCustomOp *);
    size_t (*GetMayInplace)(int **, int **);
    void (*ReleaseMayInplace)(int *, int *);
    size_t (*GetAliasMap)(int **, int **);
    void (*ReleaseAliasMap)(int *, int *);
};

/* Fills *out from a library's table of version ORT_API_VERSION_USED or later; `version` and the functions of plugin
 * providers are left to the caller. */
void fr_ort_fill(const OrtApi *table, fr_ort_api *out);

/* Tells fr_ort_fill which table is that of a newer library: a table does not say how long it is, and an operator is
 * given nothing else. Any thread. */
void fr_ort_know(const OrtApiBase *base);

/* The status of a library that has no such table. */
OrtStatus *fr_ort_too_old(const OrtApiBase *base);

/* Loads the library at `path` (NULL = by the linker's own search) and fills *out. It stays loaded until the process
 * ends: its threads and static objects do not survive being unloaded. */
forerun_status fr_ort_load(const char *path, fr_ort_api *out, forerun_error *error);

/* Takes over `status`: FORERUN_OK for NULL, else its message as "doing: message". */
forerun_status fr_ort_check(const fr_ort_api *api, OrtStatus *status, const char *doing, forerun_error *error);

#endif
