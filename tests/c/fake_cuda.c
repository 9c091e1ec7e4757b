/* A driver without a device. */
#include "fake_cuda_parts.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { REDZONE = 256, LOG_BYTES = 1 << 16, GUARD = 0xA5, FRESH = 0xFF };

fake_state fake = {.version = 13000, .devices = 1};
_Thread_local CUcontext fake_current;

static size_t fail_at;
static int fail_code;
static bool fail_for_good;
static char call_log[LOG_BYTES], mistake[256], fail_name[64];

static void note(const char *name, size_t bytes) {
    size_t used = strlen(call_log), left = sizeof call_log - used;
    const char *gap = used > 0 ? " " : "";
    int wanted = bytes > 0 ? snprintf(call_log + used, left, "%s%s:%zu", gap, name, bytes)
                           : snprintf(call_log + used, left, "%s%s", gap, name);
    if (wanted < 0 || (size_t)wanted >= left)
        call_log[used] = '\0';
}

CUresult fake_misuse(const char *what) {
    if (mistake[0] == '\0')
        snprintf(mistake, sizeof mistake, "%s", what);
    return 1; /* invalid value */
}

/* Records a call; what it has to return, or success. */
static CUresult enter_sized(const char *name, size_t bytes) {
    note(name, bytes);
    if (fake.lost != 0)
        return fake.lost;
    if (fail_at > 0 && strcmp(name, fail_name) == 0 && --fail_at == 0) {
        fake.lost = fail_for_good ? fail_code : 0;
        return fail_code;
    }
    return CUDA_SUCCESS;
}

CUresult fake_enter(const char *name) {
    return enter_sized(name, 0);
}

/* The same for a call that needs a current context. */
CUresult fake_enter_inside(const char *name, size_t bytes) {
    CUresult result = enter_sized(name, bytes);
    return result == CUDA_SUCCESS && (fake_current == NULL || fake_current->retained == 0) ? CUDA_ERROR_INVALID_CONTEXT
                                                                                           : result;
}

/* And for one that must not happen while this thread captures: it spoils the capture. */
CUresult fake_enter_uncaptured(const char *name) {
    CUresult result = fake_enter_inside(name, 0);
    if (result != CUDA_SUCCESS || fake.capturing == NULL)
        return result;
    fake.capturing->invalid = true;
    return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
}

const char *fake_cuda_log(void) {
    return call_log;
}

void fake_cuda_forget(void) {
    call_log[0] = '\0';
}

void fake_cuda_fail(const char *name, size_t nth, int code, int for_good) {
    snprintf(fail_name, sizeof fail_name, "%s", name);
    fail_at = nth;
    fail_code = code;
    fail_for_good = for_good != 0;
}

void fake_cuda_reset(int version, int devices) {
    fake.version = version;
    fake.devices = devices;
    fail_at = 0;
    fake.lost = 0;
    mistake[0] = '\0';
    fake_cuda_forget();
}

const char *fake_cuda_mistake(void) {
    return mistake;
}

/* The piece that holds address .. address + bytes - 1 of its kind. */
static fake_piece *find(uint64_t address, size_t bytes, bool device) {
    for (size_t i = 0; i < FAKE_PIECES; i++) {
        uint64_t start = (uintptr_t)fake.pieces[i].memory + (device ? FAKE_DEVICE_BIT : 0);
        if (fake.pieces[i].memory != NULL && fake.pieces[i].device == device && address >= start &&
            address - start <= fake.pieces[i].bytes && bytes <= fake.pieces[i].bytes - (address - start))
            return &fake.pieces[i];
    }
    return NULL;
}

void *fake_cuda_memory(uint64_t device, size_t bytes) {
    if (find(device, bytes, true) != NULL)
        return (void *)(uintptr_t)(device - FAKE_DEVICE_BIT);
    fake_misuse("device memory was used outside of an allocation");
    return NULL;
}

size_t fake_cuda_live(void) {
    size_t live = fake.objects + (size_t)fake.context.retained;
    for (size_t i = 0; i < FAKE_PIECES; i++)
        live += fake.pieces[i].memory != NULL;
    return live;
}

size_t fake_cuda_used(void) {
    size_t used = 0;
    for (size_t i = 0; i < FAKE_PIECES; i++)
        used += fake.pieces[i].memory != NULL && fake.pieces[i].device ? fake.pieces[i].bytes : 0;
    return used;
}

static void check_redzones(const fake_piece *it) {
    for (size_t i = 0; i < REDZONE; i++)
        if (it->memory[-(ptrdiff_t)i - 1] != GUARD || it->memory[it->bytes + i] != GUARD)
            fake_misuse("something was written outside of an allocation");
}

CUresult fake_take(size_t bytes, bool device, uint64_t *out) {
    size_t i = 0, rounded = (bytes + REDZONE - 1) / REDZONE * REDZONE;
    while (i < FAKE_PIECES && fake.pieces[i].memory != NULL)
        i++;
    unsigned char *memory = i < FAKE_PIECES && bytes > 0 ? aligned_alloc(REDZONE, rounded + 2 * REDZONE) : NULL;
    if (memory == NULL)
        return fake_misuse("an allocation of nothing, or too many of them");
    memset(memory, GUARD, rounded + 2 * REDZONE);
    memset(memory + REDZONE, FRESH, bytes);
    fake.pieces[i] = (fake_piece){memory + REDZONE, bytes, device};
    *out = (uintptr_t)fake.pieces[i].memory + (device ? FAKE_DEVICE_BIT : 0);
    return CUDA_SUCCESS;
}

/* Frees also what a fake.lost device holds, so that leaks are seen; the result is the driver's. */
CUresult fake_give_back(uint64_t address, bool device, CUresult result) {
    fake_piece *it = find(address, 0, device);
    if (it == NULL || address != (uintptr_t)it->memory + (device ? FAKE_DEVICE_BIT : 0))
        return fake_misuse("what was freed is no allocation");
    check_redzones(it);
    free(it->memory - REDZONE);
    *it = (fake_piece){.memory = NULL};
    return result;
}

void *fake_host(uint64_t address, bool device) {
    return (void *)(uintptr_t)(address - (device ? FAKE_DEVICE_BIT : 0));
}

static void do_work(const fake_work *it) {
    if (it->kind == KERNEL)
        it->function(it->argument);
    else if (it->kind == SET)
        memset(fake_host(it->to, true), it->value, it->bytes);
    else
        memmove(fake_host(it->to, it->kind != COPY_OUT), fake_host(it->from, it->kind != COPY_IN), it->bytes);
}

void fake_run(CUstream stream) {
    for (size_t i = 0; i < stream->queue.count; i++)
        do_work(&stream->queue.list[i]);
    stream->queue.count = 0;
    for (size_t i = 0; i < FAKE_PIECES; i++)
        if (fake.pieces[i].memory != NULL)
            check_redzones(&fake.pieces[i]);
}

CUresult fake_add(CUstream stream, fake_work it) {
    if (it.kind != KERNEL && find(it.to, it.bytes, it.kind != COPY_OUT) == NULL)
        return fake_misuse("a copy writes outside of an allocation of its kind");
    if (it.kind != KERNEL && it.kind != SET && find(it.from, it.bytes, it.kind != COPY_IN) == NULL)
        return fake_misuse("a copy reads outside of an allocation of its kind");
    struct CUgraph_st *to = stream->capture != NULL ? stream->capture : &stream->queue;
    if (stream->capture != NULL && stream->invalid)
        return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    if (to->count == FAKE_WORK)
        return fake_misuse("too much work");
    to->list[to->count++] = it;
    return CUDA_SUCCESS;
}

void fake_cuda_kernel(void *stream, void (*function)(void *), void *argument) {
    note("kernel", 0);
    fake_add(stream, (fake_work){.kind = KERNEL, .function = function, .argument = argument});
}
