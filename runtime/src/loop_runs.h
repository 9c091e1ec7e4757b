/* What a generation runs next: its graph, its width and the values of its inputs. */
#ifndef FORERUN_LOOP_RUNS_H
#define FORERUN_LOOP_RUNS_H

#include "loop.h"

/* Makes everything that this generation may run, so that no round has to prepare it. */
forerun_status fr_loop_prepare(fr_loop *self, forerun_error *error);

/* Tokens that may still be committed: the request's limit, and the room in the context. */
int64_t fr_loop_remaining(const fr_loop *self);

/* Fills the inputs of the next run. */
fr_run fr_loop_fill(fr_loop *self);

#endif
