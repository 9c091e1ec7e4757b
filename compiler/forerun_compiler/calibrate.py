"""Run the round graph in float32 over text, and count what every linear layer reads.

The text is teacher-forced in runs of draft_len + 1 known tokens without a draft, states fed back: each run gives the
target's rows, the drafter's context rows and one block of the drafter behind them. A run asks for logits at its last
row only, once for each verified position, so an LM head reads that row draft_len + 1 times.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from forerun_compiler.activation_range import BINS, Calibration, Counts, Floats, LayerStatistics, count
from forerun_compiler.errors import CalibrationError
from forerun_compiler.graph import check_graph
from forerun_compiler.manifest import ModelFacts
from forerun_compiler.on_progress import OnProgress
from forerun_compiler.ort_session import open_session
from forerun_compiler.passes.assign_precision import layer_names
from forerun_compiler.passes.lower_ort import lower_ort
from forerun_compiler.passes.observe_inputs import Tap, observe_inputs

Array = npt.NDArray[Any]
STAGE = "calibrate"


@dataclass(frozen=True)
class CalibrationSettings:
    """How much text is read: at most `tokens` tokens, of which every text has a part, and at least `least_tokens`."""

    tokens: int = 2048
    least_tokens: int = 16

    def __post_init__(self) -> None:
        """Refuse limits that nothing satisfies."""
        if not 1 <= self.least_tokens <= self.tokens:
            raise CalibrationError(
                "calibration: expected at least 1 token, and no more of least_tokens than of tokens; "
                f"found tokens {self.tokens}, least_tokens {self.least_tokens}"
            )


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
    texts = _cut(sequences, facts, settings)
    total, done = sum(len(text) for text in texts), 0
    on_progress(STAGE, done, total)
    observed = model.clone()
    taps = observe_inputs(observed)
    check_graph(observed, "observe inputs")
    tallies = [_Tally(tap.channels) for tap in taps]
    with tempfile.TemporaryDirectory(prefix="forerun-calibrate-") as folder:
        file = _write(observed, Path(folder))
        del observed  # with its weights: the session holds a copy of its own
        runner = _Runner(open_session(file, threads=0), [tap.output for tap in taps])
        for run in _runs(texts, facts.draft_len + 1):
            for tap, tally, x in zip(taps, tallies, runner(run), strict=True):
                if not tally.add(x):
                    raise _not_finite(tap, x, run, len(texts))
            done += len(run.tokens)
            on_progress(STAGE, done, total)
    seen: dict[str, list[_Tally]] = {}
    for tap, tally in zip(taps, tallies, strict=True):
        for layer in tap.layers:
            seen.setdefault(layer, []).append(tally)
    missing = tuple(layer for layer in layer_names([model]) if layer not in seen)
    return Calibration({name: _statistics(parts) for name, parts in seen.items()}, missing, total)


def encode_texts(texts: Sequence[str], tokenizer_json: str) -> tuple[tuple[int, ...], ...]:
    """The tokens of each text by the target's tokenizer.json, special tokens as the runtime adds them."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(tokenizer_json)
    return tuple(tuple(tokenizer.encode(text).ids) for text in texts)


def _cut(sequences: Sequence[Sequence[int]], facts: ModelFacts, settings: CalibrationSettings) -> list[list[int]]:
    """Texts within the capacity and the number of tokens: all cut at one length, so that each has its part."""
    for number, sequence in enumerate(sequences, start=1):
        if not sequence:
            raise CalibrationError(f"calibration text {number} of {len(sequences)}: expected some text, found no token")
        if wrong := [token for token in sequence if not 0 <= token < facts.vocab_size]:
            raise CalibrationError(
                f"calibration text {number} of {len(sequences)}: expected tokens below {facts.vocab_size} "
                f"(the target's vocabulary), found {wrong[0]}: tokenizer and model do not belong together"
            )
    texts = [list(sequence[: facts.capacity]) for sequence in sequences]
    if (found := sum(len(text) for text in texts)) < settings.least_tokens:
        raise CalibrationError(
            f"calibration: expected at least {settings.least_tokens} tokens of text, found {found} "
            f"in {len(texts)} texts; give more or longer ones"
        )
    left = settings.tokens
    for waiting, text in zip(range(len(texts), 0, -1), sorted(texts, key=len), strict=True):
        # What short texts leave of their part goes to the longer ones.
        del text[-(-left // waiting) :]
        left -= len(text)
    return texts


@dataclass(frozen=True)
class _Run:
    """`tokens` of text `text`, which begin at `position` of it."""

    text: int
    position: int
    tokens: Sequence[int]


def _runs(texts: Sequence[Sequence[int]], width: int) -> Iterator[_Run]:
    for number, text in enumerate(texts):
        for start in range(0, len(text), width):
            yield _Run(number, start, text[start : start + width])


def _write(model: ir.Model, folder: Path) -> Path:
    """Lower and write the model, its weights beside it: a model file ends at 2 GB."""
    lower_ort(model)
    file = folder / "observed.onnx"
    ir.save(model, file, external_data="weights.bin", size_threshold_bytes=1024)
    return file


class _Runner:
    """The graph on ONNX Runtime, its states in buffers that are input and output at once."""

    def __init__(self, session: Any, outputs: Sequence[str]) -> None:
        from onnxruntime import OrtValue

        self._session, self._outputs = session, outputs
        given = {output.name for output in session.get_outputs()}
        self._inputs = {value.name: value for value in session.get_inputs()}
        self._states = {
            name: OrtValue.ortvalue_from_numpy(np.zeros(value.shape, np.float32))
            for name, value in self._inputs.items()
            if f"{name}.out" in given
        }

    def __call__(self, run: _Run) -> list[Array]:
        """Read a run's tokens; returns the tapped inputs, each [rows, channels]."""
        binding = self._session.io_binding()
        for name, array in self._feeds(run).items():
            binding.bind_cpu_input(name, array)
        for output in self._outputs:
            binding.bind_output(output, "cpu")
        for name, value in self._states.items():
            binding.bind_ortvalue_input(name, value)
            binding.bind_ortvalue_output(f"{name}.out", value)
        self._session.run_with_iobinding(binding)
        # In the order of binding; the states behind them are not copied.
        return [value.numpy() for value in binding.get_outputs()[: len(self._outputs)]]

    def _feeds(self, run: _Run) -> Mapping[str, Array]:
        """Known tokens, no draft, temperature 0; whatever else the graph reads is zeros."""
        known: dict[str, Array] = {
            "tokens": np.array([run.tokens], np.int64),
            "n_known": np.array([len(run.tokens)], np.int64),
            "position": np.array([run.position], np.int64),
        }
        dtypes = {"tensor(float)": np.float32, "tensor(int64)": np.int64}
        return {
            name: known[name] if name in known else np.zeros(value.shape, dtypes[value.type])
            for name, value in self._inputs.items()
            if name not in self._states
        }


class _Tally:
    """Sums over the rows [K] that a tap gave."""

    def __init__(self, channels: int) -> None:
        self.rows, self.absmax = 0, 0.0
        self.histogram: Counts = np.zeros(BINS, np.int64)
        self.squares: Floats = np.zeros(channels)

    def add(self, x: Array) -> bool:
        """Add rows x [rows,K]; False, and nothing is added, if one of them is not finite."""
        if not np.isfinite(x).all():
            return False
        self.rows += len(x)
        self.absmax = max(self.absmax, float(np.abs(x).max(initial=0.0)))
        self.histogram += count(x)
        self.squares += np.square(x, dtype=np.float64).sum(axis=0)
        return True


def _statistics(parts: Sequence[_Tally]) -> LayerStatistics:
    rows = sum(part.rows for part in parts)
    return LayerStatistics(
        rows=rows,
        absmax=max(part.absmax for part in parts),
        histogram=np.sum([part.histogram for part in parts], axis=0),
        second_moment=np.sum([part.squares for part in parts], axis=0) / rows,
    )


def _not_finite(tap: Tap, x: Array, run: _Run, texts: int) -> CalibrationError:
    row, channel = (int(index) for index in np.argwhere(~np.isfinite(x))[0])
    last = run.position + len(run.tokens) - 1
    return CalibrationError(
        f"calibration: layer {tap.layers[0]}: expected finite activations, found {x[row, channel]} in channel "
        f"{channel} of row {row} while reading tokens {run.position} to {last} of text {run.text + 1} of {texts}; "
        "the model overflows on this text in float32: check its weights, or leave the text out"
    )
