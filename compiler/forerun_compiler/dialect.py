"""The `forerun` ONNX domain: ops that trace writes, passes move, and a lowering removes.

Every op is stateful in meaning and functional in form: a cache goes in and its new contents come out. Each op is a
frozen dataclass of its attributes plus a plain numpy reference that lowerings are tested against. The references
compute in float64, so they are more exact than anything they are compared with.

Shapes: B sequences, T tokens this run, H query heads, G key-value heads (H is a multiple of G), D head dim, C cache
rows, N rows of a batch of tokens, E hidden size, I expert hidden size, X experts, k experts per token.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir

from forerun_compiler.dialect_attention import (
    BLOCK,
    CAUSAL,
    DOMAIN,
    MASKS,
    TINY,
    Array,
    CachedAttention,
    CacheWrite,
    Op,
    TreeDepth,
    cache_write,
    cached_attention,
    int8_rows,
    rounded_weights,
    tree_depth,
    visible,
)
from forerun_compiler.errors import PassError, TraceError
from forerun_compiler.schemes import DENSE, SCHEMES

__all__ = [
    "ACTIVATIONS",
    "BLOCK",
    "CAUSAL",
    "DOMAIN",
    "MASKS",
    "OPSET",
    "TINY",
    "VERSION",
    "Array",
    "CacheWrite",
    "CachedAttention",
    "Evaluator",
    "Experts",
    "Linear",
    "TreeDepth",
    "cache_write",
    "cached_attention",
    "evaluate",
    "experts",
    "int8_rows",
    "linear",
    "rounded_weights",
    "tree_depth",
    "visible",
]

VERSION = 1
OPSET = 24
"""The standard opset of dialect models: 23 brings RMSNormalization and RotaryEmbedding, 24 TensorScatter."""


@dataclass(frozen=True)
class Experts(Op):
    """The gated feed-forward experts of a mixture: sum over the chosen experts of weight * down(act(gate) * up).

    Inputs: hidden [N,E] float32, index [N,k] int64, weight [N,k] float32, gate_up [X,2I,E] (gate rows first),
    down [X,E,I] float32. Output: [N,E].
    """

    OP_TYPE: ClassVar[str] = "Experts"

    activation: str
    """One of ACTIVATIONS, named as Hugging Face configurations name them."""

    def __post_init__(self) -> None:
        """Refuse activations without a reference."""
        if self.activation not in ACTIVATIONS:
            raise TraceError(f"Experts: activation must be one of {', '.join(ACTIVATIONS)}; got {self.activation!r}")


@dataclass(frozen=True)
class Linear(Op):
    """A product with a constant weight: x [...,K] float32, weight [N,K] float32 -> [...,N] float32.

    The weight is as the checkpoint has it; the scheme says how a lowering stores it and what it multiplies with.
    """

    OP_TYPE: ClassVar[str] = "Linear"

    layer: str
    """The layer's name, as recipes and reports spell it; after stacking those of all layers, joined by commas."""
    scheme: str = "float32"
    """A name of `schemes.SCHEMES`."""
    x_max: float = 0.0
    """The calibrated range of |x| for schemes that need one; 0 is none."""

    def __post_init__(self) -> None:
        """Refuse what no lowering knows."""
        if self.scheme not in SCHEMES:
            raise PassError(f"Linear {self.layer}: scheme must be one of {', '.join(SCHEMES)}; got {self.scheme!r}")
        if not self.layer or not math.isfinite(self.x_max) or self.x_max < 0.0:
            raise PassError(
                f"Linear {self.layer!r}: expected a layer's name and a finite x_max of at least 0; got {self.x_max}"
            )


def _silu(x: Array) -> Array:
    # x * sigmoid(x) with the sigmoid as tanh, which does not overflow for large negative x.
    return x * 0.5 * (1.0 + np.tanh(0.5 * x))


def _gelu(x: Array) -> Array:
    erf: Array = np.vectorize(math.erf, otypes=[np.float64])(x / math.sqrt(2.0))
    return 0.5 * x * (1.0 + erf)


def _gelu_tanh(x: Array) -> Array:
    return 0.5 * x * (1.0 + np.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)))


ACTIVATIONS: Mapping[str, Callable[[Array], Array]] = {
    "silu": _silu,
    "gelu": _gelu,
    "gelu_pytorch_tanh": _gelu_tanh,
    "relu": lambda x: np.maximum(x, 0.0),
}


def experts(hidden: Array, index: Array, weight: Array, gate_up: Array, down: Array, *, attributes: Experts) -> Array:
    """Reference of Experts: one token and one chosen expert at a time."""
    activation = ACTIVATIONS[attributes.activation]
    out = np.zeros(hidden.shape, np.float64)
    for n, row in enumerate(hidden.astype(np.float64)):
        for expert, share in zip(index[n].tolist(), weight[n].tolist(), strict=True):
            gate, up = np.split(gate_up[expert].astype(np.float64) @ row, 2)
            out[n] += share * (down[expert].astype(np.float64) @ (activation(gate) * up))
    return out.astype(hidden.dtype)


def linear(x: Array, weight: Array) -> Array:
    """Reference of Linear at float32; the schemes' references stand in `number_formats`."""
    return (x.astype(np.float64) @ weight.astype(np.float64).T).astype(x.dtype)


def evaluate(model: ir.Model, feeds: Mapping[str, Array]) -> dict[str, Array]:
    """Run a dialect model: standard ops by ONNX's reference evaluator, dialect ops by the references above.

    Slow by design and independent of every execution library. Inputs and outputs are keyed by name.
    """
    return Evaluator(model)(feeds)


class Evaluator:
    """`evaluate` with the model converted once, for callers that run it more often."""

    def __init__(self, model: ir.Model) -> None:
        """Convert the model; it must be smaller than 2 GB."""
        from onnx.reference import ReferenceEvaluator

        self._session = ReferenceEvaluator(ir.to_proto(model), new_ops=_op_runs())

    def __call__(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Return every output of the graph, by name."""
        return dict(zip(self._session.output_names, self._session.run(None, dict(feeds)), strict=True))


def _op_runs() -> list[type]:
    """Return the dialect ops as classes of ONNX's reference evaluator, which finds an op by its class's name."""
    from onnx.reference.op_run import OpRun

    def attention_run(self: Any, *inputs: Array, **attributes: Any) -> tuple[Array, ...]:
        return cached_attention(*inputs, attributes=CachedAttention(**attributes))

    def write_run(self: Any, *inputs: Array) -> tuple[Array, ...]:
        return cache_write(*inputs)

    def depth_run(self: Any, parents: Array) -> tuple[Array]:
        return (tree_depth(parents),)

    def experts_run(self: Any, *inputs: Array, **attributes: Any) -> tuple[Array]:
        return (experts(*inputs, attributes=Experts(**attributes)),)

    def linear_run(self: Any, *inputs: Array, **attributes: Any) -> tuple[Array]:
        if (scheme := Linear(**attributes).scheme) != DENSE:
            raise PassError(f"the dialect's evaluator knows Linear at {DENSE} only, found {scheme}")
        return (linear(*inputs),)

    runs = {
        CachedAttention.OP_TYPE: attention_run,
        CacheWrite.OP_TYPE: write_run,
        TreeDepth.OP_TYPE: depth_run,
        Experts.OP_TYPE: experts_run,
        Linear.OP_TYPE: linear_run,
    }
    return [type(name, (OpRun,), {"op_domain": DOMAIN, "_run": run}) for name, run in runs.items()]
