"""A dozen helpers on onnx_ir that traces and passes share, so that a pass reads as find, build, replace."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from onnx_ir.passes import common

from forerun_compiler.errors import PassError

Array = npt.NDArray[Any]
Attribute = int | float | str | Sequence[int] | Sequence[float] | Sequence[str]


def find_nodes(graph: ir.Graph, op_type: str, domain: str = "") -> list[ir.Node]:
    """Return the nodes of one op in graph order (subgraphs not searched)."""
    return [node for node in graph if node.op_type == op_type and node.domain == domain]


def producer(value: ir.Value | None, op_type: str, domain: str = "") -> ir.Node | None:
    """Return the node that makes `value` if it is the given op, else None."""
    node = value.producer() if value is not None else None
    return node if node is not None and (node.op_type, node.domain) == (op_type, domain) else None


def integer(node: ir.Node, name: str, default: int = 0) -> int:
    """Return an integer attribute of a node, or `default` when it has none of that name."""
    return int(node.attributes[name].as_int()) if name in node.attributes else default


def number(node: ir.Node, name: str, default: float) -> float:
    """Return a float attribute of a node, or `default` when it has none of that name."""
    return float(node.attributes[name].as_float()) if name in node.attributes else default


def permutation(node: ir.Node) -> list[int]:
    """Return the `perm` of a Transpose, or [] when it has none."""
    return list(node.attributes["perm"].as_ints()) if "perm" in node.attributes else []


def input_named(graph: ir.Graph, name: str) -> ir.Value:
    """Return a graph input by name; PassError when there is none."""
    return _named(graph.inputs, name, "input")


def output_named(graph: ir.Graph, name: str) -> ir.Value:
    """Return a graph output by name; PassError when there is none."""
    return _named(graph.outputs, name, "output")


def _named(values: Iterable[ir.Value], name: str, kind: str) -> ir.Value:
    found = list(values)
    for value in found:
        if value.name == name:
            return value
    raise PassError(
        f"the graph has no {kind} {name!r}; it has {', '.join(str(value.name) for value in found) or 'none'}"
    )


def all_values(graph: ir.Graph) -> Iterator[ir.Value]:
    """Yield every value of the graph once: inputs, initializers, then the outputs of its nodes."""
    yield from graph.inputs
    yield from (value for value in graph.initializers.values() if not value.is_graph_input())
    for node in graph:
        yield from node.outputs


def fresh_name(graph: ir.Graph, stem: str) -> str:
    """Return `stem`, or `stem` with the lowest number that makes it unused among the graph's values."""
    taken = {value.name for value in all_values(graph)}
    if stem not in taken:
        return stem
    return next(name for number in range(1, len(taken) + 2) if (name := f"{stem}.{number}") not in taken)


def add_initializer(graph: ir.Graph, name: str, array: Array) -> ir.Value:
    """Add a constant to the graph under a fresh name made from `name`; scalars and tables alike.

    Returns the value; dtype and shape are the array's.
    """
    name = fresh_name(graph, name)
    tensor = ir.tensor(np.asarray(array, order="C"), name=name)
    value = ir.val(name, tensor.dtype, array.shape, const_value=tensor)
    graph.register_initializer(value)
    return value


def constant_array(value: ir.Value | None) -> Array | None:
    """Return the array of an initializer or of a Constant node, or None when the value is computed."""
    tensor = ir.convenience.get_const_tensor(value) if value is not None else None
    return None if tensor is None else tensor.numpy()


def constant_scalar(value: ir.Value | None) -> float | int | None:
    """Return the number in a constant of one element, or None for anything else."""
    array = constant_array(value)
    return array.item() if array is not None and array.size == 1 else None


def new_node(
    op_type: str,
    inputs: Sequence[ir.Value | None],
    outputs: Sequence[ir.Value | str],
    attributes: Mapping[str, Attribute] | None = None,
    *,
    domain: str = "",
) -> ir.Node:
    """Make a node that is not yet in a graph; outputs are names, or values that carry dtype and shape."""
    values = [ir.val(output) if isinstance(output, str) else output for output in outputs]
    return ir.node(op_type, inputs, attributes, domain=domain, outputs=values, name=f"{values[0].name}/{op_type}")


def replace_node(old: ir.Node, new: Sequence[ir.Node], outputs: Sequence[ir.Value]) -> None:
    """Put the nodes `new` in the place of `old`; `outputs` take over the old outputs, one for one.

    Users, graph outputs, names, dtypes and shapes move to the new values.
    """
    graph = old.graph
    if not isinstance(graph, ir.Graph) or len(outputs) != len(old.outputs):
        raise PassError(
            f"node {old.name!r}: expected {len(old.outputs)} replacements within a graph, got {len(outputs)}"
        )
    graph.insert_before(old, new)
    for before, after in zip(old.outputs, outputs, strict=True):
        after.type, after.shape = after.type or before.type, after.shape or before.shape
        name, before.name = before.name, None
        before.replace_all_uses_with(after, replace_graph_outputs=True)
        after.name = name
    graph.remove(old, safe=True)


def rename_values(graph: ir.Graph, names: Mapping[str, str]) -> None:
    """Rename values; a name that is missing in the graph, or that would exist twice, is a PassError."""
    found = {value.name: value for value in all_values(graph) if value.name in names}
    if missing := sorted(set(names) - set(found)):
        raise PassError(f"cannot rename {', '.join(missing)}: the graph has no such value")
    values = [found[name] for name in names]
    for value in values:
        value.name = f"{value.name}/renaming"
    for value, new in zip(values, names.values(), strict=True):
        if fresh_name(graph, new) != new:
            raise PassError(f"cannot rename a value to {new!r}: the graph has one of that name already")
        value.name = new


def inline(graph: ir.Graph, part: ir.Model, inputs: Mapping[str, ir.Value], prefix: str) -> dict[str, ir.Value]:
    """Append a clone of `part` to `graph` and return its outputs by their names in the part.

    Args:
        graph: the graph that grows; its own outputs are left alone.
        part: the model to copy; its opset imports must agree with the graph's.
        inputs: for each input of the part, the value of `graph` that feeds it.
        prefix: goes in front of every initializer, node and value name, so that parts cannot collide.
    """
    copy = part.graph.clone()
    if missing := {str(value.name) for value in copy.inputs} ^ set(inputs):
        raise PassError(f"inlining {prefix!r}: the inputs {', '.join(sorted(missing))} are not bound one for one")
    for domain, version in copy.opset_imports.items():
        if graph.opset_imports.setdefault(domain, version) != version:
            raise PassError(
                f"inlining {prefix!r}: opset {domain!r} is version {version}, not {graph.opset_imports[domain]}"
            )
    outputs = {str(value.name): value for value in copy.outputs}
    copy.outputs.clear()
    for value in copy.inputs:
        feed = inputs[str(value.name)]
        value.replace_all_uses_with(feed)
        outputs = {name: feed if output is value else output for name, output in outputs.items()}
    for value in list(copy.initializers.values()):
        del copy.initializers[str(value.name)]
        value.name = f"{prefix}{value.name}"
        graph.register_initializer(value)
    nodes = list(copy)
    copy.remove(nodes)
    for node in nodes:
        node.name = f"{prefix}{node.name}"
        for output in node.outputs:
            output.name = f"{prefix}{output.name}"
    graph.extend(nodes)
    return outputs


def remove_unused(model: ir.Model) -> None:
    """Remove nodes, initializers and opset imports that no output needs; inputs and outputs stay."""
    common.RemoveUnusedNodesPass()(model)
    common.RemoveUnusedOpsetsPass()(model)


def sort_topologically(graph: ir.Graph) -> None:
    """Order the nodes so that producers come first; stable, so equal graphs stay equal."""
    graph.sort()


def check_graph(model: ir.Model, stage: str) -> None:
    """Check what every stage must keep: unique names, producers first, known domains, typed and live ends.

    Raises:
        PassError: naming the stage and the first thing that is wrong.
    """
    graph = model.graph
    names = [value.name or "" for value in all_values(graph)]
    if len(set(names)) != len(names):
        raise PassError(f"{stage}: more than one value is named {', '.join(sorted(_repeated(names)))}")
    known = {id(value) for value in graph.inputs} | {id(value) for value in graph.initializers.values()}
    for node in graph:
        if node.domain not in graph.opset_imports:
            raise PassError(f"{stage}: node {node.name!r} uses the domain {node.domain!r}, which is not imported")
        for value in node.inputs:
            if value is not None and id(value) not in known:
                raise PassError(f"{stage}: node {node.name!r} reads {value.name!r} before anything makes it")
        known.update(id(value) for value in node.outputs)
    _check_ends(graph, known, stage)


def _check_ends(graph: ir.Graph, known: set[int], stage: str) -> None:
    """Check the graph's inputs and outputs: made, typed, shaped, read."""
    for value in graph.outputs:
        if id(value) not in known:
            raise PassError(f"{stage}: nothing makes the output {value.name!r}")
    for value in [*graph.inputs, *graph.outputs]:
        if value.dtype is None or value.shape is None:
            raise PassError(f"{stage}: the graph input or output {value.name!r} has no dtype or shape")
    for value in graph.inputs:
        if not value.uses() and not value.is_graph_output():
            raise PassError(f"{stage}: nothing reads the input {value.name!r}")


def _repeated(names: Sequence[str]) -> set[str]:
    """Return the names that occur more than once; an anonymous value counts as the name ''."""
    return {name or "''" for name, count in Counter(names).items() if count > 1}
