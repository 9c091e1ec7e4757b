#include "check.h"
#include "custom_ops.h"

/* A library whose table ends with the first version. */
static char told[256];
static int status;

static OrtStatus *tell(int code, const char *message) {
    CHECK_INT(code, ORT_INVALID_ARGUMENT);
    snprintf(told, sizeof told, "%s", message);
    return (OrtStatus *)(void *)&status;
}

static const OrtApi *old_table(uint32_t version) {
    static OrtStatus *(*const slots[1])(int, const char *) = {tell};
    return version == 1 ? (const OrtApi *)(const void *)slots : NULL;
}

static const char *old_version(void) {
    return "1.0.0";
}

static void test_operators_refuse_an_old_library(void) {
    const OrtApiBase base = {old_table, old_version};
    CHECK(RegisterCustomOps(NULL, &base) == (OrtStatus *)(void *)&status);
    CHECK_HAS(told, "need ONNX Runtime 1.20 or newer");
}

static const char *said;

static const char *say(const OrtStatus *failed) {
    CHECK(failed == (OrtStatus *)(void *)&status);
    return said;
}

static void release(OrtStatus *failed) {
    CHECK(failed == (OrtStatus *)(void *)&status);
    status++;
}

static void test_a_refusal_says_what_to_do_about_an_unknown_operator(void) {
    const fr_ort_api api = {.version = "1.31.1", .GetErrorMessage = say, .ReleaseStatus = release};
    forerun_error error;
    said = "forerun.runtime:LinearInt9(-1) is not a registered function/op";
    CHECK(fr_ort_check(&api, (OrtStatus *)(void *)&status, "b/round.onnx", &error) == FORERUN_BACKEND_ERROR);
    CHECK_HAS(error.message, "ONNX Runtime 1.31.1, b/round.onnx: forerun.runtime:LinearInt9(-1) is not a registered");
    CHECK_HAS(error.message, "build it again, or install the version that built it.");
    said = "out of bounds";
    CHECK(fr_ort_check(&api, (OrtStatus *)(void *)&status, "b/round.onnx", &error) == FORERUN_BACKEND_ERROR);
    CHECK(strcmp(error.message, "ONNX Runtime 1.31.1, b/round.onnx: out of bounds") == 0);
    CHECK_INT(status, 2);
    CHECK(fr_ort_check(&api, NULL, "b/round.onnx", &error) == FORERUN_OK);
}

static void (*older[512])(void), (*newer[512])(void);

static void some(void) {
}

static const OrtApi *older_table(uint32_t version) {
    CHECK(version < ORT_SHAPES_SINCE);
    return (const OrtApi *)(const void *)older;
}

static const OrtApi *newer_table(uint32_t version) {
    (void)version;
    return (const OrtApi *)(const void *)newer;
}

static const char *older_version(void) {
    return "1.23.2";
}

static const char *newer_version(void) {
    return "1.24.0";
}

static void test_only_a_newer_library_is_asked_for_shapes(void) {
    const OrtApiBase bases[] = {{older_table, older_version}, {newer_table, newer_version}};
    for (size_t i = 0; i < 512; i++)
        older[i] = newer[i] = some;
    for (int twice = 0; twice < 2; twice++) {
        fr_ort_api api = {.version = ""};
        fr_ort_know(&bases[0]);
        fr_ort_fill(older_table(ORT_API_VERSION_USED), &api);
        CHECK(api.GetTensorElementTypeAndShapeDataReference == NULL && api.CreateStatus != NULL);
        fr_ort_know(&bases[1]);
        fr_ort_fill(newer_table(ORT_API_VERSION_USED), &api);
        CHECK(api.GetTensorElementTypeAndShapeDataReference != NULL);
    }
}

int main(void) {
    test_only_a_newer_library_is_asked_for_shapes();
    test_operators_refuse_an_old_library();
    test_a_refusal_says_what_to_do_about_an_unknown_operator();
    fr_ort_api api;
    forerun_error error;
    CHECK(fr_ort_load("/nonexistent/libonnxruntime.so", &api, &error) == FORERUN_BACKEND_ERROR);
    CHECK_HAS(error.message, "/nonexistent/libonnxruntime.so");
    CHECK_HAS(error.message, "Give the path of libonnxruntime.so");
    CHECK(fr_ort_load("libm.so.6", &api, &error) == FORERUN_BACKEND_ERROR);
    CHECK_HAS(error.message, "OrtGetApiBase");
    return check_failures != 0;
}
