"""How near two logits must lie for rounding to decide between them: a tie.

A run of one row takes the library's matrix-vector kernels, which add up in another order than those of several rows. In
float32 that moves a logit by some 1e-5. A quantized activation that this moves across a rounding boundary changes by a
whole step, and every later layer rounds anew: then the noise is that of the quantization itself.

So each scheme has a tolerance of its own. They were measured on the demo with every part in that scheme: 11,258 tokens
of its prompts (int4: 16,498) through plain.onnx one row a run, and through round.onnx at its eight rows. At the 60 to
140 places where the most probable token differed, the two tokens' logits lay apart by at most

    int4 0.085   int8 0.104   int8-static 0.164   fp8 0.274   nvfp4 0.814   (float32, nvfp4-weight-only: no such place)

The tolerances are about twice that. int4's was measured with the library's kernels: with the project's own operators a
row of int8 or int4 has the same bits at any width, and there was no such place. Both round activations to int8, which
is what a tie comes from: so they have one tolerance. None is for speculation on and off, which run at one width.
"""

from __future__ import annotations

from collections.abc import Iterable

TIES = {
    "float32": 1e-4,
    "nvfp4-weight-only": 1e-4,
    "int4": 0.2,
    "int4-group64": 0.2,
    "int4-group32": 0.2,
    "int8": 0.2,
    "int8-static": 0.3,
    "fp8": 0.5,
    "nvfp4": 1.5,
}
"""By scheme, in units of logits. nvfp4-weight-only rounds no activations."""


def tie_tolerance(schemes: Iterable[str]) -> float:
    """The tolerance of a target whose layers have these schemes, besides float32."""
    return max(TIES[scheme] for scheme in ("float32", *schemes))
