"""The second moments of what linear layers read on text: the sum of x x^T over the rows x of each layer's input.

Layers of one input share one matrix. Matrices that do not fit into the budget together are collected in several
readings of the text.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from forerun_compiler.manifest import ModelFacts
from forerun_compiler.on_progress import OnProgress
from forerun_compiler.passes.observe_inputs import Tap, observe_inputs
from forerun_compiler.teacher_forcing import observed_round

Array = npt.NDArray[Any]
STAGE = "read second moments"
BUDGET = 3 << 30
"""Bytes of matrices that are held at once: those of a target of 600 M parameters (38 layers, widths of 1,024 to 3,072)
and its drafter take 2.4 GiB. A second reading of the text costs more than the room."""
RUN_TOKENS = 64
"""Tokens of one run: a run of 8 takes half the time of one of 64, for all weights come from memory once a run. The
drafter's block is read once behind each run, which makes its rows as many as those of an eighth of the text."""
_ROWS = 512
"""Rows that wait until they are added: adding few to a matrix costs as much as adding many."""


def second_moments(
    model: ir.Model,
    facts: ModelFacts,
    texts: Sequence[Sequence[int]],
    layers: Collection[str],
    on_progress: OnProgress,
    budget: int = BUDGET,
) -> Iterator[Mapping[str, Array]]:
    """Yield the second moments of `layers`, float32 [K,K] by layer, as many at once as the budget allows.

    Layers that only run inside branches are left out. A layer that reads two inputs has the sum over both. The linked
    round `model` is left as it is; `texts` are tokens within the capacity and the vocabulary.

    Raises:
        CalibrationError: an activation is not finite.
        EngineError: ONNX Runtime is missing or refuses the graph.
    """
    batches = _batches(observe_inputs(model.clone(), layers), budget)
    tokens = sum(len(text) for text in texts)
    on_progress(STAGE, 0, len(batches) * tokens)
    for number, batch in enumerate(batches):
        named = {layer for tap in batch for layer in tap.layers}

        def read(done: int, number: int = number) -> None:
            on_progress(STAGE, number * tokens + done, len(batches) * tokens)

        # Not kept here: the matrices of two batches would be held at once.
        yield _sums(model, facts, texts, named, read)


def _sums(
    model: ir.Model,
    facts: ModelFacts,
    texts: Sequence[Sequence[int]],
    named: Collection[str],
    on_read: Callable[[int], None],
) -> dict[str, Array]:
    """Return the matrices of the named layers; `on_read` is told how many tokens were read."""
    done = 0
    with observed_round(model, named) as observed:
        sums = [_Sum(tap.channels) for tap in observed.taps]
        for run, inputs in observed.read(texts, max(facts.draft_len + 1, RUN_TOKENS)):
            for each, x in zip(sums, inputs, strict=True):
                each.add(x)
            done += len(run.tokens)
            on_read(done)
        taps = observed.taps
    found: dict[str, Array] = {}
    for tap, each in zip(taps, sums, strict=True):
        matrix = each.matrix()
        for layer in tap.layers:
            found[layer] = found[layer] + matrix if layer in found else matrix
    return found


class _Sum:
    """Adds up x x^T over rows [K]."""

    def __init__(self, channels: int) -> None:
        self._sum = np.zeros((channels, channels), np.float32)
        self._waiting: list[Array] = []

    def add(self, x: Array) -> None:
        """Add rows x float32 [rows,K]."""
        self._waiting.append(x)
        if sum(map(len, self._waiting)) >= _ROWS:
            self._flush()

    def matrix(self) -> Array:
        """Return the sum over all rows, float32 [K,K]."""
        if self._waiting:
            self._flush()
        return self._sum

    def _flush(self) -> None:
        rows = np.concatenate(self._waiting)
        self._sum += rows.T @ rows
        self._waiting.clear()


def _batches(taps: Sequence[Tap], budget: int) -> list[list[Tap]]:
    """Taps to be read together: those of one layer always, others while their matrices fit into the budget."""
    joined: list[list[Tap]] = []
    for tap in taps:
        related = [group for group in joined if any({*tap.layers} & {*other.layers} for other in group)]
        joined = [group for group in joined if group not in related]
        joined.append([*(other for group in related for other in group), tap])
    batches: list[list[Tap]] = []
    for group in joined:
        if batches and _bytes(batches[-1]) + _bytes(group) <= budget:
            batches[-1] += group
        else:
            batches.append(group)
    return batches


def _bytes(taps: Sequence[Tap]) -> int:
    return sum(4 * tap.channels**2 for tap in taps)
