"""What is kept is found again, whole or not at all, and by content."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from forerun_compiler import calibration_cache
from forerun_compiler.activation_range import Calibration, LayerStatistics, count
from forerun_compiler.calibration_cache import calibration_key, load_or_run
from forerun_compiler.dialect import DOMAIN, Linear
from forerun_compiler.teacher_forcing import CalibrationSettings
from hand_graphs import FLOAT, constant, make_model, node

KEY = "ab" * 32


def example() -> Calibration:
    layers = {}
    for number, channels in enumerate((3, 5)):
        x = np.random.default_rng(number).standard_normal((20, channels)).astype(np.float32)
        moment = np.square(x, dtype=np.float64).mean(axis=0)
        layers[f"target.layer.{number}"] = LayerStatistics(20, float(np.abs(x).max()), count(x), moment)
    return Calibration(layers, ("drafter.walk",), 20)


@dataclass
class Source:
    """Counts how often it was asked, and keeps what was said."""

    asked: int = 0
    said: list[str] = field(default_factory=list)

    def __call__(self) -> Calibration:
        self.asked += 1
        return example()

    def load(self, folder: Path, key: str = KEY) -> Calibration:
        return load_or_run(key, folder, self, self.said.append)


def same(one: Calibration, other: Calibration) -> bool:
    assert (list(one.layers), one.missing, one.tokens) == (list(other.layers), other.missing, other.tokens)
    for left, right in zip(one.layers.values(), other.layers.values(), strict=True):
        assert (left.rows, left.absmax) == (right.rows, right.absmax)
        assert left.histogram.dtype == right.histogram.dtype
        assert np.array_equal(left.histogram, right.histogram)
        assert np.array_equal(left.second_moment, right.second_moment)
    return True


def test_a_hit_runs_nothing_and_gives_the_same(tmp_path: Path) -> None:
    source = Source()
    first = source.load(tmp_path / "not yet there")
    second = source.load(tmp_path / "not yet there")
    assert (source.asked, source.said) == (1, [])
    assert same(first, example())
    assert same(second, example())
    assert [file.name for file in (tmp_path / "not yet there").iterdir()] == [f"{KEY}.calibration"]


def test_another_key_is_another_calibration(tmp_path: Path) -> None:
    source = Source()
    source.load(tmp_path)
    source.load(tmp_path, "cd" * 32)
    assert source.asked == 2


def test_equal_calibrations_are_equal_bytes(tmp_path: Path) -> None:
    for name in ("one", "other"):
        Source().load(tmp_path / name)
    one, other = ((tmp_path / name / f"{KEY}.calibration").read_bytes() for name in ("one", "other"))
    assert one == other


def flip(position: float) -> Callable[[bytes], bytes]:
    def damage(data: bytes) -> bytes:
        at = int(position * (len(data) - 1))
        return data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :]

    return damage


@pytest.mark.parametrize(
    "damage",
    [flip(0.0), flip(0.3), flip(0.9), flip(1.0), lambda data: data[:-1], lambda data: data[:100], lambda data: b""],
    ids=["first byte", "histogram", "directory", "digest", "cut by one", "cut short", "empty"],
)
def test_a_damaged_file_is_computed_again_and_that_is_said(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    source = Source()
    source.load(tmp_path)
    file = tmp_path / f"{KEY}.calibration"
    whole = file.read_bytes()
    file.write_bytes(damage(whole))
    assert same(source.load(tmp_path), example())
    assert source.asked == 2
    assert source.said == [f"{file}: the kept calibration is damaged; calibrating again"]
    assert file.read_bytes() == whole


def test_a_folder_that_cannot_be_written_is_said_and_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    source = Source()
    assert same(source.load(tmp_path / "file" / "cache"), example())
    assert len(source.said) == 2  # it can neither be read nor kept
    assert source.said[0].endswith("the kept calibration cannot be read (Not a directory); calibrating again")
    assert source.said[1].endswith("cannot be kept (Not a directory); the next build calibrates again")


def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", refuse)
    source = Source()
    source.load(tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert source.said[0].endswith("cannot be kept (No space left on device); the next build calibrates again")


def test_an_error_of_the_calibration_is_not_kept(tmp_path: Path) -> None:
    def fail() -> Calibration:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        load_or_run(KEY, tmp_path, fail, lambda _: None)
    assert list(tmp_path.iterdir()) == []


def graph(weight: float = 1.0, layer: str = "one", name: str = "w") -> ir.Model:
    x = ir.val("x", FLOAT, ["T", 4])
    values = np.arange(12.0).reshape(3, 4)
    values[2, 3] = weight
    made = node("Linear", [x, constant(name, values)], ("y", ["T", 3]), domain=DOMAIN, **Linear(layer).attributes())
    return make_model([x], [made], [made.outputs[0]])


def test_the_key_is_that_of_the_content(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens, settings = [[1, 2], [3]], CalibrationSettings()
    key = calibration_key(graph(), tokens, settings)
    assert calibration_key(graph(), [(1, 2), (3,)], CalibrationSettings()) == key
    others = [
        calibration_key(graph(weight=1.0000001), tokens, settings),
        calibration_key(graph(layer="two"), tokens, settings),
        calibration_key(graph(name="v"), tokens, settings),
        calibration_key(graph(), [[1], [2, 3]], settings),
        calibration_key(graph(), [[1, 2], [4]], settings),
        calibration_key(graph(), tokens, CalibrationSettings(tokens=2047)),
    ]
    monkeypatch.setattr(calibration_cache, "__version__", "another")
    others.append(calibration_key(graph(), tokens, settings))
    assert len({key, *others}) == 8
    assert all(len(each) == 64 for each in (key, *others))


def test_a_key_leaves_the_graph_as_it_is() -> None:
    model = graph()
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    calibration_key(model, [[1]], CalibrationSettings())
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before
