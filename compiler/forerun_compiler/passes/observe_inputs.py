"""Make a round graph give back what its linear layers read, and of its own outputs only the states."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import onnx_ir as ir

from forerun_compiler.dialect import Linear
from forerun_compiler.errors import PassError
from forerun_compiler.graph import integer, producer, remove_unused
from forerun_compiler.passes.emitter import Emitter, operands
from forerun_compiler.passes.name_products import products


@dataclass(frozen=True)
class Tap:
    """The graph output float32 [rows, channels] that holds what `layers`, all of one input, read."""

    output: str
    layers: tuple[str, ...]
    channels: int


def observe_inputs(model: ir.Model, layers: Collection[str] | None = None) -> tuple[Tap, ...]:
    """Rewrite a dialect graph in place; return its new outputs, in graph order: of `layers`, None for all.

    An LM head is observed at every row, not only at those whose logits a round asks for. Linears inside branches are
    not observed: a graph cannot give back what a branch makes. Inputs and nodes that only other outputs needed are
    removed.

    Raises:
        PassError: no such Linear is in the main graph.
    """
    graph = model.graph
    read: dict[ir.Value, tuple[list[str], int]] = {}
    for node in products(model):
        x, weight = operands(node, 2)
        x = _before_choice(x)
        layer = Linear.from_node(node).layer
        if node.graph is graph and (layers is None or layer in layers):
            assert weight.const_value is not None
            readers, _ = read.setdefault(x, ([], int(weight.const_value.shape.numpy()[1])))
            readers.append(layer)
    if not read:
        raise PassError(f"the graph {graph.name!r} has no linear layer outside of branches: nothing can be observed")
    states = {f"{value.name}.out" for value in graph.inputs}
    kept = [value for value in graph.outputs if value.name in states]
    graph.outputs.clear()
    emit = Emitter(graph, "observed.")
    taps = []
    for number, (x, (readers, channels)) in enumerate(read.items()):
        tap = Tap(f"observed.{number}", tuple(dict.fromkeys(readers)), channels)
        # A value of its own: lowerings replace values, and look at who reads them.
        value = emit("Reshape", x, emit.constant([-1, channels]))
        value.name, value.type = tap.output, ir.TensorType(ir.DataType.FLOAT)
        value.shape = ir.Shape([f"rows.{number}", channels])
        graph.outputs.append(value)
        taps.append(tap)
    graph.outputs.extend(kept)
    remove_unused(model)
    for value in [value for value in graph.inputs if not value.uses() and not value.is_graph_output()]:
        graph.inputs.remove(value)
    return tuple(taps)


def _before_choice(x: ir.Value) -> ir.Value:
    """Return the value [1,T,K] that x holds chosen rows of, else x."""
    gather = producer(x, "Gather")
    rows = gather.inputs[0] if gather is not None and integer(gather, "axis") == 1 else None
    return x if rows is None or rows.const_value is not None else rows
