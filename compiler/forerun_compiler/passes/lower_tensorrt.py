"""From the dialect to what TensorRT builds into one engine that a CUDA graph can hold: an ordered table of passes.

Standard operators of opset 24, no branch, no loop, every state written in place. T, the tokens of a run, stays open: an
engine gets one profile for each verify width (plain decoding: 1 row) and one for prefill, and holds its weights once
for all. The graph runs on ONNX Runtime's CPU provider as well, in float32 and float16, which is how its numbers
are checked without a GPU.
"""

from __future__ import annotations

import onnx_ir as ir

from forerun_compiler.passes.compute_dtype import compute_dtype
from forerun_compiler.passes.count_leading import count_leading
from forerun_compiler.passes.feedback import add_feedback
from forerun_compiler.passes.first_largest import first_largest
from forerun_compiler.passes.flatten_branches import flatten_branches
from forerun_compiler.passes.least_width import least_width
from forerun_compiler.passes.lower_experts import lower_experts
from forerun_compiler.passes.lower_linear import lower_linear, lower_linear_as_stored
from forerun_compiler.passes.ordered_passes import Pass, run_passes
from forerun_compiler.passes.quantize_fp8 import quantize_fp8
from forerun_compiler.passes.quantize_int4 import NEAREST, Rounded, quantize_int4
from forerun_compiler.passes.quantize_int8_static import quantize_int8_static
from forerun_compiler.passes.quantize_nvfp4 import quantize_nvfp4
from forerun_compiler.passes.scatter_states import scatter_states
from forerun_compiler.passes.stack_products import stack_products
from forerun_compiler.passes.tensorrt_attention import decoding_width, tensorrt_attention
from forerun_compiler.passes.turn_codes import turn_codes
from forerun_compiler.passes.two_level_draws import two_level_draws

IR_VERSION = 11
"""The first that has initializers of four bits in floating point."""


def passes_for(dtype: str, narrower: bool, rounded: Rounded = NEAREST) -> tuple[Pass, ...]:
    """Return the ordered passes for an engine that computes in `dtype` where a layer's scheme says nothing else.

    `narrower`: decoding runs may have fewer rows than the widest (tensorrt_attention); `rounded` are int4 layers whose
    codes are chosen already.
    """
    return (
        Pass("flatten branches", flatten_branches, must_fire=True),
        # Plain decoding tests no draft, and asks for one row of logits.
        Pass("know the least width", lambda model: least_width(model, decoding_width(model)), must_fire=False),
        Pass("count leading rows", count_leading, must_fire=False),
        Pass("take the first largest", first_largest, must_fire=True),
        Pass("draw in two levels", two_level_draws, must_fire=False),
        Pass("stack products", stack_products, must_fire=False),
        Pass("lower attention and caches", lambda model: tensorrt_attention(model, narrower), must_fire=True),
        Pass("lower experts", lower_experts, must_fire=False),
        Pass("compute in the engine's dtype", lambda model: compute_dtype(model, dtype), must_fire=dtype != "float32"),
        Pass("quantize fp8", quantize_fp8, must_fire=False),
        Pass("quantize nvfp4", lambda model: quantize_nvfp4(model, "standard"), must_fire=False),
        Pass("quantize int8-static", quantize_int8_static, must_fire=False),
        Pass("quantize int4", lambda model: quantize_int4(model, "standard", rounded), must_fire=False),
        Pass("turn codes", _codes_of_one_row, must_fire=False),
        # All layers but a drafter's `fc` may be quantized.
        Pass("lower dense products", _dense_products, must_fire=False),
        Pass("scatter states", scatter_states, must_fire=False),
        Pass("add feedback", add_feedback, must_fire=True),
    )


def _codes_of_one_row(model: ir.Model) -> int:
    return turn_codes(model) if decoding_width(model) == 1 else 0


def _dense_products(model: ir.Model) -> int:
    """Plain decoding multiplies one row, for which TensorRT reads [N,K]; of another form it would store both."""
    return lower_linear_as_stored(model) if decoding_width(model) == 1 else lower_linear(model)


def lower_tensorrt(model: ir.Model, passes: tuple[Pass, ...]) -> dict[str, int]:
    """Lower a linked graph in place; return how often each pass fired.

    Raises:
        PassError: a pass that must fire changed nothing, an op of the dialect is left, or the model has what TensorRT
            cannot run.
    """
    model.ir_version = IR_VERSION
    return run_passes(model, passes, "TensorRT")
