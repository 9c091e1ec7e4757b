"""Recipes of one pair for each quantization scheme: every part in that scheme, on a processor."""

from __future__ import annotations

from dataclasses import dataclass

from forerun_compiler.schemes import ONNXRUNTIME, SCHEMES


@dataclass(frozen=True)
class PairFiles:
    """What a pair's recipes have in common; paths are as the recipe's own folder sees them."""

    name: str
    target: str
    drafter: str
    prompts: str
    capacity: int


@dataclass(frozen=True)
class Candidate:
    """One bundle of a comparison: a scheme, and whose kernels run it."""

    name: str
    scheme: str
    kernels: str = "forerun"

    @property
    def is_emulated(self) -> bool:
        """Whether this processor computes the scheme's numbers only slowly, as a reference: its times say nothing."""
        return ONNXRUNTIME not in SCHEMES[self.scheme].runs_on


CANDIDATES = {name: Candidate(name, name) for name in SCHEMES}
CANDIDATES |= {f"{scheme}-stock": Candidate(f"{scheme}-stock", scheme, kernels="stock") for scheme in ("int8", "int4")}
"""By name: every scheme, and what ONNX Runtime's own kernels make of int8 and int4."""


def recipe_text(pair: PairFiles, candidate: Candidate) -> str:
    """The recipe of `pair` with target, drafter and LM head in the candidate's scheme."""
    return f"""\
name: {pair.name}-{candidate.name}

target:
  model: {pair.target}

drafter:
  model: {pair.drafter}
  family: dspark

capacity: {pair.capacity}

precision:
  target: {candidate.scheme}
  drafter: {candidate.scheme}
  lm_head: {candidate.scheme}
  cache: float32

engines:
  - backend: onnxruntime
    device: cpu
    kernels: {candidate.kernels}
    emulate: {"true" if candidate.is_emulated else "false"}

prompts: {pair.prompts}
"""
