"""The two graphs of a bundle of tables, written node by node: lookups, the acceptance rule, a drafter of lookups.

Shapes: T tokens this run, K draft_len, M the larger of K and lookup_len, R = M + 1 rows of logits, V vocab, C cache
rows. The weights (first, second, drafter: [V, V] float32) lie in weights.bin at the offsets that the caller gives.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper

VOCAB_SIZE = 260


class _Graph:
    """Writes nodes one call at a time; the result's name is the call's value."""

    def __init__(self, offsets: dict[str, int]) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = [_external(name, offset) for name, offset in offsets.items()]

    def __call__(self, op: str, *inputs: str, out: str | None = None, **attributes: object) -> str:
        name = out or f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [name], **attributes))
        return name

    def constant(self, value: object, dtype: type = np.int64) -> str:
        array = np.asarray(value, dtype)
        tensor = onnx.numpy_helper.from_array(array, f"c{len(self.initializers)}")
        self.initializers.append(tensor)
        return str(tensor.name)

    def model(self, inputs: list[onnx.ValueInfoProto], outputs: list[onnx.ValueInfoProto]) -> onnx.ModelProto:
        graph = helper.make_graph(self.nodes, "table", inputs, outputs, self.initializers)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def _external(name: str, offset: int) -> onnx.TensorProto:
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[VOCAB_SIZE, VOCAB_SIZE])
    tensor.data_location = TensorProto.EXTERNAL
    length = 4 * VOCAB_SIZE * VOCAB_SIZE
    for key, value in (("location", "weights.bin"), ("offset", str(offset)), ("length", str(length))):
        tensor.external_data.add(key=key, value=value)
    return tensor


def _int(name: str, *shape: int | str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.INT64, shape)


def _float(name: str, *shape: int | str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def _write_rows(g: _Graph, state: str, values: str, rows: str) -> str:
    """state [1,1,C,1] with `values` [T] float32 at rows [T]."""
    column = g("Unsqueeze", rows, g.constant([1]))
    zero = g("Mul", column, g.constant(0))
    return g("ScatterND", state, g("Concat", zero, zero, column, zero, axis=1), values, out=f"{state}.out")


def _target(g: _Graph, rows: str) -> str:
    """Writes the tokens to the target's cache; logits [R, V] of `rows` [R], the one before read from the cache."""
    flat = g.constant([-1])
    tokens = g("Reshape", "tokens", flat, out="flat_tokens")
    steps = g("Range", g.constant(0), g("Squeeze", g("Shape", tokens)), g.constant(1))
    places = g("Add", steps, "position", out="places")
    stored = g("Cast", tokens, to=TensorProto.FLOAT, out="stored")
    cache = _write_rows(g, "target.0.k", stored, places)
    _write_rows(g, "target.0.v", stored, places)
    earlier = g("Max", g("Sub", places, g.constant([1])), g.constant([0]))
    before = g("Cast", g("Gather", g("Reshape", cache, flat), earlier), to=TensorProto.INT64)
    before = g("Where", g("Equal", places, g.constant([0])), g.constant([0]), before)
    first = g("Gather", "first", g("Gather", tokens, rows))
    return g("Add", first, g("Gather", "second", g("Gather", before, rows)), out="target/logits")


def _safe_temperature(g: _Graph) -> tuple[str, str]:
    sampling = g("Greater", "temperature", g.constant([0], np.float32))
    return sampling, g("Where", sampling, "temperature", g.constant([1], np.float32))


def _draw(g: _Graph, weights: str, uniform: str) -> str:
    """An index [1] by inverse CDF over `weights` [V] (they need not sum to one) and `uniform` [1]."""
    sums = g("CumSum", weights, g.constant(0))
    level = g("Mul", g("Gather", sums, g.constant([VOCAB_SIZE - 1])), uniform)
    below = g("Cast", g("LessOrEqual", sums, level), to=TensorProto.INT64)
    return g("Min", g("ReduceSum", below, keepdims=1), g.constant([VOCAB_SIZE - 1]))


def _uniform(g: _Graph, *columns: int) -> str:
    return g("Gather", g("Reshape", "uniform", g.constant([-1])), g.constant(list(columns)))


def round_graph(draft_len: int, cache_rows: int, offsets: dict[str, int], lookup_len: int = 0) -> onnx.ModelProto:
    g, most = _Graph(offsets), max(draft_len, lookup_len)
    last = g("Sub", g("Gather", g("Shape", "tokens"), g.constant([1])), g.constant([1]))
    known = g("Add", "n_known", g.constant(list(range(-1, most))))
    rows = g("Min", known, last)
    logits = _target(g, rows)
    sampling, temperature = _safe_temperature(g)
    p_target = g("Softmax", g("Div", logits, temperature), axis=1)
    best = g("ArgMax", logits, axis=1, keepdims=0)
    slots = g.constant(list(range(most)))
    drafts = g("Gather", "flat_tokens", g("Min", g("Add", slots, "n_known"), last))
    p_draft = _p_draft(g, drafts, draft_len, lookup_len)
    accepted = _accept(g, drafts, slots, best, p_target, p_draft, sampling)
    n_accepted = g("ArgMin", g("Concat", accepted, g.constant([0]), axis=0), axis=0, keepdims=1, out="n_accepted")
    own = _own_token(g, n_accepted, best, p_target, p_draft, sampling, most)
    padded = g("Concat", drafts, g.constant([-1]), axis=0)
    order = g.constant(list(range(most + 1)))
    rest = g("Where", g("Equal", order, n_accepted), own, g.constant([-1]))
    committed = g("Where", g("Less", order, n_accepted), padded, rest)
    g("Unsqueeze", committed, g.constant([0]), out="committed")
    _write_rows(g, "drafter.0.k", "stored", "places")
    _write_rows(g, "drafter.0.v", "stored", "places")
    _draft(g, own, sampling, temperature, draft_len, most + 1)
    cache = (1, 1, cache_rows, 1)
    names = ("target.0.k", "target.0.v", "drafter.0.k", "drafter.0.v")
    probs = (1, draft_len, VOCAB_SIZE)
    inputs = [_int("tokens", 1, "T"), _int("n_known", 1), _int("n_draft", 1), _int("position", 1)]
    inputs += [_float("temperature", 1), _float("uniform", 1, most + draft_len + 2)]
    inputs += [_int("looked_up", 1)] if lookup_len else []
    inputs += [_float(name, *cache) for name in names] + [_float("draft_probs", *probs)]
    outputs = [_int("n_accepted", 1), _int("committed", 1, most + 1), _int("draft_tokens", 1, draft_len)]
    outputs += [_float("draft_confidence", 1, draft_len)]
    outputs += [_float(f"{name}.out", *cache) for name in names] + [_float("draft_probs.out", *probs)]
    return g.model(inputs, outputs)


def _p_draft(g: _Graph, drafts: str, draft_len: int, lookup_len: int) -> str:
    """[M,V]: what the drafts were drawn from; those that were looked up were certain."""
    drawn = g("Squeeze", "draft_probs", g.constant([0]))
    if not lookup_len:
        return drawn
    if lookup_len > draft_len:
        none = g.constant(np.zeros((lookup_len - draft_len, VOCAB_SIZE)), np.float32)
        drawn = g("Concat", drawn, none, axis=0)
    certain = g("OneHot", drafts, g.constant([VOCAB_SIZE]), g.constant([0, 1], np.float32))
    return g("Where", g("Greater", "looked_up", g.constant([0])), certain, drawn)


def _accept(g: _Graph, drafts: str, slots: str, best: str, p_target: str, p_draft: str, sampling: str) -> str:
    """[M] int64: 1 where the draft passes its own test, whatever came before it."""
    column = g("Unsqueeze", drafts, g.constant([1]))
    draft_len = g("Shape", drafts)
    head = g("Slice", p_target, g.constant([0]), draft_len, g.constant([0]))
    p_t = g("Squeeze", g("GatherElements", head, column, axis=1), g.constant([1]))
    p_d = g("Squeeze", g("GatherElements", p_draft, column, axis=1), g.constant([1]))
    tests = g("Gather", g("Reshape", "uniform", g.constant([-1])), slots)
    ratio = g("Less", g("Mul", tests, p_d), p_t)
    same = g("Equal", drafts, g("Gather", best, slots))
    real = g("Less", slots, "n_draft")
    passed = g("Or", g("And", sampling, ratio), g("And", g("Not", sampling), same))
    return g("Cast", g("And", passed, real), to=TensorProto.INT64)


def _own_token(g: _Graph, n_accepted: str, best: str, p_target: str, p_draft: str, sampling: str, most: int) -> str:
    """[1]: greedy, or from p_target after the last draft, or from the residual at the first rejection."""
    full = g("Squeeze", g("Gather", p_target, n_accepted), g.constant([0]))
    slot = g("Min", n_accepted, g.constant([most - 1]))
    rejected = g("Squeeze", g("Gather", p_draft, slot), g.constant([0]))
    residual = g("Max", g("Sub", full, rejected), g.constant([0], np.float32))
    usable = g("Greater", g("ReduceSum", residual, keepdims=1), g.constant([0], np.float32))
    usable = g("And", usable, g("Less", n_accepted, "n_draft"))
    drawn = _draw(g, g("Where", usable, residual, full), _uniform(g, most))
    return g("Where", sampling, drawn, g("Gather", best, n_accepted))


def _draft(g: _Graph, anchor: str, sampling: str, temperature: str, draft_len: int, first: int) -> None:
    tokens, probs, confidences = [], [], []
    for slot in range(draft_len):
        logits = g("Squeeze", g("Gather", "drafter", anchor), g.constant([0]))
        p = g("Softmax", g("Div", logits, temperature), axis=0)
        drawn = _draw(g, p, _uniform(g, first + slot))
        anchor = g("Where", sampling, drawn, g("ArgMax", logits, axis=0, keepdims=1))
        tokens.append(anchor)
        probs.append(g("Unsqueeze", p, g.constant([0])))
        confidences.append(g("ReduceMax", p, keepdims=1))
    first = g.constant([0])
    g("Unsqueeze", g("Concat", *tokens, axis=0), first, out="draft_tokens")
    g("Unsqueeze", g("Concat", *confidences, axis=0), first, out="draft_confidence")
    g("Unsqueeze", g("Concat", *probs, axis=0), first, out="draft_probs.out")


def plain_graph(cache_rows: int, offsets: dict[str, int]) -> onnx.ModelProto:
    g = _Graph({name: offset for name, offset in offsets.items() if name != "drafter"})
    logits = _target(g, g("Sub", "n_known", g.constant([1])))
    sampling, temperature = _safe_temperature(g)
    p_target = g("Squeeze", g("Softmax", g("Div", logits, temperature), axis=1), g.constant([0]))
    drawn = _draw(g, p_target, _uniform(g, 0))
    own = g("Where", sampling, drawn, g("ArgMax", logits, axis=1, keepdims=0))
    g("Unsqueeze", own, g.constant([0]), out="committed")
    cache = (1, 1, cache_rows, 1)
    inputs = [_int("tokens", 1, "T"), _int("n_known", 1), _int("position", 1), _float("temperature", 1)]
    inputs += [_float("uniform", 1, 1), _float("target.0.k", *cache), _float("target.0.v", *cache)]
    outputs = [_int("committed", 1, 1), _float("target.0.k.out", *cache), _float("target.0.v.out", *cache)]
    return g.model(inputs, outputs)
