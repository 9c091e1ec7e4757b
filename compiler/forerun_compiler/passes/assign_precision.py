"""Give every linear layer the scheme that the recipe chose for its part, or say why it stays dense.

Parts: `target.lm_head` is the part lm_head, `drafter.lm_head` drafter_lm_head, and all else its model's. The layer
exclusions are those of the field: a drafter's `fc` reads the target's features, whose outliers narrow formats cannot
hold; a router's choice changes the function; a head of a few outputs costs nothing.
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
from forerun_compiler.schemes import DENSE, SCHEMES

FEWEST_OUTPUTS = 16
"""A narrower product is not worth a kernel of its own."""

_ROUTERS = ("gate", "router", "shared_expert_gate")


@dataclass(frozen=True)
class Choice:
    """The scheme of one layer; `reason` says why it stays dense although the recipe names another scheme for it."""

    layer: str
    part: str
    scheme: str
    reason: str | None


def assign_precision(model: ir.Model, precision: Precision) -> tuple[Choice, ...]:
    """Set the scheme of every Linear of a graph; returns one choice per layer, in graph order."""
    choices: dict[str, Choice] = {}
    for node in products(model):
        linear = Linear.from_node(node)
        wanted = _wanted(linear.layer, precision)
        reason = _stays_dense(model.graph, node, linear.layer, wanted)
        scheme = DENSE if reason is not None else wanted
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


def named_by(override: Override, models: Iterable[ir.Model]) -> dict[str, str | None]:
    """Return the layers that an override names, each with the reason why it stays dense; None where it does not."""
    found: dict[str, str | None] = {}
    for model in models:
        for node in products(model):
            layer = Linear.from_node(node).layer
            if matches(override.layers, layer) and found.get(layer, "") is not None:
                found[layer] = _stays_dense(model.graph, node, layer, override.scheme)
    return found


def matches(pattern: str, layer: str) -> bool:
    """Whether an override's pattern (shell style: *, ?, [...]) names a layer; upper and lower case differ."""
    return fnmatchcase(layer, pattern)


def _wanted(layer: str, precision: Precision) -> str:
    """The last override that matches, else the part's scheme."""
    found = [override.scheme for override in precision.overrides if matches(override.layers, layer)]
    return found[-1] if found else str(getattr(precision, part_of(layer)))


def _stays_dense(main: ir.Graph, node: ir.Node, layer: str, wanted: str) -> str | None:
    """Why a product keeps its float32 weight although another scheme is wanted for it; None if it does not."""
    if wanted == DENSE:
        return None
    scheme, last = SCHEMES[wanted], layer.rpartition(".")[2]
    weight = operands(node, 2)[1]
    assert weight.const_value is not None
    outputs, inputs = weight.const_value.shape.numpy()
    if layer == f"{DRAFTER}.fc":
        return "fc reads the target's features, whose outliers narrow formats cannot hold"
    if last in _ROUTERS:
        return "a router's choice of experts must not change"
    if outputs < FEWEST_OUTPUTS:
        return f"{outputs} output{'s are' if outputs > 1 else ' is'} too few to gain"
    if inputs % scheme.block:
        return f"{wanted} needs inputs in multiples of {scheme.block}, this layer has {inputs}"
    if scheme.calibrated and node.graph is not main:
        return "runs token by token inside a branch, where ranges are not calibrated"
    return None
