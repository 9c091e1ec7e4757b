"""DSpark: a parallel block drafter with context injection, a low-rank Markov head and a confidence head.

The target's taps of all committed tokens become keys and values of the drafter's layers (`fc`, `hidden_norm`, then
each layer's own key and value projections). A block of `block_size` rows, the anchor and then mask tokens, runs through
the layers once; every row sees the context and the whole block. Row k (0 is the anchor's) predicts the token k + 1
places after the anchor: its own logits, plus a Markov bias by the token drafted before it. Only that is sequential.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from forerun_compiler.drafters import DrafterParts, TargetSide
from forerun_compiler.drafters.dspark_checkpoint import BORROWED, DSparkCheckpoint, DSparkConfig, read_checkpoint
from forerun_compiler.drafters.dspark_module import DSparkModule
from forerun_compiler.drafters.dspark_trace import trace_parts
from forerun_compiler.errors import CheckpointError


@dataclass(frozen=True)
class DSpark:
    """A DSpark drafter with all its tensors, fitted to its target."""

    source: str
    config: DSparkConfig
    module: DSparkModule

    @property
    def family(self) -> str:
        """The family's name, as recipes spell it."""
        return "dspark"

    @property
    def block_size(self) -> int:
        """How many tokens it was trained to draft at once."""
        return self.config.block_size

    @property
    def taps(self) -> tuple[int, ...]:
        """The target's layer outputs that it reads; 0-based, -1 is the embedding."""
        return self.config.taps

    @property
    def mask_token_id(self) -> int | None:
        """The token that fills the slots of a block."""
        return self.config.mask_token_id

    def trace(self, draft_len: int, cache_rows: int) -> DrafterParts:
        """Trace all parts; see DrafterParts for their inputs and outputs."""
        if not 1 <= draft_len <= self.block_size:
            raise CheckpointError(
                f"{self.source}: draft_len must be from 1 to the block size {self.block_size}; got {draft_len}"
            )
        return trace_parts(self.module, draft_len, cache_rows)


def load(folder: Path, target: TargetSide) -> DSpark:
    """Read a DSpark checkpoint of any layout and fit it to its target.

    Raises:
        CheckpointError: see `read_checkpoint` and `fit`.
    """
    return fit(read_checkpoint(folder), target)


def fit(checkpoint: DSparkCheckpoint, target: TargetSide) -> DSpark:
    """Check a checkpoint against its target and borrow what it lacks.

    Raises:
        CheckpointError: another vocabulary, taps that the target does not have, or a tensor that is missing,
            unexpected or of the wrong shape.
    """
    config, tensors = checkpoint.config, dict(checkpoint.tensors)
    _check_target(checkpoint, target)
    shapes = config.tensor_shapes(target.hidden_size)
    for name, lent in zip(BORROWED, (target.embedding, target.lm_head), strict=True):
        tensors.setdefault(name, lent.detach().to(torch.float32))
    missing, unexpected = sorted(set(shapes) - set(tensors)), sorted(set(tensors) - set(shapes))
    if missing or unexpected:
        raise CheckpointError(
            f"{checkpoint.source}: expected the tensors of a DSpark drafter with {config.num_layers} layers; "
            f"missing: {', '.join(missing) or 'none'}; unexpected: {', '.join(unexpected) or 'none'}"
        )
    for name, shape in shapes.items():
        if tuple(tensors[name].shape) != shape:
            raise CheckpointError(
                f"{checkpoint.source}: tensor {name}: expected the shape {list(shape)}, found "
                f"{list(tensors[name].shape)}; the checkpoint and its config.json, or its target {target.name}, differ"
            )
    with torch.device("meta"):
        module = DSparkModule(config)
        module.fc = nn.Linear(shapes["fc.weight"][1], config.hidden_size, bias=False)
    module.load_state_dict(tensors, assign=True)
    return DSpark(checkpoint.source, config, module.requires_grad_(False).eval())


def _check_target(checkpoint: DSparkCheckpoint, target: TargetSide) -> None:
    config, last = checkpoint.config, target.num_layers - 1
    if config.vocab_size != target.vocab_size:
        raise CheckpointError(
            f"{checkpoint.source}: the drafter's vocabulary has {config.vocab_size} tokens, that of its target "
            f"{target.name} has {target.vocab_size}; a drafter works with the target that it was trained for only"
        )
    # The last layer's entry of hidden_states is normalised already; no drafter is trained on that.
    if any(tap >= last for tap in config.taps):
        raise CheckpointError(
            f"{checkpoint.source}: target_layer_ids {list(config.taps)} must stay below the last layer {last} of the "
            f"target {target.name}, which has {target.num_layers} layers; is this drafter another target's?"
        )
