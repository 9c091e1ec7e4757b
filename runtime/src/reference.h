/* The table model: a null device, with which everything above the execution library is tested. */
#ifndef FORERUN_REFERENCE_H
#define FORERUN_REFERENCE_H

#include "backend.h"

/* Checks and copies `table`; *model gets the facts that a manifest would give. */
forerun_status fr_reference_open(fr_arena *arena, const forerun_table *table, fr_model *model, fr_backend **out,
                                 forerun_error *error);

#endif
