/* The operator GatedRecurrence of the domain forerun.runtime: one step of a gated recurrence, as fr_float_steps.recur
 * says. It takes the fastest way that this processor has; all give the same bits.
 *
 *   z [..., 3E] float32: keep gate, candidate and output before their functions; state [..., E] float32
 *     -> next_state [..., E] float32, out [..., E] float32 */
#ifndef FORERUN_OP_GATED_RECURRENCE_H
#define FORERUN_OP_GATED_RECURRENCE_H

#include "ort_api.h"

extern const OrtCustomOp fr_op_gated_recurrence;

#endif
