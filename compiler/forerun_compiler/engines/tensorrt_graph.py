"""What TensorRT must not be given, and what its engine must hold in return: both read off the lowered graph."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import onnx_ir as ir

from forerun_compiler.engines.capability import Capability, without_float32
from forerun_compiler.engines.plan_reader import OUT, GraphNames, PlanFacts, ProfileFacts
from forerun_compiler.errors import EngineError
from forerun_compiler.graph import integer, number

_ATTENTION_INPUTS = 4
_DOMAINS = ("", "trt")
_CODES = {
    ir.DataType.FLOAT8E4M3FN: "fp8",
    ir.DataType.FLOAT4E2M1: "fp4",
    ir.DataType.INT8: "int8",
}
# Between a DequantizeLinear and its product.
_TRANSPARENT = ("Cast", "Reshape", "Transpose", "Identity")
_FP4_QUANTIZE = "TRT_FP4DynamicQuantize"
_LISTED = 5


@dataclass(frozen=True)
class Expectations:
    """What the engine of a graph must hold.

    `states` are written in place; the nodes of `products` multiply numbers of these types. The first profile is that of
    decoding, which copies no cache; others may, where a copy serves a whole chunk of a prompt.
    """

    names: GraphNames
    states: tuple[str, ...]
    products: Mapping[str, str]
    capabilities: tuple[str, ...]


def check_lowered(model: ir.Model, graph: str) -> None:
    """Refuse forms that TensorRT builds wrongly, or not so that a CUDA graph can hold them, without saying so.

    Raises:
        EngineError: names the nodes and what is wrong with them.
    """
    nodes = list(model.graph.all_nodes())
    twice = [name for name, count in Counter(node.name for node in nodes).items() if count > 1 or not name]
    if twice:
        raise EngineError(f"{graph}: expected a name of its own for each node, found {_some(map(repr, twice))}")
    wrong = [f"{node.name} ({node.op_type}): {reason}" for node in nodes for reason in _faults(node)]
    if wrong:
        raise EngineError(f"{graph}: TensorRT cannot be given this graph: {_some(wrong, '; ')}")


def check_float32(model: ir.Model, graph: str, capabilities: Collection[Capability]) -> None:
    """Refuse products in float32, which a drafter's `fc` always is, for devices that TensorRT-RTX has none for.

    Raises:
        EngineError: names the devices and the products.
    """
    found = [str(node.name) for node in model.graph if node.op_type == "MatMul" and any(map(_is_float32, node.inputs))]
    if found and (lacking := without_float32(capabilities)):
        raise EngineError(
            f"{graph}: TensorRT-RTX compiles no float32 product for {', '.join(lacking)}, and the graph has "
            f"{len(found)}: {_some(found)}; remove {', '.join(lacking)} from the engine's compute_capability"
        )


def expectations_of(model: ir.Model, capabilities: tuple[str, ...]) -> Expectations:
    """Return what an engine of this graph, built for these capabilities, must hold."""
    outputs = tuple(str(value.name) for value in model.graph.outputs)
    inputs = tuple(str(value.name) for value in model.graph.inputs)
    states = tuple(name for name in inputs if f"{name}{OUT}" in outputs)
    attended = {
        str(value.name).removesuffix(OUT)
        for node in model.graph
        if node.op_type == "Attention"
        for value in node.inputs[1:3]
        if value is not None
    }
    caches = tuple(name for name in states if name in attended)
    products = {str(node.name): found for node in model.graph if (found := _operands(node)) is not None}
    return Expectations(GraphNames(inputs, outputs, caches), states, products, capabilities)


def check_engine(facts: PlanFacts, expected: Expectations, graph: str) -> None:
    """Check that the library made of a graph what was meant; does nothing where the engine's inside is not known.

    Raises:
        EngineError: lists everything that is missing.
    """
    wrong = []
    if expected.capabilities and facts.capabilities != expected.capabilities:
        wrong.append(
            f"expected an engine for {', '.join(expected.capabilities)}, "
            f"found one for {', '.join(facts.capabilities) or 'none'}"
        )
    for index, profile in enumerate(facts.profiles or ()):
        found = [*_missing(profile, expected), *(_copied(profile, expected) if index == 0 else ())]
        wrong += [each for each in found if each not in wrong]
    if wrong:
        raise EngineError(
            f"{graph}: the engine is not what the graph asked for: {'; '.join(wrong)}. The lowering and the library's "
            "version do not go together; build with a version that forerun was tested with, and report this"
        )


def _missing(profile: ProfileFacts, expected: Expectations) -> Iterator[str]:
    if not profile.capturable:
        yield "a CUDA graph cannot capture a run of it"
    if copied := [name for name in expected.states if name not in profile.aliased]:
        yield f"{len(copied)} of {len(expected.states)} states are not written in place: {_some(copied)}"
    found = {node: product.operands for product in profile.products for node in product.nodes}
    lost = [(node, wanted) for node, wanted in expected.products.items() if found.get(node) != wanted]
    for wanted in dict.fromkeys(wanted for _, wanted in lost):
        nodes = [node for node, other in lost if other == wanted]
        total = sum(other == wanted for other in expected.products.values())
        instead = _some(f"{node} ({found.get(node, 'no product')})" for node in nodes)
        yield f"{len(nodes)} of {total} {wanted} products are something else: {instead}"


def _copied(profile: ProfileFacts, expected: Expectations) -> Iterator[str]:
    if profile.copies:
        yield f"caches are copied in each run: {_some(f'{each.state} by {each.kernel}' for each in profile.copies)}"
    if unread := [name for name in expected.names.caches if name not in profile.attended]:
        yield f"attention does not read these caches where they lie: {_some(unread)}"


def _faults(node: ir.Node) -> Iterator[str]:
    if node.domain not in _DOMAINS:
        yield f"the operators of {node.domain!r} are not in TensorRT; a lowering must remove them"
    if node.op_type in ("If", "Loop", "Scan"):
        yield "control flow makes an engine that no CUDA graph can capture; unroll it"
    if node.op_type in ("ScatterND", "ScatterElements") and any(_is_state(value) for value in node.outputs):
        yield "it copies the whole state before it writes; use TensorScatter"
    if node.op_type != "Attention":
        return
    # The parser drops these without a word.
    if any(value is not None for value in node.inputs[_ATTENTION_INPUTS:]):
        yield "TensorRT ignores all inputs after the mask; put the lengths into the mask"
    if integer(node, "is_causal"):
        yield "TensorRT aligns is_causal to the first key, not the last; put it into the mask"
    if number(node, "softcap", 0.0):
        yield "TensorRT has no softcap; write it out"


def _is_float32(value: ir.Value | None) -> bool:
    if value is None:
        return False
    dtype = value.const_value.dtype if value.const_value is not None else value.dtype
    return dtype == ir.DataType.FLOAT


def _is_state(value: ir.Value) -> bool:
    return value.is_graph_output() and str(value.name).endswith(OUT)


def _operands(node: ir.Node) -> str | None:
    """Return the type that a node multiplies if both its operands are quantized to it."""
    if node.op_type != "MatMul":
        return None
    left, right = (_codes(value) for value in node.inputs[:2])
    return left if left == right else None


def _codes(value: ir.Value | None) -> str | None:
    """Return which numbers a value was decoded from, in the words of `plan_reader.TYPES`."""
    while value is not None and (node := value.producer()) is not None:
        if node.op_type == "DequantizeLinear" and node.inputs[0] is not None:
            return _code_type(node.inputs[0])
        if node.op_type not in _TRANSPARENT:
            return None
        value = node.inputs[0]
    return None


def _code_type(codes: ir.Value) -> str | None:
    if codes.const_value is not None:
        return _CODES.get(codes.const_value.dtype)
    maker = codes.producer()
    if maker is None:
        return None
    if maker.op_type == _FP4_QUANTIZE:
        return _CODES[ir.DataType.FLOAT4E2M1]
    if maker.op_type != "QuantizeLinear":
        return None
    if given := integer(maker, "output_dtype"):
        return _CODES.get(ir.DataType(given))
    zero = maker.inputs[2] if len(maker.inputs) > 2 else None
    return _CODES.get(zero.const_value.dtype) if zero is not None and zero.const_value is not None else None


def _some(names: Iterator[str] | list[str], separator: str = ", ") -> str:
    """The first few of a list, and how many there are."""
    found = list(names)
    return separator.join(found[:_LISTED]) + (f" and {len(found) - _LISTED} more" if len(found) > _LISTED else "")
