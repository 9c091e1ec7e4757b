/* The part of ONNX Runtime's C API that we call, declared by ourselves, so that nothing of it is needed to build.
 *
 * The API is a table of function pointers whose order never changes between releases (onnxruntime_c_api.cc asserts
 * it). We ask for version 14, the lowest that a library of 1.14 or newer is sure to answer and that holds every slot
 * below; measured to work unchanged with 1.20.1, 1.23.2 and 1.31.1. */
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

enum {
    ORT_API_VERSION_USED = 14,
    ORT_FATAL = 4,
    ORT_FLOAT32 = 1,
    ORT_INT64 = 7,
    ORT_ARENA_ALLOCATOR = 1,
    ORT_MEMORY_DEFAULT = 0,
    ORT_ENABLE_ALL = 99
};

/* X(slot, result, name, parameters) */
#define FR_ORT_FUNCTIONS(X)                                                                                            \
    X(2, const char *, GetErrorMessage, (const OrtStatus *))                                                           \
    X(3, OrtStatus *, CreateEnv, (int, const char *, OrtEnv **))                                                       \
    X(7, OrtStatus *, CreateSession, (const OrtEnv *, const char *, const OrtSessionOptions *, OrtSession **))         \
    X(10, OrtStatus *, CreateSessionOptions, (OrtSessionOptions **))                                                   \
    X(23, OrtStatus *, SetSessionGraphOptimizationLevel, (OrtSessionOptions *, int))                                   \
    X(24, OrtStatus *, SetIntraOpNumThreads, (OrtSessionOptions *, int))                                               \
    X(25, OrtStatus *, SetInterOpNumThreads, (OrtSessionOptions *, int))                                               \
    X(49, OrtStatus *, CreateTensorWithDataAsOrtValue,                                                                 \
      (const OrtMemoryInfo *, void *, size_t, const int64_t *, size_t, int, OrtValue **))                              \
    X(51, OrtStatus *, GetTensorMutableData, (OrtValue *, void **))                                                    \
    X(69, OrtStatus *, CreateCpuMemoryInfo, (int, int, OrtMemoryInfo **))                                              \
    X(92, void, ReleaseEnv, (OrtEnv *))                                                                                \
    X(93, void, ReleaseStatus, (OrtStatus *))                                                                          \
    X(94, void, ReleaseMemoryInfo, (OrtMemoryInfo *))                                                                  \
    X(95, void, ReleaseSession, (OrtSession *))                                                                        \
    X(96, void, ReleaseValue, (OrtValue *))                                                                            \
    X(100, void, ReleaseSessionOptions, (OrtSessionOptions *))                                                         \
    X(130, OrtStatus *, AddSessionConfigEntry, (OrtSessionOptions *, const char *, const char *))                      \
    X(133, OrtStatus *, RunWithBinding, (OrtSession *, const OrtRunOptions *, const OrtIoBinding *))                   \
    X(134, OrtStatus *, CreateIoBinding, (OrtSession *, OrtIoBinding **))                                              \
    X(135, void, ReleaseIoBinding, (OrtIoBinding *))                                                                   \
    X(136, OrtStatus *, BindInput, (OrtIoBinding *, const char *, const OrtValue *))                                   \
    X(137, OrtStatus *, BindOutput, (OrtIoBinding *, const char *, const OrtValue *))

typedef struct fr_ort_api {
#define FR_ORT_MEMBER(slot, result, name, parameters) result(*name) parameters;
    FR_ORT_FUNCTIONS(FR_ORT_MEMBER)
#undef FR_ORT_MEMBER
    const char *version;
} fr_ort_api;

/* Loads the library at `path` (NULL = by the linker's own search) and fills *out. It stays loaded until the process
 * ends: its threads and static objects do not survive being unloaded. */
forerun_status fr_ort_load(const char *path, fr_ort_api *out, forerun_error *error);

/* Takes over `status`: FORERUN_OK for NULL, else its message as "doing: message". */
forerun_status fr_ort_check(const fr_ort_api *api, OrtStatus *status, const char *doing, forerun_error *error);

#endif
