/* What the Python runtime asks of the fake driver and the core does not: every device is an Ada, 8.9. */
enum { MAJOR = 75, MINOR = 76 };

int cuDeviceGetAttribute(int *out, int attribute, int device);

int cuDeviceGetAttribute(int *out, int attribute, int device) {
    (void)device;
    *out = attribute == MAJOR ? 8 : 9;
    return attribute == MAJOR || attribute == MINOR ? 0 : 1;
}
