"""The quantization schemes that a recipe can name: what each stores, what it computes with, and where it runs.

A scheme is one row here, one encoder in `number_formats/`, one pass in `passes/quantize_*.py` with its row in
`passes/lower_ort.py`, and one tolerance in `proof/ties.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

DENSE = "float32"
ONNXRUNTIME, TENSORRT_RTX, TENSORRT = "onnxruntime", "tensorrt-rtx", "tensorrt"
RangeMethod = Literal["absmax", "percentile", "mse"]
"""How the range of an activation follows from what calibration counted; see `activation_range.py`."""

Rounding = Literal["compensated", "nearest"]
"""How int4 codes are chosen: see `number_formats/error_compensation.py` and `number_formats/int4.py`."""

_GPU = (TENSORRT_RTX, TENSORRT)


@dataclass(frozen=True)
class Scheme:
    """How the linear layers of a part are stored and multiplied.

    `float32` is the engine's own dtype on TensorRT. `runs_on` are the backends whose own kernels compute a scheme,
    `emulated_on` those that compute the same numbers slowly. `calibrated` schemes need the range of each layer's input
    beforehand. A weight [N,K] needs K to be a multiple of `block`. `by_row`: an output row depends on its own input row
    alone, which is what a verify pass needs.
    """

    name: str
    weights: str
    activations: str
    runs_on: tuple[str, ...]
    emulated_on: tuple[str, ...] = ()
    calibrated: bool = False
    block: int = 1
    by_row: bool = True


SCHEMES = {
    scheme.name: scheme
    for scheme in (
        Scheme(DENSE, "float32", "float32", (ONNXRUNTIME, *_GPU)),
        Scheme("int8", "int8 per output channel", "int8 per row, dynamic", (ONNXRUNTIME,)),
        # On a CPU forerun's own kernels round activations to int8 per row; all others read floats.
        Scheme("int4", "int4 in groups of 128", "float", (ONNXRUNTIME, *_GPU)),
        Scheme("int4-group64", "int4 in groups of 64", "float", (ONNXRUNTIME,)),
        Scheme("int4-group32", "int4 in groups of 32", "float", (ONNXRUNTIME, *_GPU)),
        Scheme("int8-static", "int8 per output channel", "int8 per tensor", (ONNXRUNTIME, *_GPU), calibrated=True),
        Scheme("fp8", "E4M3 per output channel", "E4M3 per tensor", _GPU, (ONNXRUNTIME,), calibrated=True),
        Scheme(
            "nvfp4",
            "E2M1 in blocks of 16, E4M3 block scales",
            "E2M1 in blocks of 16, dynamic",
            _GPU,
            (ONNXRUNTIME,),
            calibrated=True,
            block=16,
        ),
        Scheme("nvfp4-weight-only", "E2M1 in blocks of 16, E4M3 block scales", "float", _GPU, (ONNXRUNTIME,), block=16),
    )
}
"""By the name that recipes use."""

INT4_GROUPS = {"int4": 128, "int4-group64": 64, "int4-group32": 32}
"""Inputs that share a scale, by scheme. TensorRT has kernels for 32 and 128 only."""
