"""Run the round graph in float32 over text, and hand out what its linear layers read.

The text is teacher-forced in runs of known tokens without a draft, states fed back: each run gives the target's rows,
the drafter's context rows and one block of the drafter behind them.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from forerun_compiler.errors import CalibrationError
from forerun_compiler.graph import check_graph
from forerun_compiler.manifest import ModelFacts
from forerun_compiler.ort_session import open_session
from forerun_compiler.passes.lower_ort import lower_ort
from forerun_compiler.passes.observe_inputs import Tap, observe_inputs

Array = npt.NDArray[Any]


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


def encode_texts(texts: Sequence[str], tokenizer_json: str) -> tuple[tuple[int, ...], ...]:
    """The tokens of each text by the target's tokenizer.json, special tokens as the runtime adds them."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(tokenizer_json)
    return tuple(tuple(tokenizer.encode(text).ids) for text in texts)


def cut_texts(sequences: Sequence[Sequence[int]], facts: ModelFacts, settings: CalibrationSettings) -> list[list[int]]:
    """Texts within the capacity and the number of tokens: all cut at one length, so that each has its part.

    Raises:
        CalibrationError: too little text, or a token outside the vocabulary.
    """
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
class Run:
    """`tokens` of text `text`, which begin at `position` of it."""

    text: int
    position: int
    tokens: Sequence[int]


class ObservedRound:
    """A round graph whose linear layers' inputs are read: `taps` says which layers read what a run gives back."""

    def __init__(self, taps: Sequence[Tap], runner: _Runner) -> None:
        self.taps, self._runner = tuple(taps), runner

    def read(self, texts: Sequence[Sequence[int]], width: int) -> Iterator[tuple[Run, list[Array]]]:
        """Read texts in runs of at most `width` tokens; yields each with the taps' inputs, float32 [rows, channels].

        Raises:
            CalibrationError: an input is not finite.
        """
        for number, text in enumerate(texts):
            for start in range(0, len(text), width):
                run = Run(number, start, text[start : start + width])
                inputs = self._runner(run)
                for tap, x in zip(self.taps, inputs, strict=True):
                    if not np.isfinite(x).all():
                        raise _not_finite(tap, x, run, len(texts))
                yield run, inputs


@contextmanager
def observed_round(model: ir.Model, layers: Collection[str] | None = None) -> Iterator[ObservedRound]:
    """Open the linked round, which is left as it is, for reading text; `layers` None observes all that can be.

    Raises:
        PassError: none of the layers can be observed.
        EngineError: ONNX Runtime is missing or refuses the graph.
    """
    observed = model.clone()
    taps = observe_inputs(observed, layers)
    check_graph(observed, "observe inputs")
    with tempfile.TemporaryDirectory(prefix="forerun-calibrate-") as folder:
        file = _write(observed, Path(folder))
        del observed  # with its weights: the session holds a copy of its own
        yield ObservedRound(taps, _Runner(open_session(file, threads=0), [tap.output for tap in taps]))


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

    def __call__(self, run: Run) -> list[Array]:
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

    def _feeds(self, run: Run) -> Mapping[str, Array]:
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


def _not_finite(tap: Tap, x: Array, run: Run, texts: int) -> CalibrationError:
    row, channel = (int(index) for index in np.argwhere(~np.isfinite(x))[0])
    last = run.position + len(run.tokens) - 1
    return CalibrationError(
        f"calibration: layer {tap.layers[0]}: expected finite activations, found {x[row, channel]} in channel "
        f"{channel} of row {row} while reading tokens {run.position} to {last} of text {run.text + 1} of {texts}; "
        "the model overflows on this text in float32: check its weights, or leave the text out"
    )
