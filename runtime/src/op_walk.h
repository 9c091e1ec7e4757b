/* The operator of a drafter's greedy walk in the domain forerun.runtime; see kernels/walk.h for what it computes. K
 * slots, V tokens, R numbers a row of the table, H a hidden row, E the state.
 *
 *   GreedyWalk(anchor, one int64, logits [1, K, V] float32, hidden [1, K, H] float32, table [at least V, R] float32,
 *              weight and scale of joint, from E + R + H to 3E, and its bias [3E] float32,
 *              weight and scale of output, from E to V: as LinearInt4 or LinearInt8)
 *     -> tokens [1, K] int64
 *
 * Attributes: state_size = E; those of each product with its prefix, `joint_` or `output_`. A product is of int4 where
 * it has a group_size, else of int8. */
#ifndef FORERUN_OP_WALK_H
#define FORERUN_OP_WALK_H

#include "op_support.h"

extern const OrtCustomOp fr_op_greedy_walk;

#endif
