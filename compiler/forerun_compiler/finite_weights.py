"""Refuse a checkpoint with weights that are no finite numbers: later every activation is, and no message finds them."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from forerun_compiler.dialect import Experts, Linear
from forerun_compiler.errors import CheckpointError
from forerun_compiler.number_formats.checks import Array, in_slices

_READERS = (Linear.OP_TYPE, Experts.OP_TYPE, "Gather", "RMSNormalization", "LayerNormalization")


def check_finite(model: ir.Model) -> None:
    """Look through the weights of linear layers, experts, embeddings and norms of a linked graph.

    Other constants are ours: a mask may hold infinities.

    Raises:
        CheckpointError: names the layer, or else the tensor, and the first number of it that is not finite.
    """
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if tensor is None or not tensor.dtype.is_floating_point() or not tensor.shape or not tensor.size:
            continue
        readers = [use.node for use in value.uses() if use.node.op_type in _READERS]
        if readers:
            layers = (Linear.from_node(node).layer for node in readers if node.op_type == Linear.OP_TYPE)
            _check(next(layers, str(value.name)), np.asarray(tensor.numpy()))


def _check(name: str, array: Array) -> None:
    matrix, row = array.reshape(-1, array.shape[-1]), 0
    for part in in_slices(matrix):
        finite = np.isfinite(part)
        if not finite.all():
            at = int(np.argmin(finite)) + row * matrix.shape[1]
            place = [int(index) for index in np.unravel_index(at, array.shape)]
            raise CheckpointError(
                f"weight of {name}: expected finite numbers, found {matrix.reshape(-1)[at]} at {place}: the checkpoint "
                "is damaged, or was stored in a type that it overflows; get it again from where it came"
            )
        row += len(part)
