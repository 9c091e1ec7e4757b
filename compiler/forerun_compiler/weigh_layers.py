"""What each layer became: bytes as stored, and how much its output changes; then all that is no linear layer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import onnx_ir as ir

from forerun_compiler.activation_range import Calibration
from forerun_compiler.dialect import DOMAIN, Experts, Linear
from forerun_compiler.number_formats import round_trip, stored_bytes
from forerun_compiler.passes.assign_precision import Choice
from forerun_compiler.passes.name_products import TARGET, products
from forerun_compiler.passes.quantize_int4 import NEAREST, Rounded
from forerun_compiler.precision_map import LayerPrecision
from forerun_compiler.schemes import DENSE, INT4_GROUPS, Rounding
from forerun_compiler.sensitivity import sensitivity

_LOOKED_UP = "an embedding: rows are looked up, not multiplied"
_EXPERTS = "experts are not quantized in this version"
_REST = "norms, rotary tables and small constants"


def weigh_layers(
    model: ir.Model, choices: Sequence[Choice], calibration: Calibration | None, rounded: Rounded = NEAREST
) -> tuple[LayerPrecision, ...]:
    """Return one row per linear layer, in graph order, then embeddings and experts, then one row for all else.

    `model` is the linked round with its float32 weights. A weight that several layers read in one scheme is counted at
    the first of them, one that an embedding reads too at the embedding. `rounded` are int4 layers whose codes were
    chosen on text.
    """
    layers = {Linear.from_node(node).layer: node.inputs[1] for node in reversed(products(model))}
    counted = {value for value, reason in _others(model) if reason != _REST}
    seen: set[tuple[ir.Value, str]] = {(value, DENSE) for value in counted}
    rows = []
    for choice in choices:
        weight = layers[choice.layer]
        assert weight is not None
        assert weight.const_value is not None
        n, k = (int(size) for size in weight.const_value.shape.numpy())
        size = 0 if (weight, choice.scheme) in seen else stored_bytes(choice.scheme, n, k)
        seen.add((weight, choice.scheme))
        found = rounded.get((choice.scheme, choice.layer))
        if choice.scheme == DENSE:
            error = None
        else:
            error = found.error if found is not None else _error(choice, weight, calibration)
        rounding: Rounding | None = None
        if choice.scheme in INT4_GROUPS:
            rounding = "nearest" if found is None else "compensated"
        row = LayerPrecision(choice.layer, choice.part, choice.scheme, n * k, size, error, choice.reason, rounding)
        rows.append(row)
    return (*rows, *_dense_rows(model))


def _error(choice: Choice, weight: ir.Value, calibration: Calibration | None) -> float:
    """The relative error of the layer's output on the calibration text; of the weight where there is none."""
    assert weight.const_value is not None
    array = np.asarray(weight.const_value.numpy(), np.float32)
    statistics = calibration.layers.get(choice.layer) if calibration is not None else None
    moment = statistics.second_moment if statistics is not None else None
    return sensitivity(array, round_trip(choice.scheme, array, choice.layer), moment).error


def _others(model: ir.Model) -> Iterator[tuple[ir.Value, str]]:
    """Every initializer that is not a linear layer's alone, and why it stays dense."""
    for value in model.graph.initializers.values():
        users = [use.node for use in value.uses()]
        if any(node.op_type == "Gather" for node in users) and len(value.shape or ()) == 2:
            yield value, _LOOKED_UP
        elif any((node.op_type, node.domain) == (Experts.OP_TYPE, DOMAIN) for node in users):
            yield value, _EXPERTS
        elif not any((node.op_type, node.domain) == (Linear.OP_TYPE, DOMAIN) for node in users):
            yield value, _REST


def _dense_rows(model: ir.Model) -> Iterator[LayerPrecision]:
    parameters = size = 0
    for value, reason in _others(model):
        tensor = value.const_value
        if tensor is None:
            continue
        if reason == _REST:
            parameters, size = parameters + tensor.size, size + tensor.nbytes
            continue
        name = str(value.name).removesuffix(".weight").replace("/module.", ".").replace("/", ".")
        part = "target" if name.startswith(TARGET) else "drafter"
        yield LayerPrecision(name, part, DENSE, tensor.size, tensor.nbytes, None, reason)
    yield LayerPrecision("other constants", "both", DENSE, parameters, size, None, _REST)
