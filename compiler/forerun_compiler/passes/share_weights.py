"""Store equal constants once: an embedding or LM head that the drafter borrows, rotary tables, small numbers.

Constants are equal when dtype, shape and bytes are. Transposed copies are not looked for: `lower_linear` reads a weight
that is stored for an embedding in the layout that it has. The scales and zero points of Q/DQ nodes stay apart, equal or
not: TensorRT's compiler crashes on one that two of them read. The weights file holds their bytes once all the same.
"""

from __future__ import annotations

import hashlib

import numpy as np
import onnx_ir as ir

from forerun_compiler.graph import remove_unused

QUANTIZERS = ("QuantizeLinear", "DequantizeLinear", "TRT_FP4DynamicQuantize")

Key = tuple[str, tuple[int, ...], bytes]


def share_weights(model: ir.Model) -> int:
    """Let all users of equal initializers read the first of them; return how many copies were dropped."""
    graph = model.graph
    first: dict[Key, ir.Value] = {}
    dropped = 0
    for value in list(graph.initializers.values()):
        if value.const_value is None or value.is_graph_output() or _is_scale(value):
            continue
        kept = first.setdefault(_key(value.const_value), value)
        if kept is not value:
            value.replace_all_uses_with(kept)
            dropped += 1
    remove_unused(model)
    return dropped


def _is_scale(value: ir.Value) -> bool:
    return any(use.node.op_type in QUANTIZERS and use.idx > 0 for use in value.uses())


def _key(tensor: ir.TensorProtocol) -> Key:
    """Digest the bytes, so that no second copy of a large weight is held."""
    array = tensor.numpy()
    digest = hashlib.sha256(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return str(tensor.dtype), tuple(array.shape), digest.digest()
