"""Count what every linear layer of the round reads on text: the ranges of static scales follow from it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from forerun_compiler.activation_range import BINS, Calibration, Counts, Floats, LayerStatistics, count
from forerun_compiler.manifest import ModelFacts
from forerun_compiler.on_progress import OnProgress
from forerun_compiler.passes.assign_precision import layer_names
from forerun_compiler.teacher_forcing import CalibrationSettings, cut_texts, observed_round

Array = npt.NDArray[Any]
STAGE = "calibrate"


def calibrate(
    model: ir.Model,
    facts: ModelFacts,
    sequences: Sequence[Sequence[int]],
    settings: CalibrationSettings,
    on_progress: OnProgress,
) -> Calibration:
    """Read `sequences`, one text's tokens each, and return what each Linear of the main graph saw.

    Args:
        model: the linked round in the dialect, its products named, schemes float32; it is left as it is.
        facts: `capacity` cuts long texts, `draft_len` and `vocab_size` are the graph's.
        sequences: token ids.
        settings: see there.
        on_progress: is called with the stage, and tokens done and in all.

    Raises:
        CalibrationError: too little text, a token outside the vocabulary, or an activation that is not finite.
        EngineError: ONNX Runtime is missing or refuses the graph.
    """
    texts = cut_texts(sequences, facts, settings)
    total, done = sum(len(text) for text in texts), 0
    on_progress(STAGE, done, total)
    with observed_round(model) as observed:
        taps = observed.taps
        tallies = [_Tally(tap.channels) for tap in taps]
        for run, inputs in observed.read(texts, facts.draft_len + 1):
            for tally, x in zip(tallies, inputs, strict=True):
                tally.add(x)
            done += len(run.tokens)
            on_progress(STAGE, done, total)
    seen: dict[str, list[_Tally]] = {}
    for tap, tally in zip(taps, tallies, strict=True):
        for layer in tap.layers:
            seen.setdefault(layer, []).append(tally)
    missing = tuple(layer for layer in layer_names([model]) if layer not in seen)
    return Calibration({name: _statistics(parts) for name, parts in seen.items()}, missing, total)


class _Tally:
    """Sums over the rows [K] that a tap gave."""

    def __init__(self, channels: int) -> None:
        self.rows, self.absmax = 0, 0.0
        self.histogram: Counts = np.zeros(BINS, np.int64)
        self.squares: Floats = np.zeros(channels)

    def add(self, x: Array) -> None:
        """Add rows x [rows,K]."""
        self.rows += len(x)
        self.absmax = max(self.absmax, float(np.abs(x).max(initial=0.0)))
        self.histogram += count(x)
        self.squares += np.square(x, dtype=np.float64).sum(axis=0)


def _statistics(parts: Sequence[_Tally]) -> LayerStatistics:
    rows = sum(part.rows for part in parts)
    return LayerStatistics(
        rows=rows,
        absmax=max(part.absmax for part in parts),
        histogram=np.sum([part.histogram for part in parts], axis=0),
        second_moment=np.sum([part.squares for part in parts], axis=0) / rows,
    )
