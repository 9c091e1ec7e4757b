"""Drafter families: one file each, with the torch module, its checkpoint reader and its trace.

A new family adds a file and one row of `_FAMILIES`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from forerun_compiler.errors import CheckpointError

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch


@dataclass(frozen=True)
class TargetSide:
    """What a drafter needs to know of its target, and may borrow from it.

    `embedding` and `lm_head` are float tensors [vocab_size, hidden_size].
    """

    name: str
    vocab_size: int
    hidden_size: int
    num_layers: int
    embedding: torch.Tensor
    lm_head: torch.Tensor


@dataclass(frozen=True)
class DrafterParts:
    """A drafter as traced graphs of the dialect; K is draft_len, A the taps, E the drafter's hidden size.

    | part | inputs | outputs |
    |---|---|---|
    | context | taps [1,T,A*E_target], position [1], drafter.{j}.k/.v | drafter.{j}.k.out/.v.out |
    | block | anchor [1], position [1] (of the anchor), drafter.{j}.k/.v | hidden [1,K,E], logits [1,K,V], states out |
    | greedy | logits, hidden, anchor | draft_tokens [1,K] |
    | sampled | logits, hidden, anchor, temperature [1], uniform [1,K] | draft_tokens [1,K], draft_probs [1,K,V] |
    | confidence | hidden, anchor, draft_tokens | draft_confidence [1,K]; None for a drafter without such a head |

    Inputs that a drafter does not use (hidden, anchor) are absent from its parts.
    """

    context: ir.Model
    block: ir.Model
    greedy: ir.Model
    sampled: ir.Model
    confidence: ir.Model | None


class Drafter(Protocol):
    """A loaded drafter, checked against its target."""

    @property
    def family(self) -> str:
        """The family's name, as recipes spell it."""

    @property
    def block_size(self) -> int:
        """How many tokens it was trained to draft at once."""

    @property
    def taps(self) -> tuple[int, ...]:
        """The target's layer outputs that it reads; 0-based, -1 is the embedding."""

    @property
    def mask_token_id(self) -> int | None:
        """The token that fills the slots of a block, if the family has one."""

    def trace(self, draft_len: int, cache_rows: int) -> DrafterParts:
        """Trace all parts for drafts of `draft_len` tokens and caches of `cache_rows` rows."""


def _dspark(source: Path, target: TargetSide) -> Drafter:
    from forerun_compiler.drafters.dspark import load

    return load(source, target)


def _is_dspark(config: Mapping[str, Any]) -> bool:
    from forerun_compiler.drafters.dspark_checkpoint import is_dspark

    return is_dspark(config)


@dataclass(frozen=True)
class _Family:
    detect: Callable[[Mapping[str, Any]], bool]
    load: Callable[[Path, TargetSide], Drafter]


_FAMILIES: dict[str, _Family] = {"dspark": _Family(_is_dspark, _dspark)}


def load_drafter(source: Path, family: str, target: TargetSide) -> Drafter:
    """Load the drafter in the folder `source` and check that it fits `target`.

    Args:
        source: a folder with `config.json` and `*.safetensors`.
        family: a family's name, or "auto" to let the configuration say it.
        target: the model that it drafts for.

    Raises:
        CheckpointError: unknown family or layout, unsupported feature, damaged file, or a drafter of another target.
    """
    from forerun_compiler.drafters.files import read_config

    if family == "auto":
        config = read_config(source)
        family = next((name for name, entry in _FAMILIES.items() if entry.detect(config)), "")
        if not family:
            raise CheckpointError(
                f"{source}: config.json: expected a drafter of a known family ({', '.join(_FAMILIES)}), found "
                f"architectures {config.get('architectures')}; see recipes/README.md for the supported layouts"
            )
    if family not in _FAMILIES:
        raise CheckpointError(
            f"{source}: drafter family {family!r} does not exist; known: {', '.join(_FAMILIES)}, auto"
        )
    return _FAMILIES[family].load(source, target)
