"""Bundles: every damaged byte is refused by name, and a killed build leaves the earlier bundle, the new one or none."""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import fields, replace
from pathlib import Path

import pytest

import tiny_bundles
from forerun_compiler import bundle
from forerun_compiler.bundle import CostRow, Manifest, check_bundle, read_manifest, update_manifest, write_bundle
from forerun_compiler.errors import BundleError
from forerun_compiler.manifest_text import parse, render

FILES = ("manifest.json", "plain.onnx", "round.onnx", "weights.bin")


def build(folder: Path, mark: bytes = b"") -> Manifest:
    def fill(staging: Path) -> Manifest:
        tiny_bundles.write_files(staging, mark)
        return tiny_bundles.manifest()

    return write_bundle(folder, fill)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    build(tmp_path / "bundle")
    return tmp_path / "bundle"


def refusal(folder: Path) -> str:
    with pytest.raises(BundleError) as caught:
        check_bundle(folder)
    return str(caught.value)


def test_what_was_written_is_read(folder: Path) -> None:
    found = check_bundle(folder)
    assert found == read_manifest(folder)
    assert replace(found, files={}) == tiny_bundles.manifest()
    assert sorted(found.files) == ["plain.onnx", "round.onnx", "weights.bin"]
    assert found.files["weights.bin"].size == 256 * 40
    assert sorted(os.listdir(folder.parent)) == ["bundle"]


def test_the_text_ends_with_the_seal_and_keeps_the_order_of_keys(folder: Path) -> None:
    data = (folder / "manifest.json").read_bytes()
    fields = json.loads(data)
    assert list(fields) == [
        *("format", "forerun", "created", "files", "model", "graphs", "precision", "engines", "recipe", "source"),
        *("cost", "proof", "seal"),
    ]
    last = data.decode().splitlines()[-2:]
    assert last == [f'  "seal": "{fields["seal"]}"', "}"]
    assert fields["graphs"]["round"]["inputs"] == [{"name": "tokens", "dtype": "int64", "shape": [1, "T"]}]


def test_two_builds_are_byte_identical(tmp_path: Path) -> None:
    build(tmp_path / "a")
    build(tmp_path / "b")
    for name in FILES:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("seed", range(8))
def test_a_flipped_bit_is_refused(folder: Path, name: str, seed: int) -> None:
    data = bytearray((folder / name).read_bytes())
    chance = random.Random(f"{name} {seed}")
    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    (folder / name).write_bytes(data)
    assert refusal(folder).startswith(str(folder / name))


def test_every_byte_of_the_manifest_counts(folder: Path) -> None:
    data = (folder / "manifest.json").read_bytes()
    for position in range(len(data)):
        damaged = data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]
        with pytest.raises(BundleError):
            parse(damaged, "manifest.json")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("keep", [0, 1, 0.5, -1])
def test_a_truncated_file_is_refused(folder: Path, name: str, keep: float) -> None:
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[: int(len(data) * keep) if keep == 0.5 else int(keep)])
    assert refusal(folder).startswith(str(folder / name))


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    said = refusal(folder)
    assert name in said
    assert "found no" in said
    assert "build the bundle again" in said


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_another_build_is_refused(folder: Path, tmp_path: Path, name: str) -> None:
    build(tmp_path / "other", mark=b"!")
    os.replace(tmp_path / "other" / name, folder / name)
    said = refusal(folder)
    # A whole manifest of another build is sound in itself: then the first file that it lists does not fit.
    assert said.startswith(str(folder / ("plain.onnx" if name == "manifest.json" else name)))
    assert "expected" in said
    assert "found" in said


def test_the_message_has_expected_and_found(folder: Path) -> None:
    (folder / "weights.bin").write_bytes(b"x" * 10240)
    expected = read_manifest(folder).files["weights.bin"].sha256
    assert f"expected SHA-256 {expected}, found " in refusal(folder)
    (folder / "weights.bin").write_bytes(b"x")
    assert "expected 10240 bytes, found 1; build the bundle again" in refusal(folder)


def seal_again(folder: Path, change: Manifest) -> None:
    (folder / "manifest.json").write_bytes(render(change))


@pytest.mark.parametrize(
    "name", ["../x", "/etc/passwd", "a/../../x", "..", "a\\b", "", ".", "./plain.onnx", "c:x", "a//b"]
)
def test_names_that_leave_the_folder_are_refused(folder: Path, name: str) -> None:
    found = read_manifest(folder)
    seal_again(folder, replace(found, files={**found.files, name: found.files["plain.onnx"]}))
    assert f"file name {name!r} does not stay inside the bundle" in refusal(folder)


@pytest.mark.parametrize("name", FILES)
def test_symbolic_links_are_refused(folder: Path, tmp_path: Path, name: str) -> None:
    os.replace(folder / name, tmp_path / name)
    (folder / name).symlink_to(tmp_path / name)
    assert "a symbolic link" in refusal(folder)


def test_a_linked_subfolder_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "engines").mkdir()
    (tmp_path / "engines" / "x").write_bytes(b"x")
    found = read_manifest(folder)
    seal_again(folder, replace(found, files={"engines/x": bundle.FileEntry(1, "00" * 32)}))
    (folder / "engines").symlink_to(tmp_path / "engines")
    assert f"{folder / 'engines'}: expected a regular file, found a symbolic link" in refusal(folder)


def test_another_format_is_refused_before_its_seal(folder: Path) -> None:
    text = (folder / "manifest.json").read_text().replace('"format": 5', '"format": 6')
    (folder / "manifest.json").write_text(text)
    assert "the bundle has format 6, this forerun reads format 5" in refusal(folder)


def test_a_sealed_manifest_with_wrong_fields_is_refused(folder: Path) -> None:
    found = read_manifest(folder)
    seal_again(folder, replace(found, model=replace(found.model, capacity="many")))  # type: ignore[arg-type]
    assert "manifest.json: model.capacity: Input should be a valid integer, found 'many'" in refusal(folder)


def test_a_graph_file_that_is_not_listed_is_refused(folder: Path) -> None:
    found = read_manifest(folder)
    seal_again(folder, replace(found, files={"plain.onnx": found.files["plain.onnx"]}))
    assert "graph file 'round.onnx' is not among the files" in refusal(folder)


def test_no_bundle_at_all(tmp_path: Path) -> None:
    assert f"{tmp_path / 'x'}: expected a bundle folder, found nothing" in refusal(tmp_path / "x")
    assert "expected a regular file manifest.json, found none" in refusal(tmp_path)


def test_update_manifest_changes_only_what_it_is_told(folder: Path) -> None:
    row = CostRow("cpu", 1.5, {"1": 2.5})
    update_manifest(folder, lambda manifest: replace(manifest, cost=(row,)))
    assert check_bundle(folder).cost == (row,)
    assert sorted(os.listdir(folder)) == sorted(FILES)


def test_a_folder_that_is_no_bundle_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").write_text("years of work")
    with pytest.raises(BundleError, match="found something else that a build would delete"):
        build(tmp_path / "home")
    assert (tmp_path / "home" / "thesis.txt").read_text() == "years of work"
    assert os.listdir(tmp_path) == ["home"]


def test_a_failing_build_leaves_the_earlier_bundle(folder: Path) -> None:
    def fill(staging: Path) -> Manifest:
        (staging / "round.onnx").write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(BundleError, match=r"cannot be written: the disk is full; free some space .* left behind"):
        write_bundle(folder, fill)
    assert check_bundle(folder)
    assert os.listdir(folder.parent) == ["bundle"]


def test_without_an_atomic_exchange_the_bundle_is_replaced_as_well(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundle, "_exchange", lambda one, other: False)
    build(folder, mark=b"new")
    assert check_bundle(folder).files["round.onnx"].size == 503
    assert os.listdir(folder.parent) == ["bundle"]


def test_a_build_killed_between_two_renames_is_healed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where folders cannot be exchanged, the earlier bundle waits beside its place; the next build puts it back."""
    folder.rename(folder.parent / ".bundle.forerun-0123abcd.old")

    def fill(staging: Path) -> Manifest:
        assert check_bundle(folder)
        raise BundleError("stop here")

    with pytest.raises(BundleError, match="stop here"):
        write_bundle(folder, fill)
    assert os.listdir(folder.parent) == ["bundle"]


def test_a_linked_output_keeps_its_link(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "latest").symlink_to(folder)
    build(tmp_path / "latest", mark=b"new")
    assert (tmp_path / "latest").is_symlink()
    assert check_bundle(folder).files["round.onnx"].size == 503


KILLED = """
import sys
from pathlib import Path
import tiny_bundles
from forerun_compiler.bundle import write_bundle

def fill(staging):
    tiny_bundles.write_files(staging, sys.argv[2].encode())
    (staging / "more.bin").write_bytes(bytes(4 << 20))
    return tiny_bundles.manifest()

print("ready", flush=True)
for _ in range(1000):
    write_bundle(Path(sys.argv[1]), fill)
"""


def test_a_build_killed_at_any_moment_leaves_a_whole_bundle_or_none(tmp_path: Path) -> None:
    """Ten kills, at random moments, of a process that builds again and again over its own bundle."""
    chance = random.Random(2026)
    folder = tmp_path / "bundle"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    leftovers = 0
    for attempt in range(10):
        command = [sys.executable, "-c", KILLED, str(folder), "x" * attempt]
        with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            time.sleep(chance.uniform(0.0, 0.15))
            process.send_signal(signal.SIGKILL)
        assert not folder.exists() or check_bundle(folder)
        leftovers += len(os.listdir(tmp_path)) - folder.exists()
    build(folder)
    assert os.listdir(tmp_path) == ["bundle"]
    assert leftovers > 0, "no kill fell into a build: the test proves nothing, make the builds longer"


def test_a_running_build_is_not_taken_for_a_leftover(tmp_path: Path) -> None:
    def fill(staging: Path) -> Manifest:
        build(tmp_path / "bundle", mark=b"inner")
        assert staging.is_dir()
        tiny_bundles.write_files(staging, b"outer!")
        return tiny_bundles.manifest()

    write_bundle(tmp_path / "bundle", fill)
    assert check_bundle(tmp_path / "bundle").files["round.onnx"].size == 506
    assert os.listdir(tmp_path) == ["bundle"]


def test_every_field_is_documented() -> None:
    text = (Path(__file__).parents[2] / "artifacts" / "README.md").read_text()
    kinds = (Manifest, bundle.FileEntry, bundle.ModelFacts, bundle.GraphInterface, bundle.StateInterface)
    kinds += (bundle.Precision, bundle.EngineTarget, bundle.Source, CostRow, bundle.Proof)
    names = {field.name for kind in kinds for field in fields(kind)}
    assert [name for name in sorted(names) if f"`{name}`" not in text] == []
