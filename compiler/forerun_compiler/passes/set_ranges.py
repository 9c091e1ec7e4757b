"""Give every linear layer whose scheme has static activation scales the range that calibration found for its input."""

from __future__ import annotations

import onnx_ir as ir

from forerun_compiler.activation_range import Calibration, x_max
from forerun_compiler.dialect import Linear
from forerun_compiler.errors import CalibrationError
from forerun_compiler.passes.name_products import products
from forerun_compiler.schemes import SCHEMES, RangeMethod


def set_ranges(model: ir.Model, calibration: Calibration, method: RangeMethod) -> int:
    """Set `x_max` of every Linear of a calibrated scheme, those in branches too; return how many were set.

    Schemes must be assigned, and layers not yet stacked.

    Raises:
        CalibrationError: a layer needs a range and calibration has none for it.
    """
    known: dict[tuple[str, str], float] = {}
    count = 0
    for node in products(model):
        linear = Linear.from_node(node)
        if not SCHEMES[linear.scheme].calibrated:
            continue
        key = (linear.layer, linear.scheme)
        if key not in known:
            known[key] = _range(linear, calibration, method)
        node.attributes["x_max"] = ir.AttrFloat32("x_max", known[key])
        count += 1
    return count


def _range(linear: Linear, calibration: Calibration, method: RangeMethod) -> float:
    statistics = calibration.layers.get(linear.layer)
    if statistics is None:
        why = (
            "which is not there for layers that run token by token inside a branch"
            if linear.layer in calibration.missing
            else f"which has {len(calibration.layers)} other layers: it was made of another graph"
        )
        raise CalibrationError(
            f"layer {linear.layer}: the scheme {linear.scheme} needs the range of its input from calibration, {why}; "
            "give the layer a scheme without one"
        )
    return x_max(statistics, method, linear.scheme)
