"""Runs what can run: in groups that fit the memory, in turns within a group, and then everybody's logits."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from peers_bandwidth import measure_bandwidth
from peers_environments import ENVIRONMENTS, PeerError
from peers_plan import REFERENCE, Host
from peers_process import PeerProcess
from peers_state import State

from forerun_compiler.proof.quality import QualityCounter

_IDLE_SECONDS = 1.0
_FIRST_GUESS = 2.5
"""Bytes of memory a byte of a model's files, before the host is loaded and can be asked."""
_LOG_NAME = 200
"""Characters; file systems take 255 bytes."""


@dataclass(frozen=True)
class Settings:
    """What is measured, and the memory that peers may take together."""

    pair: str
    threads: int
    prompts: int
    new_tokens: int
    repeats: int
    quality_tokens: int
    memory_gib: float

    def identity(self, bundles: Sequence[tuple[str, Path]]) -> dict[str, Any]:
        """What has to be the same for an unfinished measurement to go on; bundles by what they hold."""
        same = {name: value for name, value in asdict(self).items() if name not in ("repeats", "memory_gib")}
        return same | {"bundles": {name: (path / "manifest.json").stat().st_mtime for name, path in bundles}}


def measure(
    hosts: Sequence[Host],
    prompts: Sequence[Sequence[int]],
    texts: Sequence[Sequence[int]],
    settings: Settings,
    environments: Path,
    state: State,
) -> None:
    """Everything that the state lacks; the first host is in every group."""
    runner = _Runner(settings, environments.absolute(), state)
    state.note("prompts", "tokens", [len(prompt) for prompt in prompts])
    if not state.parts["bandwidth"]:
        state.parts["bandwidth"] = measure_bandwidth(settings.threads)
        state.save()
    while waiting := [host for host in hosts if runner.lacks(host)]:
        runner.run_group(hosts[0], [host for host in waiting if host is not hosts[0]], prompts)
    if texts:
        runner.compare_logits(hosts, texts)


class _Runner:
    def __init__(self, settings: Settings, environments: Path, state: State) -> None:
        self._settings, self._environments, self._state = settings, environments, state

    def lacks(self, host: Host) -> bool:
        """Whether a row of it has neither failed nor been run often enough."""
        return any(
            len(self._state.runs.get(row, ())) < self._settings.repeats
            for row in host.rows
            if row not in self._state.failures
        )

    def run_group(self, first: Host, waiting: Sequence[Host], prompts: Sequence[Sequence[int]]) -> None:
        """Load `first` and what fits beside it, and decode in turns; who begins changes with the repeat."""
        group, limit = self._state.next_group(), self._settings.memory_gib * 2**30
        with ExitStack() as stack:
            loaded: dict[str, tuple[Host, PeerProcess]] = {}
            used = beside = 0
            for host in (first, *waiting):
                if beside and used + _FIRST_GUESS * _file_bytes(host) > limit:
                    continue  # it comes with a later group, which takes at least one
                process = self._load(host, stack, prompts[0])
                if host is first and process is None:
                    raise PeerError(f"{first.name}: {self._state.failures[first.rows[0]]}; nothing to compare with")
                if process is not None:
                    used += process.memory_bytes()
                    beside += host is not first
                    loaded |= {row: (host, process) for row in host.rows if row not in self._state.failures}
            _say(f"group {group}: {len(loaded)} rows, {used / 2**30:.1f} GiB")
            for repeat in range(self._settings.repeats):
                rows = list(loaded)
                start = repeat * max(1, len(rows) // self._settings.repeats)
                for row in rows[start:] + rows[:start]:
                    if row not in self._state.failures:
                        self._run_row(row, loaded[row][1], group, repeat, prompts)

    def _load(self, host: Host, stack: ExitStack, prompt: Sequence[int]) -> PeerProcess | None:
        """Load and warm a host, and note what it weighs and what it does while idle; None where it fails."""
        _say(f"load {host.key}")
        start = time.monotonic()
        try:
            process = stack.enter_context(PeerProcess(host, self._python(host), self._log(host)))
            seconds = time.monotonic() - start
            facts = process.ask(do="weights") | {
                "versions": process.versions, "file_bytes": _file_bytes(host), "load_seconds": seconds
            }  # fmt: skip
            for row in host.rows:
                self._warm(row, process, prompt)
            facts["memory_bytes"], idle = process.memory_bytes(), process.idle_cores(_IDLE_SECONDS)
        except PeerError as error:
            self._state.fail([row for row in host.rows if row not in self._state.failures], str(error))
            _say(f"  failed: {error}")
            return None
        for row in host.rows:
            self._state.note("facts", row, facts)
        self._state.note("idle", host.key, idle)
        return process

    def _warm(self, row: str, process: PeerProcess, prompt: Sequence[int]) -> None:
        """Decode once untimed. A way that fails is noted; the others of the same host go on if it still lives."""
        try:
            process.ask(do="generate", way=_way(row), prompt=list(prompt), new_tokens=self._settings.new_tokens)
        except PeerError as error:
            self._state.fail([row], str(error))
            _say(f"  {row} failed: {error}")

    def _run_row(
        self, row: str, process: PeerProcess, group: int, repeat: int, prompts: Sequence[Sequence[int]]
    ) -> None:
        start = time.monotonic()
        try:
            done = [
                process.ask(do="generate", way=_way(row), prompt=list(prompt), new_tokens=self._settings.new_tokens)
                for prompt in prompts
            ]
        except PeerError as error:
            self._state.fail([row], str(error))
            _say(f"  {row} failed: {error}")
            return
        self._state.add_run(row, group, repeat, done)
        tokens = sum(len(one["tokens"]) for one in done)
        _say(f"  repeat {repeat + 1}: {row}: {tokens} tokens in {time.monotonic() - start:.1f} s")

    def compare_logits(self, hosts: Sequence[Host], texts: Sequence[Sequence[int]]) -> None:
        """The divergence of all weights from the reference, one process at a time."""
        unique = {host.name: host for host in reversed(hosts) if set(host.rows) - set(self._state.failures)}
        reference = unique.get(REFERENCE)
        known = self._state.parts["divergence"]
        if reference is None or all(name in known for name in unique):
            return
        with tempfile.TemporaryDirectory() as folder:
            paths = self._logits(reference, texts, Path(folder) / "reference")
            for name, host in unique.items():
                if name in known:
                    continue
                try:
                    found = self._logits(host, texts, Path(folder) / "candidate")
                    self._state.note("divergence", name, _divergence(texts, found, paths))
                except PeerError as error:
                    self._state.note("divergence", name, {"error": str(error)})
                _say(f"divergence of {name}: {known[name]}")

    def _logits(self, host: Host, texts: Sequence[Sequence[int]], folder: Path) -> list[Path]:
        folder.mkdir(exist_ok=True)
        paths = [folder / f"{number}.npy" for number in range(len(texts))]
        with PeerProcess(host, self._python(host), self._log(host), for_logits=True) as process:
            for path, text in zip(paths, texts, strict=True):
                process.ask(do="logits", text=list(text[:-1]), file=str(path))
        return paths

    def _python(self, host: Host) -> Path:
        return self._environments / host.peer / "bin/python" if host.peer in ENVIRONMENTS else Path(sys.executable)

    def _log(self, host: Host) -> Path:
        return self._environments.parent / "logs" / f"{host.key.replace('/', '-').replace(' ', '-')[:_LOG_NAME]}.log"


def _way(row: str) -> str:
    return row.rpartition("/")[2]


def _divergence(
    texts: Sequence[Sequence[int]], found: Sequence[Path], reference: Sequence[Path]
) -> Mapping[str, float]:
    """By the definition that bundles are proved with: KL(reference || candidate), nats a token."""
    counter = QualityCounter()
    for text, ours, theirs in zip(texts, found, reference, strict=True):
        counter.add_text(text, np.load(ours), np.load(theirs))
    return asdict(counter.result())


def _file_bytes(host: Host) -> int:
    """What the model takes on the disk; of a checkpoint and a bundle its weights are nearly all."""
    path = Path(host.options["model"])
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
