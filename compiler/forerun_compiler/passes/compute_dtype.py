"""Products, attention, caches and embedding tables in half precision; everything between them stays float32.

What costs time and memory is stored and multiplied in the engine's dtype. Residual sums, norms, rotations, gates,
softmax, acceptance and sampling are float32 between casts, which TensorRT fuses into their kernels: a float32 residual
costs nothing at the few rows of a round, and features beyond float16's range get through it.

A drafter's `fc` multiplies in float32: it reads the target's features, which may not fit into float16.
"""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx_ir as ir

from forerun_compiler.dialect import DOMAIN, Linear
from forerun_compiler.errors import PassError
from forerun_compiler.graph import Array, constant_array, find_nodes, output_named
from forerun_compiler.passes.emitter import Emitter, operands
from forerun_compiler.passes.name_products import DRAFTER
from forerun_compiler.schemes import DENSE, SCHEMES

FLOAT = ir.DataType.FLOAT
DTYPES = {"float16": ir.DataType.FLOAT16, "bfloat16": ir.DataType.BFLOAT16}
FLOATS = ("float32", "float")
"""Activations that a scheme does not round; see `schemes.py`."""
FLOAT32_LAYERS = (f"{DRAFTER}.fc",)


def compute_dtype(model: ir.Model, dtype: str) -> int:
    """Bring a graph, its attention lowered and its products not, to `dtype`; return how many nodes now compute in it.

    Linears of schemes that round activations stay as they are: their products are of codes, and give float32.

    Raises:
        PassError: a weight is too large for float16, by its layer's name.
    """
    if dtype == "float32":
        return 0
    half = _Half(model.graph, dtype)
    products = [node for node in find_nodes(model.graph, Linear.OP_TYPE, DOMAIN) if _multiplies_floats(node)]
    tables = [node for node in find_nodes(model.graph, "Gather") if _is_float(operands(node, 1)[0], rank=2)]
    for node in tables:
        half.read_table(node)
    for node in products:
        half.multiply(node)
    experts = [node for node in find_nodes(model.graph, "MatMul") if _is_float(operands(node, 2)[1], rank=3)]
    for node in experts:
        half.multiply_experts(node)
    writes, attentions = find_nodes(model.graph, "TensorScatter"), find_nodes(model.graph, "Attention")
    for node in writes:
        half.write_cache(node)
    for node in attentions:
        half.attend(node)
    return len(tables) + len(products) + len(experts) + len(writes) + len(attentions)


def _multiplies_floats(node: ir.Node) -> bool:
    linear = Linear.from_node(node)
    return SCHEMES[linear.scheme].activations in FLOATS and linear.layer not in FLOAT32_LAYERS


def _is_float(value: ir.Value, rank: int) -> bool:
    """Whether a value is a float32 constant of this rank."""
    return value.const_value is not None and value.dtype == FLOAT and len(value.const_value.shape) == rank


class _Half:
    """Puts casts around nodes of one graph; weights are converted once."""

    def __init__(self, graph: ir.Graph, dtype: str) -> None:
        self._graph, self._dtype, self._name = graph, DTYPES[dtype], dtype
        self._stored: dict[ir.Value, ir.Value] = {}

    def read_table(self, node: ir.Node) -> None:
        table = operands(node, 1)[0]
        node.replace_input_with(0, self._store(table, f"the table {table.name}"))
        self._widen(node)

    def multiply(self, node: ir.Node) -> None:
        linear = Linear.from_node(node)
        self._narrow(node, 0)
        if linear.scheme == DENSE:
            node.replace_input_with(1, self._store(operands(node, 2)[1], f"layer {linear.layer}"))
        self._widen(node)

    def multiply_experts(self, node: ir.Node) -> None:
        """Multiply with the weights of all experts, [X,K,N]; they have no layer's name any more."""
        weight = operands(node, 2)[1]
        self._narrow(node, 0)
        node.replace_input_with(1, self._store(weight, f"the experts' weight {weight.name}"))
        self._widen(node)

    def write_cache(self, node: ir.Node) -> None:
        """Let a cache, input and output of the graph, be of the dtype."""
        cache = operands(node, 1)[0]
        assert cache.is_graph_input()
        for value in (cache, output_named(self._graph, f"{cache.name}.out")):
            value.type = ir.TensorType(self._dtype)
        self._narrow(node, 1)

    def attend(self, node: ir.Node) -> None:
        self._narrow(node, 0)
        self._widen(node)

    def _narrow(self, node: ir.Node, index: int) -> None:
        emit = Emitter(self._graph, f"{node.name}.narrow.", before=node)
        wide = operands(node, index + 1)[index]
        narrow = emit("Cast", wide, to=int(self._dtype))
        narrow.type, narrow.shape = ir.TensorType(self._dtype), wide.shape
        node.replace_input_with(index, narrow)

    def _widen(self, node: ir.Node) -> None:
        """Let all that reads a node, graph outputs too, read its output cast to float32, under the old name."""
        (out,) = node.outputs
        wide = ir.val(None, FLOAT, out.shape)
        out.replace_all_uses_with(wide, replace_graph_outputs=True)
        name, out.name = out.name, f"{out.name}.{self._name}"
        wide.name, out.type = name, ir.TensorType(self._dtype)
        after = ir.node("Cast", [out], {"to": int(FLOAT)}, outputs=[wide], name=f"{node.name}.widen")
        self._graph.insert_after(node, after)

    def _store(self, weight: ir.Value, where: str) -> ir.Value:
        if weight not in self._stored:
            array = constant_array(weight)
            if array is None:
                raise PassError(f"{where}: expected a constant weight, found the computed {weight.name!r}")
            tensor = ir.tensor(self._converted(array, where), name=f"{weight.name}.{self._name}")
            stored = ir.val(str(tensor.name), tensor.dtype, array.shape, const_value=tensor)
            self._graph.register_initializer(stored)
            self._stored[weight] = stored
        return self._stored[weight]

    def _converted(self, array: Array, where: str) -> Array:
        if self._dtype == ir.DataType.BFLOAT16:
            return array.astype(ml_dtypes.bfloat16)
        with np.errstate(over="ignore"):
            half = array.astype(np.float16)
        if not np.isfinite(half).all():
            found, largest = float(np.abs(array).max()), float(np.finfo(np.float16).max)
            raise PassError(
                f"{where}: a weight of {found:g} does not fit into float16, whose largest number is {largest:g}; "
                "build the engine with dtype: bfloat16"
            )
        return half
