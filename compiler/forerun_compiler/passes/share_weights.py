"""Store equal constants once: an embedding or LM head that the drafter borrows, rotary tables, small numbers.

Constants are equal when dtype, shape and bytes are. Transposed copies are not looked for: `lower_linear` reads a weight
that is stored for an embedding in the layout that it has. The scales and zero points of Q/DQ nodes stay apart, equal or
not: TensorRT's compiler crashes on one that two of them read. The weights file holds their bytes once all the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from forerun_compiler.graph import remove_unused

QUANTIZERS = ("QuantizeLinear", "DequantizeLinear", "TRT_FP4DynamicQuantize")

_SAMPLED = 64
"""First elements that are compared before all bytes are: weights of equal shape hardly ever agree in them."""

Key = tuple[str, tuple[int, ...], bytes]


def share_weights(model: ir.Model) -> int:
    """Let all users of equal initializers read the first of them; return how many copies were dropped."""
    alike: dict[Key, list[ir.Value]] = {}
    for value in model.graph.initializers.values():
        if value.const_value is not None and not value.is_graph_output() and not _is_scale(value):
            alike.setdefault(_sample(value.const_value), []).append(value)
    dropped = 0
    for values in alike.values():
        if len(values) > 1:
            dropped += _share(values)
    remove_unused(model)
    return dropped


def _share(values: Sequence[ir.Value]) -> int:
    first: dict[bytes, ir.Value] = {}
    dropped = 0
    for value in values:
        assert value.const_value is not None
        kept = first.setdefault(_digest(value.const_value), value)
        if kept is not value:
            value.replace_all_uses_with(kept)
            dropped += 1
    return dropped


def _is_scale(value: ir.Value) -> bool:
    return any(use.node.op_type in QUANTIZERS and use.idx > 0 for use in value.uses())


def _sample(tensor: ir.TensorProtocol) -> Key:
    array = tensor.numpy()
    return str(tensor.dtype), tuple(array.shape), array.flat[:_SAMPLED].tobytes()


def _digest(tensor: ir.TensorProtocol) -> bytes:
    """Digest the bytes, so that no second copy of a large weight is held."""
    return hashlib.sha256(np.ascontiguousarray(tensor.numpy()).reshape(-1).view(np.uint8).data).digest()
