/* Finding NVIDIA's driver and a device, and everything that can be wrong with them. */
#include "check.h"
#include "cuda_driver.h"
#include "fake_cuda.h"

static forerun_error error;

static void says_what_is_wrong_with_the_library(void) {
    fr_cuda cuda;
    CHECK(fr_cuda_load("/nonexistent/libcuda.so.1", &cuda, &error) == FORERUN_BACKEND_ERROR);
    CHECK_HAS(error.message, "/nonexistent/libcuda.so.1");
    CHECK_HAS(error.message, "Install the driver");
    CHECK(fr_cuda_load("libm.so.6", &cuda, &error) == FORERUN_BACKEND_ERROR);
    CHECK_HAS(error.message, "libm.so.6 has no cuInit: it is not NVIDIA's driver");
    fake_cuda_reset(12020, 1);
    CHECK(fr_cuda_load(OLD_CUDA_LIBRARY, &cuda, &error) == FORERUN_BACKEND_ERROR);
    CHECK_HAS(error.message, "has no cuGraphInstantiateWithFlags");
    fake_cuda_reset(11040, 1); /* its version says more than what it lacks */
    CHECK(fr_cuda_load(OLD_CUDA_LIBRARY, &cuda, &error) == FORERUN_BACKEND_ERROR);
    CHECK_HAS(error.message, "is a driver for CUDA 11.4; expected 12.0 or newer. Install NVIDIA's driver 525 or newer");
    CHECK(fr_cuda_load("/nonexistent/libcuda.so.1", &cuda, NULL) == FORERUN_BACKEND_ERROR);
}

static void says_what_is_wrong_with_the_machine(void) {
    fr_cuda cuda;
    fake_cuda_reset(13000, 0);
    CHECK(fr_cuda_load(FAKE_CUDA_LIBRARY, &cuda, &error) == FORERUN_BACKEND_ERROR);
    CHECK_HAS(error.message, "finds no NVIDIA GPU");
    CHECK_HAS(error.message, "Open the bundle on the CPU");
    fake_cuda_reset(13000, 1);
    fake_cuda_fail("cuInit", 1, 803, 0);
    CHECK(fr_cuda_load(FAKE_CUDA_LIBRARY, &cuda, &error) == FORERUN_BACKEND_ERROR);
    CHECK_HAS(error.message, "does not start: CUDA error 803");
    fake_cuda_reset(13000, 2);
    for (int32_t ordinal = -1; ordinal <= 2; ordinal += 3) {
        REQUIRE(fr_cuda_load(FAKE_CUDA_LIBRARY, &cuda, &error) == FORERUN_OK);
        CHECK(fr_cuda_start(&cuda, ordinal, &error) == FORERUN_INVALID_ARGUMENT);
        CHECK_HAS(error.message, ordinal < 0 ? "GPU -1 does not exist; this process sees 2"
                                             : "GPU 2 does not exist; this process sees 2, numbered from 0");
        fr_cuda_stop(&cuda);
    }
    CHECK_INT(fake_cuda_live(), 0);
}

static void opens_one_device(void) {
    fr_cuda cuda;
    fake_cuda_reset(13010, 2);
    REQUIRE(fr_cuda_load(FAKE_CUDA_LIBRARY, &cuda, &error) == FORERUN_OK);
    CHECK_INT(cuda.version, 13010);
    REQUIRE(fr_cuda_start(&cuda, 1, &error) == FORERUN_OK);
    CHECK(strcmp(cuda.name, "Fake GPU 1") == 0);
    CHECK_INT(fake_cuda_live(), 2); /* the context and a stream */
    CHECK(strcmp(fake_cuda_log(), "cuDriverGetVersion cuInit cuDeviceGetCount cuDeviceGet cuDeviceGetName "
                                  "cuDevicePrimaryCtxRetain cuCtxSetCurrent cuStreamCreate") == 0);
    fr_cuda_stop(&cuda);
    fr_cuda_stop(&cuda);
    CHECK_INT(fake_cuda_live(), 0);
}

static void passes_on_what_fails_at_the_start(void) {
    static const char *const calls[] = {"cuDeviceGetCount",         "cuDeviceGet",     "cuDeviceGetName",
                                        "cuDevicePrimaryCtxRetain", "cuCtxSetCurrent", "cuStreamCreate"};
    for (size_t i = 0; i < sizeof calls / sizeof calls[0]; i++) {
        fr_cuda cuda;
        fake_cuda_reset(13000, 1);
        REQUIRE(fr_cuda_load(FAKE_CUDA_LIBRARY, &cuda, &error) == FORERUN_OK);
        fake_cuda_fail(calls[i], 1, CUDA_ERROR_LAUNCH_FAILED, 0);
        CHECK(fr_cuda_start(&cuda, 0, &error) == FORERUN_BACKEND_ERROR);
        CHECK_HAS(error.message, "CUDA_ERROR_LAUNCH_FAILED (719): in the driver's words.");
        fr_cuda_stop(&cuda);
        CHECK_INT(fake_cuda_live(), 0);
    }
}

static void knows_which_errors_lose_the_device(void) {
    static const int fatal[] = {4,   46,  214, 220, 226, 700, 702, 709, 710, 714,
                                715, 716, 717, 718, 719, 721, 810, 911, 999},
                     harmless[] = {1, 2, 3, 100, 201, 400, 500, 701, 720, 801, 900, 901, 908};
    fr_cuda cuda;
    fake_cuda_reset(13000, 1);
    REQUIRE(fr_cuda_load(FAKE_CUDA_LIBRARY, &cuda, &error) == FORERUN_OK);
    REQUIRE(fr_cuda_start(&cuda, 0, &error) == FORERUN_OK);
    CHECK(fr_cuda_check(&cuda, CUDA_SUCCESS, "resting", &error) == FORERUN_OK);
    for (size_t i = 0; i < sizeof harmless / sizeof harmless[0]; i++) {
        CHECK(fr_cuda_check(&cuda, harmless[i], "resting", &error) ==
              (harmless[i] == 2 ? FORERUN_OUT_OF_MEMORY : FORERUN_BACKEND_ERROR));
        CHECK(strstr(error.message, "lost") == NULL);
        CHECK(fr_cuda_enter(&cuda, &error) == FORERUN_OK);
    }
    CHECK(fr_cuda_check(&cuda, 1, "resting", &error) == FORERUN_BACKEND_ERROR);
    CHECK_HAS(error.message, "Fake GPU 0, resting: an error that the driver does not name (1): no description.");
    for (size_t i = 0; i < sizeof fatal / sizeof fatal[0]; i++) {
        char code[16];
        snprintf(code, sizeof code, " %d:", fatal[i]);
        CHECK(fr_cuda_check(&cuda, fatal[i], "working", &error) == FORERUN_BACKEND_ERROR);
        CHECK_HAS(error.message, "The device is lost to this engine: close it and open it again");
        CHECK(fr_cuda_enter(&cuda, &error) == FORERUN_BACKEND_ERROR);
        CHECK_HAS(error.message, "Fake GPU 0 was lost earlier with CUDA error");
        CHECK_HAS(error.message, code);
        cuda.lost = CUDA_SUCCESS;
    }
    fr_cuda_stop(&cuda);
}

int main(void) {
    says_what_is_wrong_with_the_library();
    says_what_is_wrong_with_the_machine();
    opens_one_device();
    passes_on_what_fails_at_the_start();
    knows_which_errors_lose_the_device();
    CHECK(fake_cuda_mistake()[0] == '\0');
    return check_failures != 0;
}
