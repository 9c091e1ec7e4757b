/* What the Python runtime asks of the fake driver and the core does not: every device is an Ada, 8.9. */
enum { MAJOR = 75, MINOR = 76 };

int cuDeviceGetAttribute(int *out, int attribute, int device);

int cuDeviceGetAttribute(int *out, int attribute, int device) {
    (void)device;
    *out = attribute == MAJOR ? 8 : 9;
    return attribute == MAJOR || attribute == MINOR ? 0 : 1;
}

/* Contexts are made current by TensorRT's owner when it closes: there is one, so nothing changes. */
int cuCtxPushCurrent_v2(void *context);
int cuCtxPopCurrent_v2(void **context);

int cuCtxPushCurrent_v2(void *context) {
    return context == 0;
}

int cuCtxPopCurrent_v2(void **context) {
    *context = 0;
    return 0;
}
