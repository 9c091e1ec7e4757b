/* The CUDA backend over the table model: opened as forerun_open_graphs does after it has read a bundle. */
#ifndef FORERUN_CUDA_ENGINE_H
#define FORERUN_CUDA_ENGINE_H

#include "table_graphs.h"

typedef struct cuda_engine {
    fr_arena arena;
    fr_backend *backend;
    fr_loop loop;
} cuda_engine;

static inline void cuda_engine_close(cuda_engine *self) {
    if (self->backend != NULL)
        self->backend->operations->close(self->backend);
    fr_arena_free(&self->arena);
    self->backend = NULL;
}

static inline forerun_status cuda_engine_open(cuda_engine *self, table_graphs *graphs, forerun_error *error) {
    const forerun_graphs library = callbacks(graphs);
    *self = (cuda_engine){.backend = NULL};
    forerun_status status = fr_cuda_graphs_open(&self->arena, &graphs->model, &graphs->graphs[FR_ROUND],
                                                &graphs->graphs[FR_PLAIN], &library, &self->backend, error);
    if (status == FORERUN_OK)
        status = fr_loop_open(&self->loop, &self->arena, self->backend, &graphs->model, error);
    if (status != FORERUN_OK)
        cuda_engine_close(self);
    return status;
}

#endif
