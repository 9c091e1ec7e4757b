"""A short hand for building small pieces of graphs: `emit("Add", a, b)` appends a node and returns its output."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from forerun_compiler.errors import PassError
from forerun_compiler.graph import Attribute, add_initializer


def operands(node: ir.Node, count: int) -> list[ir.Value]:
    """Return the first `count` inputs of a node; PassError when one of them is absent."""
    found = [value for value in node.inputs[:count] if value is not None]
    if len(found) != count:
        raise PassError(f"node {node.name!r} ({node.op_type}): expected {count} inputs, found {len(found)}")
    return found


def optional_input(node: ir.Node, index: int) -> ir.Value | None:
    """Return an input of a node, or None where it is absent or left out at the end."""
    return node.inputs[index] if index < len(node.inputs) else None


class Emitter:
    """Appends nodes to a graph, or puts them before a node of it.

    Names are `prefix` plus the op and a running number, so two builds give the same names. Constants go to the graph
    `constants` (the outermost one when `graph` is a branch of an If) and equal ones of one emitter are stored once.
    """

    def __init__(
        self, graph: ir.Graph, prefix: str, *, constants: ir.Graph | None = None, before: ir.Node | None = None
    ) -> None:
        self.graph, self.prefix, self.before = graph, prefix, before
        self._home = graph if constants is None else constants
        self._count = 0
        self._known: dict[tuple[str, tuple[int, ...], bytes], ir.Value] = {}

    def __call__(self, op_type: str, *inputs: ir.Value | None, domain: str = "", **attributes: Attribute) -> ir.Value:
        """Append a node of one output and return it."""
        return self.many(op_type, 1, *inputs, domain=domain, **attributes)[0]

    def many(
        self, op_type: str, count: int, *inputs: ir.Value | None, domain: str = "", **attributes: Attribute
    ) -> tuple[ir.Value, ...]:
        """Append a node of `count` outputs and return them."""
        stem = f"{self.prefix}{op_type}_{self._count}"
        self._count += 1
        names = [stem] if count == 1 else [f"{stem}.{index}" for index in range(count)]
        node = ir.node(op_type, inputs, attributes, domain=domain, outputs=[ir.val(n) for n in names], name=stem)
        self.add(node)
        return tuple(node.outputs)

    def add(self, node: ir.Node) -> None:
        """Append a node that was made elsewhere."""
        if node.domain:
            self.graph.opset_imports.setdefault(node.domain, 1)
        if self.before is None:
            self.graph.append(node)
        else:
            self.graph.insert_before(self.before, node)

    def constant(self, value: npt.ArrayLike, dtype: npt.DTypeLike = np.int64) -> ir.Value:
        """Return an initializer with this value."""
        array: npt.NDArray[Any] = np.asarray(value, dtype, order="C")
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._known:
            self._known[key] = add_initializer(self._home, f"{self.prefix}constant", array)
        return self._known[key]

    def either(
        self,
        condition: ir.Value,
        then: Callable[[Emitter], Sequence[ir.Value]],
        otherwise: Callable[[Emitter], Sequence[ir.Value]],
    ) -> tuple[ir.Value, ...]:
        """Append an If on a bool of one element; each branch emits its nodes and returns its results.

        A branch reads values of the graph around it as they are. The constants of both go to the graph around them.
        """
        stem = f"{self.prefix}If_{self._count}"
        self._count += 1
        branches = []
        for name, fill in (("then", then), ("else", otherwise)):
            graph = ir.Graph([], [], nodes=[], opset_imports=dict(self.graph.opset_imports), name=f"{stem}.{name}")
            inside = Emitter(graph, f"{stem}.{name}.", constants=self._home)
            # A branch may only return what it made itself.
            results = [v if v.graph is graph else inside("Identity", v) for v in fill(inside)]
            graph.outputs.extend(results)
            branches.append(graph)
        outputs = [ir.val(f"{stem}.{index}") for index in range(len(branches[0].outputs))]
        attributes = {"then_branch": branches[0], "else_branch": branches[1]}
        node = ir.node("If", [condition], attributes, outputs=outputs, name=stem)
        self.add(node)
        return tuple(node.outputs)
