"""A round graph on ONNX Runtime driven from Python: caches bound in place, one method a round. For tests only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

import forerun

Array = npt.NDArray[np.float32] | npt.NDArray[np.int64]
DTYPES = {"tensor(float)": np.float32, "tensor(int64)": np.int64}


@dataclass(frozen=True)
class Result:
    """The outputs of one round; `draft_confidence` is empty for a drafter without such a head."""

    n_accepted: int
    committed: tuple[int, ...]
    draft_tokens: tuple[int, ...]
    draft_confidence: tuple[float, ...]


def open_session(path: Path) -> ort.InferenceSession:
    """One thread: tests want the same numbers everywhere."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.register_custom_ops_library(str(forerun.kernel_library()))
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


class GraphRunner:
    """A graph with its states in buffers that are input and output at once, filled with junk at first."""

    def __init__(self, session: ort.InferenceSession) -> None:
        self.session = session
        outputs = {output.name: output for output in session.get_outputs()}
        inputs = {i.name: i for i in session.get_inputs()}
        self.states: dict[str, Array] = {
            # Junk, not zeros: a read of a row that was never written must show.
            name: np.full(i.shape, 1e3, np.float32)
            for name, i in inputs.items()
            if f"{name}.out" in outputs
        }
        self.results = {name: o for name, o in outputs.items() if name.removesuffix(".out") not in self.states}

    def run(self, **feeds: Array) -> dict[str, Array]:
        """Bind, run, and return the outputs that are no states."""
        binding = self.session.io_binding()
        for name, array in (feeds | self.states).items():
            binding.bind_cpu_input(name, array)
        for name, array in self.states.items():
            binding.bind_output(f"{name}.out", "cpu", 0, np.float32, array.shape, array.ctypes.data)
        results = {name: np.zeros(o.shape, DTYPES[o.type]) for name, o in self.results.items()}
        for name, array in results.items():
            binding.bind_output(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        self.session.run_with_iobinding(binding)
        return results


class Rounds:
    """The loop around a round graph: `prefill`, then `step` again and again."""

    def __init__(self, path: Path, *, temperature: float = 0.0, padding: int = 0) -> None:
        self.runner = GraphRunner(open_session(path))
        self.k = int(self.runner.results["draft_tokens"].shape[1])
        self.m = int(self.runner.results["committed"].shape[1]) - 1
        self.looks_up = "looked_up" in {each.name for each in self.runner.session.get_inputs()}
        self.temperature, self.padding = temperature, padding
        self.position = 0
        self.anchor, self.draft = 0, list[int]()

    def prefill(self, prompt: Sequence[int], uniform: Sequence[float], chunk: int = 16) -> Result:
        """Read the prompt in chunks; returns the last chunk's round."""
        for start in range(0, len(prompt), chunk):
            part = list(prompt[start : start + chunk])
            result = self._run(part, [], uniform, width=len(part))
            self.position += len(part)
        return result

    def step(self, uniform: Sequence[float], n_draft: int | None = None) -> Result:
        """Verify the first `n_draft` tokens (default all) of the last draft at the width K + 1."""
        draft = self.draft[: self.k if n_draft is None else n_draft]
        result = self._run([self.anchor], draft, uniform, width=self.k + 1)
        self.position += 1 + result.n_accepted
        return result

    def step_found(self, found: Sequence[int], uniform: Sequence[float]) -> Result:
        """Verify up to M tokens that were looked up, in place of the last draft, at the width M + 1."""
        result = self._run([self.anchor], found, uniform, width=self.m + 1, looked_up=True)
        self.position += 1 + result.n_accepted
        return result

    def _run(
        self,
        known: Sequence[int],
        draft: Sequence[int],
        uniform: Sequence[float],
        width: int,
        looked_up: bool = False,
    ) -> Result:
        row = [*known, *draft]
        row += [self.padding] * (width - len(row))
        out = self.runner.run(
            tokens=np.array([row], np.int64),
            n_known=np.array([len(known)], np.int64),
            n_draft=np.array([len(draft)], np.int64),
            position=np.array([self.position], np.int64),
            temperature=np.array([self.temperature], np.float32),
            uniform=np.array([uniform], np.float32),
            **({"looked_up": np.array([looked_up], np.int64)} if self.looks_up else {}),
        )
        n_accepted = int(out["n_accepted"][0])
        committed = out["committed"][0].tolist()
        assert committed[n_accepted + 1 :] == [-1] * (self.m - n_accepted)
        self.anchor, self.draft = committed[n_accepted], out["draft_tokens"][0].tolist()
        confidence = out["draft_confidence"][0].tolist() if "draft_confidence" in out else []
        return Result(n_accepted, tuple(committed[: n_accepted + 1]), tuple(self.draft), tuple(confidence))


def uniforms(seed: int, rounds: int, k: int, m: int | None = None) -> npt.NDArray[np.float32]:
    """Random numbers of `rounds` rounds, [rounds, M+K+2], in [0, 1); M is K unless given."""
    return np.random.default_rng(seed).random((rounds, (k if m is None else m) + k + 2), np.float32)
