"""Link target, acceptance and drafter into the round, one graph that verifies, accepts and drafts; and the plain graph.

The round's inputs and outputs (K draft_len, M the larger of K and lookup_len, V vocab, T tokens of this run; integers
int64, the rest float32):

| input | shape | meaning |
|---|---|---|
| tokens | [1,T] | n_known committed tokens whose keys and values are missing, n_draft draft tokens, then padding |
| n_known, n_draft | [1] | n_known >= 1, n_draft <= M, n_known + n_draft <= T |
| position | [1] | tokens in the caches |
| temperature | [1] | 0 is greedy |
| uniform | [1,M+K+2] | in [0,1): [i] tests draft i, [M] draws the own token, [M+1+i] draws the next draft's slot i |
| looked_up | [1] | 1: prompt lookup gave the draft tokens; 0: the drafter did, n_draft <= K; absent without lookup |

| output | shape | meaning |
|---|---|---|
| n_accepted | [1] | kept draft tokens |
| committed | [1,M+1] | the kept drafts, the target's own token, then -1 |
| draft_tokens | [1,K] | the next draft |
| draft_confidence | [1,K] | each slot's estimated chance to be kept if those before are; absent without such a head |

States, `NAME` in and `NAME.out` out, may be bound to one buffer: target.{i}.k/.v and drafter.{j}.k/.v [1,G,C,D], and
draft_probs [1,K,V], the distributions that the draft was drawn from (left as it was by a greedy round).

Prefill is a round without a draft. Nothing is ever rolled back: rows of rejected tokens and padding are overwritten by
the next round, whose position lies before them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from forerun_compiler.drafters import DrafterParts
from forerun_compiler.errors import PassError
from forerun_compiler.graph import inline, input_named, output_named, remove_unused
from forerun_compiler.passes.accept import Acceptance, Verdict, emit_acceptance, emit_own_token
from forerun_compiler.passes.emitter import Emitter

IR_VERSION = 10
INT, FLOAT = ir.DataType.INT64, ir.DataType.FLOAT
Values = dict[str, ir.Value]
Shapes = dict[str, tuple[ir.DataType, list[int]]]


@dataclass(frozen=True)
class Parts:
    """What a round is linked from; `target` is a trace with the drafter's taps."""

    target: ir.Model
    drafter: DrafterParts
    draft_len: int
    lookup_len: int = 0

    @property
    def verify_len(self) -> int:
        """M, the most draft tokens that a round verifies."""
        return max(self.draft_len, self.lookup_len)


def link_round(parts: Parts) -> ir.Model:
    """Return the fused round of the module's table, still in the dialect; the parts are left as they are."""
    k, m, vocab = parts.draft_len, parts.verify_len, _vocabulary(parts.target)
    drafter_states = _states(parts.drafter.context)
    states = [*_states(parts.target), *drafter_states, _value("draft_probs", FLOAT, [1, k, vocab])]
    inputs = [
        _value("tokens", INT, [1, "T"]),
        *(_value(name, INT, [1]) for name in ("n_known", "n_draft", "position")),
        _value("temperature", FLOAT, [1]),
        _value("uniform", FLOAT, [1, m + k + 2]),
        *([_value("looked_up", INT, [1])] if parts.lookup_len else []),
    ]
    graph, given = _new_graph("round", inputs, states)
    emit = Emitter(graph, "round.")
    target = _inline_target(emit, parts.target, given, _logit_rows(emit, given, m))
    drafts, verdict = _accept(emit, given, target["logits"], m)
    draft = _draft(emit, parts, given, target["taps"], verdict, [str(v.name) for v in drafter_states])
    results = {"n_accepted": verdict.n_accepted, "committed": _committed(emit, drafts, verdict, m)}
    shapes: Shapes = {"n_accepted": (INT, [1]), "committed": (INT, [1, m + 1]), "draft_tokens": (INT, [1, k])}
    return _finish(graph, results | draft, target, states, shapes | {"draft_confidence": (FLOAT, [1, k])})


def link_plain(target: ir.Model) -> ir.Model:
    """Return plain decoding with the same target and nothing of the drafter: one token a run.

    Inputs tokens [1,T], n_known [1], position [1], temperature [1], uniform [1,1] and the target's states; outputs
    committed [1,1] and the states. Rows from n_known on are padding.
    """
    states = _states(target)
    inputs = [
        _value("tokens", INT, [1, "T"]),
        *(_value(name, INT, [1]) for name in ("n_known", "position")),
        _value("temperature", FLOAT, [1]),
        _value("uniform", FLOAT, [1, 1]),
    ]
    graph, given = _new_graph("plain", inputs, states)
    emit = Emitter(graph, "plain.")
    row = emit("Sub", given["n_known"], emit.constant([1]))
    target_out = _inline_target(emit, target, given, row)
    logits = _rows_of_logits(emit, target_out["logits"])
    uniform = emit("Squeeze", given["uniform"], emit.constant([0]))
    own = emit_own_token(emit, logits, given["temperature"], uniform)
    results = {"committed": emit("Unsqueeze", own, emit.constant([0]))}
    return _finish(graph, results, target_out, states, {"committed": (INT, [1, 1])})


def _new_graph(name: str, inputs: Sequence[ir.Value], states: Sequence[ir.Value]) -> tuple[ir.Graph, Values]:
    graph = ir.Graph([*inputs, *states], [], nodes=[], opset_imports={"": 0}, name=name)
    graph.opset_imports.clear()
    return graph, {str(value.name): value for value in graph.inputs}


def _inline_target(emit: Emitter, target: ir.Model, given: Mapping[str, ir.Value], rows: ir.Value) -> Values:
    bound = {str(value.name): given.get(str(value.name), rows) for value in target.graph.inputs}
    return inline(emit.graph, target, bound, "target/")


def _logit_rows(emit: Emitter, given: Mapping[str, ir.Value], m: int) -> ir.Value:
    """Append the rows whose logits verify draft 0, 1, ...: n_known-1, n_known, ...; [min(T, M+1)].

    Behind the last draft's row it stands again: nothing asks for logits there.
    """
    width = emit("Shape", given["tokens"], start=1, end=2)
    count = emit("Squeeze", emit("Min", width, emit.constant([m + 1])))
    index = emit("Range", emit.constant(0), count, emit.constant(1))
    first = emit("Sub", given["n_known"], emit.constant([1]))
    return emit("Min", emit("Add", index, first), emit("Add", first, given["n_draft"]))


def _accept(emit: Emitter, given: Mapping[str, ir.Value], logits: ir.Value, m: int) -> tuple[ir.Value, Verdict]:
    """Append the acceptance; returns the offered drafts [M+1] (junk from n_draft on) and the verdict."""
    zero, one = emit.constant([0]), emit.constant([1])
    last_row = emit("Sub", emit("Add", given["n_known"], given["n_draft"]), one)
    rows = emit("Min", emit("Add", given["n_known"], emit.constant(np.arange(m + 1))), last_row)
    drafts = emit("Gather", emit("Squeeze", given["tokens"], zero), rows)
    acceptance = Acceptance(
        logits=_rows_of_logits(emit, logits),
        drafts=drafts,
        n_draft=given["n_draft"],
        temperature=given["temperature"],
        uniform=emit("Squeeze", emit("Slice", given["uniform"], zero, emit.constant([m + 1]), one), zero),
        draft_probs=emit("Squeeze", given["draft_probs"], zero),
        looked_up=given.get("looked_up"),
    )
    return drafts, emit_acceptance(emit, acceptance)


def _rows_of_logits(emit: Emitter, logits: ir.Value) -> ir.Value:
    """Append [1,R,V] as [R,V]."""
    rows = emit("Squeeze", logits, emit.constant([0]))
    assert logits.shape is not None
    rows.type, rows.shape = logits.type, ir.Shape(logits.shape[1:])
    return rows


def _committed(emit: Emitter, drafts: ir.Value, verdict: Verdict, m: int) -> ir.Value:
    index = emit.constant(np.arange(m + 1))
    tail = emit("Where", emit("Equal", index, verdict.n_accepted), verdict.own, emit.constant([-1]))
    tokens = emit("Where", emit("Less", index, verdict.n_accepted), drafts, tail)
    return emit("Unsqueeze", tokens, emit.constant([0]))


def _draft(
    emit: Emitter, parts: Parts, given: Values, taps: ir.Value, verdict: Verdict, states: Sequence[str]
) -> Values:
    """Append the drafter: context features of all rows, the block at the new anchor, then its tokens."""
    drafter, first = parts.drafter, parts.verify_len + 1
    context = {"taps": taps, "position": given["position"], **{name: given[name] for name in states}}
    written = inline(emit.graph, drafter.context, context, "context/")
    row = emit("Add", emit("Add", given["position"], given["n_known"]), verdict.n_accepted)
    block_in = {"anchor": verdict.own, "position": row, **{name: written[f"{name}.out"] for name in states}}
    block = inline(emit.graph, drafter.block, block_in, "block/")
    known = {"hidden": block["hidden"], "logits": block["logits"], "anchor": verdict.own}
    known["temperature"] = given["temperature"]
    bounds = [emit.constant([n]) for n in (first, first + parts.draft_len, 1)]
    known["uniform"] = emit("Slice", given["uniform"], *bounds)

    def part(branch: Emitter, model: ir.Model) -> Values:
        return inline(branch.graph, model, _needed(model, known), f"{branch.prefix}walk/")

    def sampled(branch: Emitter) -> Sequence[ir.Value]:
        out = part(branch, drafter.sampled)
        return out["draft_tokens"], out["draft_probs"]

    def greedy(branch: Emitter) -> Sequence[ir.Value]:
        return part(branch, drafter.greedy)["draft_tokens"], given["draft_probs"]

    hot = emit("Greater", given["temperature"], emit.constant([0.0], np.float32))
    tokens, probs = emit.either(hot, sampled, greedy)
    results = {"draft_tokens": tokens}
    if drafter.confidence is not None:
        feeds = _needed(drafter.confidence, known | {"draft_tokens": tokens})
        results |= inline(emit.graph, drafter.confidence, feeds, "confidence/")
    return results | {f"{name}.out": block[f"{name}.out"] for name in states} | {"draft_probs.out": probs}


def _needed(part: ir.Model, known: Mapping[str, ir.Value]) -> Values:
    return {str(value.name): known[str(value.name)] for value in part.graph.inputs}


def _finish(graph: ir.Graph, results: Values, target: Values, states: Sequence[ir.Value], shapes: Shapes) -> ir.Model:
    """Name, type and order the outputs: the results as they come, then the states in the order of the inputs."""
    made = results | {name: value for name, value in target.items() if name.endswith(".out")}
    for name in [name for name in results if name in shapes]:
        _publish(graph, made[name], name, *shapes[name])
    for state in states:
        assert state.dtype is not None
        assert state.shape is not None
        _publish(graph, made[f"{state.name}.out"], f"{state.name}.out", state.dtype, state.shape)
    model = ir.Model(graph, ir_version=IR_VERSION, producer_name="forerun")
    common.LiftSubgraphInitializersToMainGraphPass()(model)
    remove_unused(model)
    return model


def _publish(graph: ir.Graph, value: ir.Value, name: str, dtype: ir.DataType, shape: Sequence[int] | ir.Shape) -> None:
    value.name, value.type, value.shape = name, ir.TensorType(dtype), ir.Shape(shape)
    graph.outputs.append(value)


def _value(name: str, dtype: ir.DataType, shape: Sequence[int | str]) -> ir.Value:
    return ir.val(name, dtype, shape)


def _states(part: ir.Model) -> list[ir.Value]:
    """Fresh graph inputs for the states of a part: every input that it gives back as `NAME.out`."""
    outputs = {str(value.name) for value in part.graph.outputs}
    states = [value for value in part.graph.inputs if f"{value.name}.out" in outputs]
    if not states:
        raise PassError(f"the part {part.graph.name!r} has no cache: expected an input NAME with an output NAME.out")
    return [ir.val(str(v.name), v.dtype, v.shape) for v in states]


def _vocabulary(target: ir.Model) -> int:
    shape = output_named(target.graph, "logits").shape
    input_named(target.graph, "logit_rows")
    if shape is None or not isinstance(shape[-1], int):
        raise PassError(f"the target's logits have the shape {shape}; expected [1,R,V] with V known")
    return shape[-1]
