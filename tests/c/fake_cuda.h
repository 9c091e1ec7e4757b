/* What a test asks of the fake driver: a library with the driver's symbols whose device memory is host memory. Work is
 * done when a stream is waited for, so that a result read too early is a wrong one. */
#ifndef FORERUN_FAKE_CUDA_H
#define FORERUN_FAKE_CUDA_H

#include <stddef.h>
#include <stdint.h>

/* The calls since fake_cuda_forget, in order and separated by spaces: copies as "cuMemcpyHtoDAsync_v2:BYTES", work
 * given by fake_cuda_kernel as "kernel". */
const char *fake_cuda_log(void);
void fake_cuda_forget(void);

/* Lets the nth call of `name` from now on (1 = the next) return `code`; `for_good`: and all calls after it. */
void fake_cuda_fail(const char *name, size_t nth, int code, int for_good);

/* Forgets log and failures. The numbers that the driver gives: CUDA's version, and of devices. */
void fake_cuda_reset(int version, int devices);

/* A host function as a kernel: runs in the order of the stream, once or at each launch of what captured it. */
void fake_cuda_kernel(void *stream, void (*function)(void *), void *argument);

/* Where `bytes` bytes of device memory really are; a range outside of one allocation is a mistake, and gives NULL. */
void *fake_cuda_memory(uint64_t device, size_t bytes);

/* Things that were made and not freed: memory, streams, graphs, contexts. */
size_t fake_cuda_live(void);

/* Bytes of device memory in use. */
size_t fake_cuda_used(void);

/* The first misuse of the driver, or a write beyond an allocation; "" = none. */
const char *fake_cuda_mistake(void);

#endif
