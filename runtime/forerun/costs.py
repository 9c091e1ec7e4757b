"""What rounds cost on a machine, from the bundle's table: what a plan weighs drafts against."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from forerun.errors import ForerunError


@dataclass(frozen=True, slots=True)
class Costs:
    """Times in one unit: of a plain round, and of a round of each of the bundle's verify widths, in their order."""

    plain: float
    rounds: tuple[float, ...]


def read_costs(folder: Path, fingerprint: str, widths: Sequence[int]) -> Costs | None:
    """The costs that the manifest of an opened bundle has for the machine; None if it was not measured.

    Raises ForerunError ("bundle error") if they are not those of `widths`.
    """
    path = folder / "manifest.json"
    for row in json.loads(path.read_text(encoding="utf-8"))["cost"]:
        if row["fingerprint"] == fingerprint:
            measured = {int(width): float(time) for width, time in row["round_us"].items()}
            if missing := [width for width in widths if width not in measured]:
                raise ForerunError(
                    "bundle error",
                    f"{path}: cost: expected a round of each verify width, found none of {missing}; "
                    "run build-engine bench --save again",
                )
            return Costs(float(row["plain_us"]), tuple(measured[width] for width in widths))
    return None
