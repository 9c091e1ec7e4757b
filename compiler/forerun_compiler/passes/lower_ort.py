"""From the dialect to what ONNX Runtime's CPU provider runs fast: an ordered table of passes.

Every choice here was measured: `benchmarks/formulations.py`, results in `benchmarks/results/`.
"""

from __future__ import annotations

from functools import partial

import onnx_ir as ir

from forerun_compiler.manifest import EngineTarget
from forerun_compiler.passes.emulate_fp8 import emulate_fp8
from forerun_compiler.passes.emulate_nvfp4 import emulate_nvfp4
from forerun_compiler.passes.fuse_addend import fuse_addend
from forerun_compiler.passes.fuse_gate import fuse_gate
from forerun_compiler.passes.fuse_layer import fuse_layer
from forerun_compiler.passes.fuse_norm import fuse_norm
from forerun_compiler.passes.fuse_recurrence import fuse_recurrence
from forerun_compiler.passes.fuse_walk import fuse_walk
from forerun_compiler.passes.lower_attention import lower_attention
from forerun_compiler.passes.lower_experts import lower_experts
from forerun_compiler.passes.lower_linear import lower_linear
from forerun_compiler.passes.ordered_passes import Pass, run_passes
from forerun_compiler.passes.own_attention import own_attention
from forerun_compiler.passes.own_block_attention import own_block_attention
from forerun_compiler.passes.quantize_int4 import NEAREST, Rounded, quantize_int4
from forerun_compiler.passes.quantize_int8 import quantize_int8
from forerun_compiler.passes.quantize_int8_static import quantize_int8_static
from forerun_compiler.passes.spell_out_caches import spell_out_caches
from forerun_compiler.passes.spell_out_trees import lower_tree_depth
from forerun_compiler.passes.stack_products import stack_products

# What stands between two products. A gate before an addend: a product with an addend takes no gate.
_INTO_PRODUCTS = (
    Pass("fuse norms into products", fuse_norm, must_fire=False),
    Pass("fuse gates into products", fuse_gate, must_fire=False),
    Pass("fuse addends into products", fuse_addend, must_fire=False),
)
# Of any precision: the walk of a drafter that has one is a chain of small nodes.
_RECURRENCES = (
    Pass("fuse recurrences", fuse_recurrence, must_fire=False),
    Pass("fuse walks", fuse_walk, must_fire=False),
)
_LAYERS = Pass("fuse layers", fuse_layer, must_fire=False)


def passes_for(engine: EngineTarget, rounded: Rounded = NEAREST) -> tuple[Pass, ...]:
    """Return the ordered passes for an engine entry of a recipe: its kernels decide the form of some schemes.

    `rounded` are int4 layers whose codes are chosen already.
    """
    stock = engine.kernels == "stock"
    int8 = partial(quantize_int8, form="stock" if stock else "forerun")
    int4 = partial(quantize_int4, form="onnxruntime" if stock else "forerun", rounded=rounded)
    return (
        # Models that store Q, K and V, or gate and up, as one weight have nothing to stack.
        Pass("stack products", stack_products, must_fire=False),
        # After the stacking: our own attention reads the stacked rows of Q, K and V.
        Pass("lower attention and caches", _stock_attentions if stock else _attentions, must_fire=True),
        Pass("lower experts", lower_experts, must_fire=False),
        Pass("quantize int8", int8, must_fire=False),
        Pass("quantize int4", int4, must_fire=False),
        *(() if stock else (*_INTO_PRODUCTS, *_RECURRENCES)),
        Pass("quantize int8-static", quantize_int8_static, must_fire=False),
        Pass("emulate fp8", emulate_fp8, must_fire=False),
        Pass("emulate nvfp4", emulate_nvfp4, must_fire=False),
        Pass("lower float32", lower_linear, must_fire=False),
        *(() if stock else (_LAYERS,)),
    )


def _attentions(model: ir.Model) -> int:
    """Lower what our own operators compute, then the rest."""
    return own_attention(model) + own_block_attention(model) + _stock_attentions(model)


def _stock_attentions(model: ir.Model) -> int:
    spell_out_caches(model)
    count = lower_attention(model)
    lower_tree_depth(model)
    return count


PASSES = passes_for(EngineTarget())


def lower_ort(model: ir.Model, passes: tuple[Pass, ...] = PASSES) -> dict[str, int]:
    """Lower a linked graph in place; return how often each pass fired.

    Raises:
        PassError: a pass that must fire changed nothing, or an op of the dialect is left.
    """
    return run_passes(model, passes, "ONNX Runtime")
