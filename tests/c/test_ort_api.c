#include "check.h"
#include "ort_api.h"

int main(void) {
    fr_ort_api api;
    forerun_error error;
    CHECK(fr_ort_load("/nonexistent/libonnxruntime.so", &api, &error) == FORERUN_BACKEND_ERROR);
    CHECK_HAS(error.message, "/nonexistent/libonnxruntime.so");
    CHECK_HAS(error.message, "Give the path of libonnxruntime.so");
    CHECK(fr_ort_load("libm.so.6", &api, &error) == FORERUN_BACKEND_ERROR);
    CHECK_HAS(error.message, "OrtGetApiBase");
    return check_failures != 0;
}
