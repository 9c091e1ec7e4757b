"""Hand-written graphs of forerun::Linear for the quantizing passes, and what each must keep."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from forerun_compiler.dialect import DOMAIN, Linear
from forerun_compiler.passes.emitter import Emitter
from forerun_compiler.passes.lower_linear import lower_linear
from hand_graphs import FLOAT, constant, make_model, node

Array = npt.NDArray[Any]
RNG = np.random.default_rng(0)
ROWS = 5


def random_weight(n: int = 24, k: int = 64) -> Array:
    """[n,k] with a row of zeros."""
    weight = RNG.standard_normal((n, k)).astype(np.float32)
    weight[3] = 0
    return weight


def random_inputs(k: int = 64) -> dict[str, Array]:
    """Feeds for `two_products`; a row of zeros, and a few numbers beyond an x_max of 2."""
    feeds = {name: RNG.standard_normal((1, ROWS, k)).astype(np.float32) for name in ("a", "b")}
    feeds["a"][0, 2] = 0
    return feeds


def linear(x: ir.Value, weight: ir.Value, out: str, scheme: str, x_max: float = 0.0) -> ir.Node:
    """A Linear of the layer `target.<out>`."""
    assert weight.const_value is not None
    n = int(weight.const_value.shape.numpy()[0])
    attributes = Linear(f"target.{out}", scheme, x_max).attributes()
    return node(Linear.OP_TYPE, [x, weight], (out, [1, "T", n]), domain=DOMAIN, **attributes)


def two_products(weight: Array, scheme: str, x_max: float = 0.0) -> ir.Model:
    """Two layers, p of a and q of b, that read one weight w."""
    a, b = (ir.val(name, FLOAT, [1, "T", weight.shape[1]]) for name in "ab")
    w = constant("w", weight)
    nodes = [linear(a, w, "p", scheme, x_max), linear(b, w, "q", scheme, x_max)]
    return make_model([a, b], nodes, [each.outputs[0] for each in nodes])


def product_in_a_branch(weight: Array, scheme: str, x_max: float = 0.0) -> ir.Model:
    """y = Linear(x) where the sum of x is positive, else zeros."""
    n, k = weight.shape
    x = ir.val("x", FLOAT, [1, "T", k])
    graph = ir.Graph([x], [], nodes=[], opset_imports={"": 24, DOMAIN: 1}, name="branchy")
    w = constant("w", weight)
    graph.register_initializer(w)
    emit = Emitter(graph, "")
    positive = emit("Greater", emit("ReduceSum", x, keepdims=0), emit.constant(0.0, np.float32))
    zeros = constant("zeros", np.zeros((k, n)))
    graph.register_initializer(zeros)

    def product(branch: Emitter) -> list[ir.Value]:
        new = linear(x, w, "inside", scheme, x_max)
        branch.add(new)
        return list(new.outputs)

    (y,) = emit.either(positive, product, lambda branch: [branch("MatMul", x, zeros)])
    y.name, y.type, y.shape = "y", ir.TensorType(FLOAT), ir.Shape([1, "T", n])
    graph.outputs.append(y)
    return ir.Model(graph, ir_version=11)


def expected(x: Array, decoded: Array) -> Array:
    """The product of what the codes stand for, in float64."""
    product: Array = x.astype(np.float64) @ decoded.T.astype(np.float64)
    return product


def dense(model: ir.Model) -> ir.Model:
    """The model with what an emulation left as float32 lowered too."""
    assert lower_linear(model) > 0
    model.graph.opset_imports.pop(DOMAIN, None)
    return model


def shared_scales(model: ir.Model) -> list[str]:
    """Initializers that more than one input of Q/DQ nodes reads as a scale or zero point; there must be none."""
    found = Counter(
        str(value.name)
        for each in model.graph.all_nodes()
        if "Quantize" in each.op_type or "Dequantize" in each.op_type
        for value in each.inputs[1:]
        if value is not None and value.const_value is not None
    )
    assert found, "no scale in any initializer"
    return [name for name, count in found.items() if count > 1]


def close(found: Mapping[str, Array], wanted: Mapping[str, Array], tolerance: float) -> None:
    """Assert that outputs differ by at most `tolerance` of the largest."""
    for name, array in wanted.items():
        np.testing.assert_allclose(found[name], array, rtol=0, atol=tolerance * np.abs(array).max(), err_msg=name)
