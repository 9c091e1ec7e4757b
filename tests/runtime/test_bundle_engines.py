"""What the runtime reads of a manifest before the core does."""

import json
from pathlib import Path

import pytest

from forerun.bundle_engines import Tensor, read_engines
from forerun.errors import ForerunError
from table_bundle import TableBundle

GRAPH = {
    "file": "engines/one/round.onnx",
    "inputs": [{"name": "tokens", "dtype": "int64", "shape": [1, "T"]}],
    "outputs": [{"name": "committed", "dtype": "int64", "shape": [1, 5]}],
    "states": [{"name": "k", "output": "k.out", "dtype": "float16", "shape": [1, 1, 8, 4]}],
}
BUILT = {"folder": "engines/one/sm89", "library": "1.7.1.116", "compute_capability": ["8.9"], "plans": {}}
ENTRY = {"backend": "tensorrt-rtx", "graphs": {"round": GRAPH, "plain": GRAPH}, "built": [BUILT]}
FILES = {"engines/one/sm89/round.engine": {"size": 1, "sha256": "aa"}, "engines/one/sm89x/y": {"sha256": "bb"}}


def write(folder: Path, **fields: object) -> None:
    manifest = {"format": 5, "files": FILES, "graphs": {}, "engines": [ENTRY], **fields}
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")


def refusal(folder: Path) -> ForerunError:
    with pytest.raises(ForerunError) as caught:
        read_engines(folder)
    return caught.value


def test_engines_are_read_in_their_order(tmp_path: Path) -> None:
    write(tmp_path, engines=[ENTRY, {"backend": "onnxruntime", "built": []}, ENTRY | {"backend": "tensorrt"}])
    found = read_engines(tmp_path)
    assert (found.path, found.cpu) == (tmp_path, False)
    assert [engine.backend for engine in found.engines] == ["tensorrt-rtx", "tensorrt"]
    engine = found.engines[0]
    assert (engine.folder, engine.library, engine.capabilities) == ("engines/one/sm89", "1.7.1.116", ("8.9",))
    assert engine.round == (
        Tensor("tokens", "int64", (1, -1), True),
        Tensor("k", "float16", (1, 1, 8, 4), True),
        Tensor("committed", "int64", (1, 5), False),
        Tensor("k.out", "float16", (1, 1, 8, 4), False),
    )


def test_the_identity_follows_the_engines_own_files(tmp_path: Path) -> None:
    identities = []
    for own, other in (("aa", "bb"), ("aa", "cc"), ("dd", "bb")):
        files = {name: {"sha256": value} for name, value in zip(FILES, (own, other), strict=True)}
        write(tmp_path, files=files)
        identities.append(read_engines(tmp_path).engines[0].identity)
    assert identities[0] == identities[1] != identities[2]


def test_a_bundle_for_the_cpu_has_none(bundle: TableBundle) -> None:
    found = read_engines(bundle.path)
    assert (found.cpu, found.engines) == (True, ())


def test_a_folder_without_manifest_is_refused(tmp_path: Path) -> None:
    assert (error := refusal(tmp_path)).status == "file error"
    assert error.message.endswith("manifest.json cannot be read: No such file or directory; is this a bundle?")


def test_another_format_is_refused(tmp_path: Path) -> None:
    write(tmp_path, format=2)
    assert (error := refusal(tmp_path)).status == "bundle error"
    assert error.message.endswith("expected format 5, found 2; build it again with this version")


@pytest.mark.parametrize("text", ["", "[]", "{", '{"format": 5}', '{"format": 5, "graphs": {}, "engines": [1]}'])
def test_damage_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_text(text, encoding="utf-8")
    assert (error := refusal(tmp_path)).status == "bundle error"
    assert "manifest.json: damaged (" in error.message
