"""precision.json: what is written is read back; what is damaged is refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from forerun_compiler.errors import BundleError
from forerun_compiler.precision_map import FILE_NAME, LayerPrecision, read_precision_map, render_precision_map

ROWS = (
    LayerPrecision("target.lm_head", "lm_head", "int8", 10, 12, 0.25, None),
    LayerPrecision("drafter.fc", "drafter", "float32", 10, 40, None, "because"),
)


def test_reads_what_was_written(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_bytes(render_precision_map(ROWS))
    assert read_precision_map(tmp_path) == ROWS


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"[", "the file: Invalid JSON"),
        (b'[{"layer": "a"}]', "0.part: Field required"),
        (render_precision_map(ROWS).replace(b"12", b'"12"'), "0.bytes: Input should be a valid integer"),
    ],
)
def test_damage_is_named(tmp_path: Path, data: bytes, said: str) -> None:
    (tmp_path / FILE_NAME).write_bytes(data)
    with pytest.raises(BundleError) as caught:
        read_precision_map(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / FILE_NAME}: {said}")


def test_a_bundle_without_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"precision\.json: cannot be read: No such file"):
        read_precision_map(tmp_path)
