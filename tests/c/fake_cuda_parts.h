/* The parts of the fake driver: what its symbols do is in fake_cuda_symbols.c, memory and recorded work in fake_cuda.c.
 */
#ifndef FORERUN_FAKE_CUDA_PARTS_H
#define FORERUN_FAKE_CUDA_PARTS_H

#include "cuda_driver.h"
#include "fake_cuda.h"

#include <stdbool.h>

enum { FAKE_PIECES = 256, FAKE_WORK = 256 };

/* Added to host addresses: what a program takes for device memory cannot be read by accident. */
#define FAKE_DEVICE_BIT (UINT64_C(1) << 62)

typedef struct fake_piece {
    unsigned char *memory; /* between two red zones; NULL = free slot */
    size_t bytes;
    bool device;
} fake_piece;

typedef enum fake_work_kind { COPY_IN, COPY_OUT, COPY_DEVICE, SET, KERNEL } fake_work_kind;

typedef struct fake_work {
    fake_work_kind kind;
    uint64_t to, from;
    size_t bytes;
    unsigned char value;
    void (*function)(void *);
    void *argument;
} fake_work;

struct CUgraph_st {
    fake_work list[FAKE_WORK];
    size_t count;
};
struct CUgraphExec_st {
    struct CUgraph_st graph;
};
struct CUstream_st {
    struct CUgraph_st queue;
    CUgraph capture; /* NULL = not capturing */
    bool invalid;
};
struct CUctx_st {
    int retained;
};

typedef struct fake_state {
    fake_piece pieces[FAKE_PIECES];
    struct CUctx_st context;
    CUstream capturing; /* the stream that is being captured */
    size_t objects;     /* streams, graphs */
    int version, devices, lost;
} fake_state;

extern fake_state fake;
extern _Thread_local CUcontext fake_current;

/* Record a call; what it has to return, or success. In order: any call; one that needs a current context; one that must
 * not happen while a stream is captured, and spoils the capture. */
CUresult fake_enter(const char *name);
CUresult fake_enter_inside(const char *name, size_t bytes);
CUresult fake_enter_uncaptured(const char *name);

/* Notes a mistake of the program under test; gives the driver's "invalid value". */
CUresult fake_misuse(const char *what);

/* Memory between red zones. Giving it back works on a lost device, too, so that leaks are seen; the result is `result`.
 */
CUresult fake_take(size_t bytes, bool device, uint64_t *out);
CUresult fake_give_back(uint64_t address, bool device, CUresult result);
void *fake_host(uint64_t address, bool device);

/* Checks a piece of work and puts it where the stream's work goes: its queue, or what is being captured. */
CUresult fake_add(CUstream stream, fake_work it);

/* Does what is queued, and looks at all red zones. */
void fake_run(CUstream stream);

#endif
