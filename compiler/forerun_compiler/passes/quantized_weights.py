"""What the quantizing passes share: the weights of a scheme, each with all its products, so that it is encoded once.

Each QuantizeLinear and DequantizeLinear gets scales of its own (`Product.own`): TensorRT's compiler crashes on
initializers that two of them share. Codes are stored once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from forerun_compiler.dialect import DOMAIN, Linear
from forerun_compiler.errors import PassError
from forerun_compiler.graph import Array, add_initializer, constant_array, replace_node
from forerun_compiler.passes.emitter import Emitter, operands
from forerun_compiler.passes.name_products import products


@dataclass(frozen=True)
class Product:
    """One forerun::Linear of a scheme, on its way to be replaced; `emit` puts nodes before it."""

    node: ir.Node
    linear: Linear
    emit: Emitter
    home: ir.Graph

    @property
    def x(self) -> ir.Value:
        """Return the input as it is now: where it is another product's output, that may have been replaced."""
        return operands(self.node, 1)[0]

    def own(self, name: str, value: Array | np.generic) -> ir.Value:
        """Return a new initializer that nothing else reads."""
        return add_initializer(self.home, f"{self.emit.prefix}{name}", np.asarray(value))

    def static_scale(self, largest: np.float32) -> np.float32:
        """Return the scale of the calibrated activations, x_max / `largest`.

        Raises:
            PassError: the layer was not calibrated, or its range is so small that the scale underflows.
        """
        scale = np.float32(self.linear.x_max) / largest
        if scale <= 0:
            raise PassError(
                f"layer {self.linear.layer}: the scheme {self.linear.scheme} needs the range of the layer's input, and "
                f"x_max is {self.linear.x_max:g}: it was not calibrated, or only ever saw zeros. Calibrate it with "
                "prompts that reach it, or give it a scheme with dynamic activations"
            )
        return scale

    def replace(self, out: ir.Value) -> None:
        """Let `out` take the place of the product's output."""
        replace_node(self.node, [], [out])

    def compute_dense(self, x: ir.Value, weight: ir.Value) -> None:
        """Replace the product by one at float32 of another input and weight, of the same layer."""
        attributes = Linear(self.linear.layer).attributes()
        self.replace(self.emit(Linear.OP_TYPE, x, weight, domain=DOMAIN, **attributes))


@dataclass(frozen=True)
class Weight:
    """A constant weight [N,K] float32 and every product of one scheme that reads it."""

    value: ir.Value
    array: Array
    products: tuple[Product, ...]

    @property
    def where(self) -> str:
        """Return how messages name the weight: by the layers that read it."""
        layers = dict.fromkeys(product.linear.layer for product in self.products)
        return f"layer {', '.join(layers)} ({self.products[0].linear.scheme})"

    def store(self, suffix: str, array: Array) -> ir.Value:
        """Return a new initializer `<weight>.<suffix>`, for all products of the weight."""
        return add_initializer(self.products[0].home, f"{self.value.name}.{suffix}", array)


def weights_of(model: ir.Model, scheme: str) -> list[Weight]:
    """Return the weights of a scheme in the order of their first use, products in branches too.

    Raises:
        PassError: a weight is not a constant.
    """
    found: dict[ir.Value, list[Product]] = {}
    for node in products(model):
        linear = Linear.from_node(node)
        if linear.scheme != scheme:
            continue
        weight = operands(node, 2)[1]
        assert isinstance(node.graph, ir.Graph)
        emit = Emitter(node.graph, f"{node.outputs[0].name}.", constants=model.graph, before=node)
        found.setdefault(weight, []).append(Product(node, linear, emit, model.graph))
    return [Weight(value, _constant(value, users[0]), tuple(users)) for value, users in found.items()]


def _constant(value: ir.Value, product: Product) -> Array:
    array = constant_array(value)
    if array is None:
        raise PassError(f"layer {product.linear.layer}: expected a constant weight, found the computed {value.name!r}")
    return array
