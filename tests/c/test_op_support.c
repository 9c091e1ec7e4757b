/* Reading a tensor, from a library that shows its shape and from an older one that makes an object for it. */
#include "check.h"
#include "op_support.h"

static int64_t sizes[9] = {2, 3, 4, 5, 6, 7, 8, 9, 10};
static size_t rank;
static int data, refused, infos;

static OrtStatus *refuse(int code, const char *message) {
    CHECK_INT(code, ORT_INVALID_ARGUMENT);
    CHECK_HAS(message, "more than 8 dimensions");
    return (OrtStatus *)(void *)&refused;
}

static OrtStatus *get_info(const OrtValue *value, OrtTensorTypeAndShapeInfo **out) {
    CHECK(value == (const OrtValue *)(void *)&data);
    *out = (OrtTensorTypeAndShapeInfo *)(void *)&infos;
    infos++;
    return NULL;
}

static void release_info(OrtTensorTypeAndShapeInfo *info) {
    CHECK(info == (OrtTensorTypeAndShapeInfo *)(void *)&infos);
    infos--;
}

static OrtStatus *get_type(const OrtTensorTypeAndShapeInfo *info, int *out) {
    (void)info;
    *out = ORT_INT8;
    return NULL;
}

static OrtStatus *get_rank(const OrtTensorTypeAndShapeInfo *info, size_t *out) {
    (void)info;
    *out = rank;
    return NULL;
}

static OrtStatus *get_sizes(const OrtTensorTypeAndShapeInfo *info, int64_t *out, size_t count) {
    (void)info;
    memcpy(out, sizes, count * sizeof *sizes);
    return NULL;
}

static OrtStatus *show(const OrtValue *value, int *type, const int64_t **shape, size_t *count) {
    CHECK(value == (const OrtValue *)(void *)&data);
    *type = ORT_INT8, *shape = rank > 0 ? sizes : NULL, *count = rank;
    return NULL;
}

static OrtStatus *get_data(OrtValue *value, void **out) {
    *out = value;
    return NULL;
}

static void test_read(const fr_ort_api *api) {
    for (rank = 0; rank <= 9; rank++) {
        fr_op_tensor read;
        OrtStatus *status = fr_op_read(api, (const OrtValue *)(void *)&data, &read);
        CHECK(status == (rank <= FR_OP_MAX_RANK ? NULL : (OrtStatus *)(void *)&refused));
        CHECK_INT(infos, 0);
        if (status != NULL)
            continue;
        CHECK(read.data == &data && read.type == ORT_INT8 && read.rank == rank);
        CHECK(memcmp(read.sizes, sizes, rank * sizeof *sizes) == 0);
    }
}

int main(void) {
    fr_ort_api api = {.CreateStatus = refuse,
                      .GetTensorTypeAndShape = get_info,
                      .ReleaseTensorTypeAndShapeInfo = release_info,
                      .GetTensorElementType = get_type,
                      .GetDimensionsCount = get_rank,
                      .GetDimensions = get_sizes,
                      .GetTensorMutableData = get_data};
    test_read(&api);
    api.GetTensorElementTypeAndShapeDataReference = show;
    api.GetTensorTypeAndShape = NULL;
    test_read(&api);
    fr_op_tensor absent;
    CHECK(fr_op_read(&api, NULL, &absent) == NULL && absent.data == NULL);
    return check_failures != 0;
}
