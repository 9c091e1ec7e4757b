/* What a table model says of itself, checked. */
#ifndef FORERUN_REFERENCE_TABLE_H
#define FORERUN_REFERENCE_TABLE_H

#include "manifest.h"

/* Checks every field of `table`; *model gets the facts that a manifest would give. */
forerun_status fr_table_describe(fr_arena *arena, const forerun_table *table, fr_model *model, forerun_error *error);

#endif
