"""Which layer has which precision: the file precision.json of a bundle.

One entry per linear layer, then what is no linear layer and stays float32. A weight that several layers read is counted
at the first of them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from forerun_compiler.errors import BundleError
from forerun_compiler.schemes import Rounding

FILE_NAME = "precision.json"


@dataclass(frozen=True)
class LayerPrecision:
    """One layer as it is stored: `bytes` are those of codes and scales.

    `sensitivity` is the relative error of its output that the stored weight causes on the calibration text (see
    `sensitivity.py`), the weight's own relative error where calibration does not see the layer (in the drafter's walk),
    and None where nothing was quantized. `reason` says why it has not the recipe's scheme, `rounding`
    how the codes of an int4 scheme were chosen.
    """

    layer: str
    part: str
    scheme: str
    parameters: int
    bytes: int
    sensitivity: float | None
    reason: str | None
    rounding: Rounding | None = None


def render_precision_map(rows: Sequence[LayerPrecision]) -> bytes:
    """The file's bytes: a JSON list, one entry a line."""
    lines = ",\n".join(json.dumps(asdict(row), allow_nan=False) for row in rows)
    return f"[\n{lines}\n]\n".encode()


def read_precision_map(folder: Path) -> tuple[LayerPrecision, ...]:
    """Read it from a bundle.

    Raises:
        BundleError: there is none, or it is not of this form.
    """
    from pydantic import TypeAdapter, ValidationError

    path = folder / FILE_NAME
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BundleError(f"{path}: cannot be read: {error.strerror}; build the bundle again") from None
    try:
        return TypeAdapter(tuple[LayerPrecision, ...]).validate_json(data, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the file"
        raise BundleError(f"{path}: {place}: {first['msg']}; build the bundle again") from None
