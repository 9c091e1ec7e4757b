"""Recipes of one pair for each quantization scheme: every part in that scheme, on this machine's processor."""

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


def recipe_text(pair: PairFiles, scheme: str) -> str:
    """The recipe of `pair` with target, drafter and LM head in `scheme`; schemes of other devices are emulated."""
    emulate = is_emulated(scheme)
    return f"""\
name: {pair.name}-{scheme}

target:
  model: {pair.target}

drafter:
  model: {pair.drafter}
  family: dspark

capacity: {pair.capacity}

precision:
  target: {scheme}
  drafter: {scheme}
  lm_head: {scheme}
  cache: float32

engines:
  - backend: onnxruntime
    device: cpu
{"    emulate: true" if emulate else "    # its own kernels"}

prompts: {pair.prompts}
"""


def is_emulated(scheme: str) -> bool:
    """Whether the processor computes this scheme's numbers only slowly, as a reference: its times say nothing."""
    return ONNXRUNTIME not in SCHEMES[scheme].runs_on
