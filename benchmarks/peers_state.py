"""What a comparison has found so far: one JSON file, written after every step, so that an interrupted one goes on."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

_PARTS = ("failures", "runs", "facts", "divergence", "idle", "bandwidth", "prompts")


class State:
    """Sections by row ("peer/weights/way") or by weights ("peer/weights").

    `runs[row]` is a list of {"group", "repeat", "prompts": [generations]}; rows of one group were loaded together, and
    took turns within one repeat.
    """

    def __init__(self, path: Path, identity: Mapping[str, Any], is_fresh: bool) -> None:
        self._path, self._identity = path, json.loads(json.dumps(identity))
        self.parts: dict[str, dict[str, Any]] = {name: {} for name in _PARTS}
        if path.is_file() and not is_fresh:
            found = json.loads(path.read_text(encoding="utf-8"))
            if found["identity"] == self._identity:
                self.parts |= {name: found[name] for name in _PARTS if name in found}

    @property
    def runs(self) -> dict[str, list[dict[str, Any]]]:
        return self.parts["runs"]

    @property
    def failures(self) -> dict[str, str]:
        return self.parts["failures"]

    def next_group(self) -> int:
        return 1 + max((run["group"] for runs in self.runs.values() for run in runs), default=-1)

    def add_run(self, row: str, group: int, repeat: int, generations: list[dict[str, Any]]) -> None:
        self.runs.setdefault(row, []).append({"group": group, "repeat": repeat, "prompts": generations})
        self.save()

    def fail(self, rows: Iterable[str], reason: str) -> None:
        self.failures.update(dict.fromkeys(rows, reason))
        self.save()

    def forgive(self, rows: Iterable[str]) -> None:
        """What failed in an earlier run is tried again."""
        for row in rows:
            self.failures.pop(row, None)

    def note(self, part: str, key: str, value: Any) -> None:
        self.parts[part][key] = value
        self.save()

    def save(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        staging = self._path.with_name(f".{self._path.name}")
        staging.write_text(json.dumps({"identity": self._identity, **self.parts}), encoding="utf-8")
        os.replace(staging, self._path)
