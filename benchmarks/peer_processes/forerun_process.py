"""forerun: a bundle, decoded plainly and speculatively by one engine."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
from protocol import Generated, Weights, serve

import forerun
from forerun_compiler.bundle import read_manifest
from forerun_compiler.precision_map import LayerPrecision, read_precision_map
from forerun_compiler.proof.target_probe import TargetProbe

_DRAFTER_ALONE = "speculative, drafter alone"
_LOOKED_UP = "an embedding: rows are looked up, not multiplied"


class Bundle:
    """The engine; for logits, the target alone."""

    def __init__(self, options: dict[str, Any]) -> None:
        self._folder, self._threads = Path(options["model"]), options["threads"]
        self._engine = None if options["for_logits"] else forerun.load(self._folder, threads=self._threads)

    def versions(self) -> dict[str, str]:
        return {name: version(name) for name in ("forerun", "onnxruntime")}

    def weights(self) -> Weights:
        rows = [row for row in read_precision_map(self._folder) if row.reason != _LOOKED_UP and row.part != "both"]
        target = [row for row in rows if row.part in ("target", "lm_head")]
        total, of_target = _read_bytes(rows, rows), _read_bytes(target, rows)
        is_planned = None if self._engine is None else self._engine.facts.has_costs
        return Weights(of_target, sum(row.parameters for row in target), total - of_target, is_planned)

    def generate(self, way: str, prompt: Sequence[int], new_tokens: int) -> Generated:
        assert self._engine is not None, "opened for logits"
        tokens: list[int] = []
        decoding: Literal["plain", "speculative"] = "plain" if way == "plain" else "speculative"
        first, rounds, looked_up, start = 0.0, 0, 0, time.perf_counter()
        for finished in self._engine.rounds(
            prompt, max_new_tokens=new_tokens, temperature=0.0, seed=0, decoding=decoding, lookup=way != _DRAFTER_ALONE
        ):
            tokens += finished.committed
            if tokens and not first:
                first = time.perf_counter() - start
            rounds += finished.phase == "decode"
            looked_up += finished.looked_up
        seconds = time.perf_counter() - start
        return Generated(tokens, seconds, first, 1, rounds, rounds if decoding == "speculative" else 0, looked_up)

    def logits(self, text: Sequence[int]) -> Any:
        probe = TargetProbe(self._folder, read_manifest(self._folder), "round", self._threads)
        return np.stack([row.copy() for row in probe.verify_rows(text)])


def _read_bytes(rows: Sequence[LayerPrecision], everything: Sequence[LayerPrecision]) -> int:
    """What a step reads: a layer that shares equal weights with another has no bytes of its own, but reads as many."""
    stored: defaultdict[str, int] = defaultdict(int)
    number: defaultdict[str, int] = defaultdict(int)
    for row in everything:
        stored[row.scheme] += row.bytes
        number[row.scheme] += row.parameters if row.bytes else 0
    return sum(row.bytes or row.parameters * stored[row.scheme] // number[row.scheme] for row in rows)


if __name__ == "__main__":
    serve(Bundle)
