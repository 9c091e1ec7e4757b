/* Our operators for ONNX Runtime: the domain forerun.runtime. */
#ifndef FORERUN_CUSTOM_OPS_H
#define FORERUN_CUSTOM_OPS_H

#include "ort_api.h"

/* Adds the domain to the options. *out, also where it fails, is the caller's to release by ReleaseCustomOpDomain, after
 * every session that was made from the options; NULL where there is none. */
OrtStatus *fr_custom_ops_add(const fr_ort_api *api, OrtSessionOptions *options, OrtCustomOpDomain **out);

/* The entry point of a library of custom operators: for sessions of others, by RegisterCustomOpsLibrary or Python's
 * SessionOptions.register_custom_ops_library. Any thread. The domain lives until the process ends. */
FORERUN_API OrtStatus *RegisterCustomOps(OrtSessionOptions *options, const OrtApiBase *base);

#endif
