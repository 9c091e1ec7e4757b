/* The backend that runs a bundle's graphs with ONNX Runtime: on the CPU, or with a provider of a GPU. */
#ifndef FORERUN_ONNXRUNTIME_H
#define FORERUN_ONNXRUNTIME_H

#include "backend.h"

/* Loads the library and the round graph of the checked bundle in `folder`, and takes the state buffers. `manifest` and
 * what it points to must outlive the backend; `options` may be NULL. The plain graph is loaded by its first `prepare`.
 */
forerun_status fr_onnxruntime_open(fr_arena *arena, const char *folder, const fr_manifest *manifest,
                                   const forerun_options *options, fr_backend **out, forerun_error *error);

#endif
