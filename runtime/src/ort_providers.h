/* ONNX Runtime's execution providers: what runs a graph's nodes, and whose memory its states live in. */
#ifndef FORERUN_ORT_PROVIDERS_H
#define FORERUN_ORT_PROVIDERS_H

#include "ort_api.h"

#include <stdbool.h>

typedef struct fr_provider fr_provider;

/* The provider called `name` (NULL = "cpu"). */
forerun_status fr_provider_find(const char *name, const fr_provider **out, forerun_error *error);

/* The name; NULL for the CPU, which is no device of its own. */
const char *fr_provider_device(const fr_provider *provider);

/* Hands the graphs of `options` to the provider on device `ordinal`; what it cannot run stays on the CPU. `library` is
 * the path of a plugin provider. *memory describes the device's memory: the caller's to release if *owned. The CPU
 * needs nothing and gives no memory. */
forerun_status fr_provider_add(const fr_provider *provider, const fr_ort_api *api, OrtEnv *env,
                               OrtSessionOptions *options, const char *library, int32_t ordinal,
                               const OrtMemoryInfo **memory, bool *owned, forerun_error *error);

#endif
