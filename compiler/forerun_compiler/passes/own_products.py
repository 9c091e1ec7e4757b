"""The project's own products, LinearInt8 and LinearInt4, as fusions see them: one table for all precisions.

Inputs of both: x [...,K], the packed weight in blocks of 16 outputs, its scales; then what fusions put there, the
weight of a norm and an addend. The gated operator has the same inputs but for the addend.
"""

from __future__ import annotations

import onnx_ir as ir

from forerun_compiler.graph import integer
from forerun_compiler.number_formats import linear_int4, linear_int8
from forerun_compiler.passes.emitter import operands
from forerun_compiler.passes.quantize_int8 import OPERATORS

NORM, ADDEND = 3, 4
"""The places of what fusions put among the inputs."""
GATED_OF = {linear_int8.LINEAR: linear_int8.GATED, linear_int4.LINEAR: linear_int4.GATED}
"""By the name of a product, that of the same with a gate."""


def is_own(node: ir.Node) -> bool:
    """Whether the node is a product of the project's own, with a gate or without."""
    return node.domain == OPERATORS and (node.op_type in GATED_OF or node.op_type in GATED_OF.values())


def plain_product(value: ir.Value | None) -> ir.Node | None:
    """Return the node that makes `value` if it is a product of the project's own without a gate, else None."""
    node = value.producer() if value is not None else None
    return node if node is not None and node.domain == OPERATORS and node.op_type in GATED_OF else None


def outputs_of(product: ir.Node) -> int:
    """Return N: as the attribute says, of int4, whose scales are padded; of int8 there is a scale for each output."""
    _, _, scale = operands(product, 3)
    assert scale.const_value is not None  # scales are stored by the pass that makes the product
    return integer(product, "outputs", int(scale.const_value.shape.numpy()[0]))
