"""Give every linear layer the scheme that the recipe chose for its part, or say why it has another.

Parts: `target.lm_head` is the part lm_head, `drafter.lm_head` drafter_lm_head, and all else its model's. The layer
exclusions are those of the field: a router's choice changes the function; a head of a few outputs costs nothing; a
drafter's `fc` reads the target's features, whose outliers overflow float16 and a range for all rows. `int8` on ONNX
Runtime has a range for each row, so `fc` takes that; what it loses costs accepted drafts, never the output.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

import onnx_ir as ir

from forerun_compiler.dialect import Linear
from forerun_compiler.manifest import Override, Precision
from forerun_compiler.passes.emitter import operands
from forerun_compiler.passes.name_products import DRAFTER, LM_HEAD, TARGET, products
from forerun_compiler.schemes import DENSE, INT4_GROUPS, ONNXRUNTIME, SCHEMES

FEWEST_OUTPUTS = 16
"""A narrower product is not worth a kernel of its own."""

FEATURES = f"{DRAFTER}.fc"
"""The layer that reads the target's features."""
_BY_ROW = "int8"

_ROUTERS = ("gate", "router", "shared_expert_gate")


@dataclass(frozen=True)
class Choice:
    """The scheme of one layer; `reason` says why it is not the one that the recipe names for it."""

    layer: str
    part: str
    scheme: str
    reason: str | None


def assign_precision(model: ir.Model, precision: Precision, backend: str = ONNXRUNTIME) -> tuple[Choice, ...]:
    """Set the scheme of every Linear for engines of a backend; returns one choice per layer, in graph order."""
    choices: dict[str, Choice] = {}
    for node in products(model):
        linear = Linear.from_node(node)
        scheme, reason = _choose(model.graph, node, linear.layer, _wanted(linear.layer, precision), backend)
        for name, value in replace(linear, scheme=scheme).attributes().items():
            node.attributes[name] = ir.convenience.convert_attribute(name, value)
        choices.setdefault(linear.layer, Choice(linear.layer, part_of(linear.layer), scheme, reason))
    return tuple(choices.values())


def part_of(layer: str) -> str:
    """Return the part of the recipe's `precision` section that decides a layer."""
    heads = {f"{TARGET}.{LM_HEAD}": "lm_head", f"{DRAFTER}.{LM_HEAD}": "drafter_lm_head"}
    return heads.get(layer, layer.partition(".")[0])


def layer_names(models: Iterable[ir.Model]) -> tuple[str, ...]:
    """Return the names of all linear layers of some graphs, each once, in graph order."""
    return tuple(dict.fromkeys(Linear.from_node(node).layer for model in models for node in products(model)))


def named_by(override: Override, models: Iterable[ir.Model], backend: str = ONNXRUNTIME) -> dict[str, str | None]:
    """Return the layers that an override names, each with why it cannot have its scheme; None where it can."""
    found: dict[str, str | None] = {}
    for model in models:
        for node in products(model):
            layer = Linear.from_node(node).layer
            if matches(override.layers, layer) and found.get(layer, "") is not None:
                found[layer] = _choose(model.graph, node, layer, override.scheme, backend)[1]
    return found


def matches(pattern: str, layer: str) -> bool:
    """Whether an override's pattern (shell style: *, ?, [...]) names a layer; upper and lower case differ."""
    return fnmatchcase(layer, pattern)


def _wanted(layer: str, precision: Precision) -> str:
    """The last override that matches, else the part's scheme."""
    found = [override.scheme for override in precision.overrides if matches(override.layers, layer)]
    return found[-1] if found else str(getattr(precision, part_of(layer)))


def _choose(main: ir.Graph, node: ir.Node, layer: str, wanted: str, backend: str) -> tuple[str, str | None]:
    """The scheme that a product gets where another may be wanted for it, and why; None if it is the wanted one."""
    if layer == FEATURES and backend == ONNXRUNTIME and wanted in INT4_GROUPS:
        return _BY_ROW, f"fc reads the target's features, whose outliers leave {wanted} too little: {_BY_ROW} instead"
    if layer == FEATURES and not (backend == ONNXRUNTIME and wanted == _BY_ROW) and wanted != DENSE:
        return DENSE, "fc reads the target's features, whose outliers narrow formats cannot hold"
    reason = _stays_dense(main, node, layer, wanted)
    return (wanted, None) if reason is None else (DENSE, reason)


def _stays_dense(main: ir.Graph, node: ir.Node, layer: str, wanted: str) -> str | None:
    """Why a product keeps its float32 weight although another scheme is wanted for it; None if it does not."""
    if wanted == DENSE:
        return None
    scheme, last = SCHEMES[wanted], layer.rpartition(".")[2]
    weight = operands(node, 2)[1]
    assert weight.const_value is not None
    outputs, inputs = weight.const_value.shape.numpy()
    if last in _ROUTERS:
        return "a router's choice of experts must not change"
    if outputs < FEWEST_OUTPUTS:
        return f"{outputs} output{'s are' if outputs > 1 else ' is'} too few to gain"
    if inputs % scheme.block:
        return f"{wanted} needs inputs in multiples of {scheme.block}, this layer has {inputs}"
    if scheme.calibrated and node.graph is not main:
        return "runs token by token inside a branch, where ranges are not calibrated"
    return None
