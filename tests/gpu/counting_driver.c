/* A driver that counts some calls and is NVIDIA's, or the fake one, in everything else: it is linked with that library,
 * in which a look-up by name goes on where this one has no such symbol. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stddef.h>
#include <string.h>

static size_t launches, waits, allocations;

size_t counted(const char *name) {
    return strcmp(name, "cuGraphLaunch") == 0         ? launches
           : strcmp(name, "cuStreamSynchronize") == 0 ? waits
           : strcmp(name, "cuMemAlloc_v2") == 0       ? allocations
                                                      : (size_t)-1;
}

int cuGraphLaunch(void *graph, void *stream) {
    launches++;
    return ((int (*)(void *, void *))dlsym(RTLD_NEXT, "cuGraphLaunch"))(graph, stream);
}

int cuStreamSynchronize(void *stream) {
    waits++;
    return ((int (*)(void *))dlsym(RTLD_NEXT, "cuStreamSynchronize"))(stream);
}

int cuMemAlloc_v2(unsigned long long *address, size_t bytes) {
    allocations++;
    return ((int (*)(unsigned long long *, size_t))dlsym(RTLD_NEXT, "cuMemAlloc_v2"))(address, bytes);
}
