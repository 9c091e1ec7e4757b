"""The acceptance subgraph: which draft tokens the target keeps, and the target's own next token.

Greedy (temperature 0): a draft token is kept iff it is the target's first most probable token and all before it were
kept. Otherwise the ratio test of speculative sampling (Leviathan et al. 2023, algorithm 1): keep draft i iff
u_i * p_draft(x_i) < p_target(x_i); at the first rejection the own token is drawn from norm(max(p_target - p_draft, 0)),
after the last kept draft from p_target. A draft that was looked up has no distribution: its p_draft is one at the
draft token and zero elsewhere, and the same test keeps it iff u_i < p_target(x_i) and draws the own token from p_target
without x_i (the delta rule). All keep the target's distribution exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from forerun_compiler.passes.emitter import Emitter


@dataclass(frozen=True)
class Acceptance:
    """Inputs of the subgraph; K drafted, M >= K verified at most, R = min(T, M + 1) rows of logits, V vocab.

    `logits` float32 [R,V] of the rows that verify draft 0, 1, ...; `drafts` int64 [M+1], entry i is draft i wherever
    i < n_draft; `n_draft` int64 [1] <= R - 1; `temperature` float32 [1]; `uniform` float32 [M+1] in [0, 1), entry i for
    the test of draft i, the last for the own token; `draft_probs` float32 [K,V]; `looked_up` int64 [1], 1 where the
    draft was looked up and 0 where it was drawn from `draft_probs`: then n_draft <= K. Without it M is K.
    """

    logits: ir.Value
    drafts: ir.Value
    n_draft: ir.Value
    temperature: ir.Value
    uniform: ir.Value
    draft_probs: ir.Value
    looked_up: ir.Value | None = None


@dataclass(frozen=True)
class Verdict:
    """`n_accepted` int64 [1] and the target's own token, int64 [1]."""

    n_accepted: ir.Value
    own: ir.Value


def emit_acceptance(emit: Emitter, given: Acceptance) -> Verdict:
    """Append the acceptance subgraph to a graph.

    One If holds both rules, so that a greedy round does not pay for softmax over the whole vocabulary.
    """
    hot = emit("Greater", given.temperature, emit.constant([0.0], np.float32))
    rows = emit("Shape", given.logits, start=0, end=1)
    index = emit("Range", emit.constant(0), emit("Squeeze", rows), emit.constant(1))
    offered = emit("Less", index, given.n_draft)
    drafts = emit("Slice", given.drafts, emit.constant([0]), rows, emit.constant([0]))

    def greedy(branch: Emitter) -> Sequence[ir.Value]:
        best = branch("ArgMax", given.logits, axis=1, keepdims=0)
        n_accepted = _count_leading(branch, branch("And", offered, branch("Equal", best, drafts)))
        return n_accepted, branch("Gather", best, n_accepted)

    def sampled(branch: Emitter) -> Sequence[ir.Value]:
        return _ratio_test(branch, given, index, offered, drafts)

    return Verdict(*emit.either(hot, sampled, greedy))


def emit_own_token(emit: Emitter, logits: ir.Value, temperature: ir.Value, uniform: ir.Value) -> ir.Value:
    """Append plain decoding's choice: logits [1,V], temperature [1], uniform [1] -> the token, int64 [1]."""
    hot = emit("Greater", temperature, emit.constant([0.0], np.float32))

    def sampled(branch: Emitter) -> Sequence[ir.Value]:
        p_target = branch("Softmax", branch("Div", logits, temperature), axis=1)
        return (emit_inverse_cdf(branch, _as_one_row(p_target, logits), uniform),)

    def greedy(branch: Emitter) -> Sequence[ir.Value]:
        return (branch("ArgMax", logits, axis=1, keepdims=0),)

    return emit.either(hot, sampled, greedy)[0]


def emit_inverse_cdf(emit: Emitter, weights: ir.Value, uniform: ir.Value) -> ir.Value:
    """Append a draw from unnormalised weights [1,V] by one uniform number [1]: int64 [1].

    The token is the first whose cumulated weight exceeds uniform * total; its own weight is positive by construction.
    """
    cumulated = emit("CumSum", weights, emit.constant(1))
    total = emit("ReduceMax", cumulated, emit.constant([1]), keepdims=1)
    below = emit("LessOrEqual", cumulated, emit("Mul", total, uniform))
    # The first entry that holds the total is the last token of positive weight: never go beyond it.
    below = emit("And", below, emit("Less", cumulated, total))
    return emit("ReduceSum", emit("Cast", below, to=int(ir.DataType.INT64)), emit.constant([1]), keepdims=0)


def _count_leading(emit: Emitter, kept: ir.Value) -> ir.Value:
    """Append the number of leading trues of a bool [R] whose last entry is false: int64 [1]."""
    return emit("ArgMin", emit("Cast", kept, to=int(ir.DataType.INT32)), axis=0, keepdims=1)


def _ratio_test(
    emit: Emitter, given: Acceptance, index: ir.Value, offered: ir.Value, drafts: ir.Value
) -> tuple[ir.Value, ir.Value]:
    p_target = emit("Softmax", emit("Div", given.logits, given.temperature), axis=1)
    draft_rows = emit("Shape", given.draft_probs, start=0, end=1)
    last_draft = emit("Sub", draft_rows, emit.constant([1]))
    # Rows past the last draft have no p_draft; they read some row of it and are never offered.
    row = emit("Min", index, last_draft)
    # A junk row may hold any token number of the vocabulary, which is all that a gather asks for.
    column = emit("Unsqueeze", drafts, emit.constant([1]))
    target_at = emit("GatherElements", p_target, column, axis=1)
    draft_at = emit("GatherElements", emit("Gather", given.draft_probs, row), column, axis=1)
    looked_up = None if given.looked_up is None else emit("Greater", given.looked_up, emit.constant([0]))
    if looked_up is not None:
        draft_at = emit("Where", looked_up, emit.constant(1.0, np.float32), draft_at)
    test = emit("Unsqueeze", emit("Gather", given.uniform, index), emit.constant([1]))
    passed = emit("Squeeze", emit("Less", emit("Mul", test, draft_at), target_at), emit.constant([1]))
    n_accepted = _count_leading(emit, emit("And", offered, passed))

    ours = emit("Gather", p_target, n_accepted)
    theirs = emit("Gather", given.draft_probs, emit("Min", n_accepted, last_draft))
    if looked_up is not None:
        theirs = emit("Where", looked_up, _certain(emit, emit("Gather", drafts, n_accepted), p_target), theirs)
    rejected = emit("Cast", emit("Less", n_accepted, given.n_draft), to=int(ir.DataType.FLOAT))
    zero = emit.constant(0.0, np.float32)
    residual = emit("Max", emit("Sub", ours, emit("Mul", theirs, rejected)), zero)
    mass = emit("ReduceSum", residual, emit.constant([1]), keepdims=1)
    # p_target == p_draft up to rounding leaves no residual; such a rejection is itself a rounding error.
    weights = emit("Where", emit("Greater", mass, zero), residual, ours)
    own_uniform = emit("Gather", given.uniform, draft_rows if looked_up is None else emit.constant([-1]))
    return n_accepted, emit_inverse_cdf(emit, _as_one_row(weights, given.logits), own_uniform)


def _certain(emit: Emitter, token: ir.Value, like: ir.Value) -> ir.Value:
    """Append the distribution [1,V] of a token [1] that was sure to come; V as in `like` [R,V]."""
    size = emit("Shape", like, start=1, end=2)
    return emit("OneHot", token, size, emit.constant([0.0, 1.0], np.float32), axis=-1)


def _as_one_row(weights: ir.Value, logits: ir.Value) -> ir.Value:
    """Note on a value that it is [1,V], V as in logits [R,V]."""
    if logits.shape is not None:
        weights.type, weights.shape = logits.type, ir.Shape([1, logits.shape[-1]])
    return weights
