"""Files of checkpoints: local folders as they are, the hub through stand-ins for its client."""

from __future__ import annotations

import json
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

from forerun_compiler.checkpoint_files import (
    count_parameters,
    find_file,
    find_source,
    local_folder,
    read_tokenizer,
    source_name,
)
from forerun_compiler.errors import CheckpointError
from forerun_compiler.recipe import ModelReference

HUB = ModelReference("Qwen/Qwen3-4B", is_folder=False)


def local(folder: Path) -> ModelReference:
    return ModelReference(str(folder), is_folder=True)


def safetensors(shapes: dict[str, list[int]], bytes_each: int = 2) -> bytes:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        size = bytes_each
        for length in shape:
            size *= length
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(end)


def test_parameters_are_counted_over_all_shards(tmp_path: Path) -> None:
    (tmp_path / "model-00001-of-00002.safetensors").write_bytes(safetensors({"a": [3, 5], "b": []}))
    (tmp_path / "model-00002-of-00002.safetensors").write_bytes(safetensors({"c": [7]}))
    assert count_parameters(local(tmp_path)) == 15 + 1 + 7


@pytest.mark.parametrize("keep", [0, 4, 8, 40, -1])
def test_a_cut_weights_file_is_refused(tmp_path: Path, keep: int) -> None:
    (tmp_path / "model.safetensors").write_bytes(safetensors({"a": [3, 5]})[:keep])
    with pytest.raises(CheckpointError, match=r"model\.safetensors: expected"):
        count_parameters(local(tmp_path))


def test_no_weights(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"expected weights in \*\.safetensors, found none"):
        count_parameters(local(tmp_path))


def test_local_files(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert find_file(local(tmp_path), "config.json") == tmp_path / "config.json"
    assert find_file(local(tmp_path), "other.json") is None
    assert local_folder(local(tmp_path)) == tmp_path


def test_hub_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tokenizer.json").write_text("tokens")

    def download(name: str, file: str) -> str:
        assert name == "Qwen/Qwen3-4B"
        if file != "tokenizer.json":
            raise EntryNotFoundError("404")
        return str(tmp_path / file)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, allow_patterns: str(tmp_path))
    assert read_tokenizer(HUB).tokenizer == "tokens"
    assert read_tokenizer(HUB).chat_template is None
    assert local_folder(HUB) == tmp_path


class ConnectError(Exception):
    """Stands for what the hub client's HTTP library raises when a name does not resolve: no OSError."""


@pytest.mark.parametrize("kind", [LocalEntryNotFoundError, ConnectError])
def test_an_unreachable_hub_says_what_to_do(kind: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object, **options: object) -> str:
        raise kind("no connection\nand more lines")

    for name in ("hf_hub_download", "snapshot_download", "get_safetensors_metadata"):
        monkeypatch.setattr(huggingface_hub, name, fail)
    said = r"^Qwen/Qwen3-4B: .* cannot be had from the hub: no connection; check the name and the connection, or give"
    with pytest.raises(CheckpointError, match=said):
        find_file(HUB, "config.json")
    with pytest.raises(CheckpointError, match=said):
        local_folder(HUB)
    with pytest.raises(CheckpointError, match=said):
        count_parameters(HUB)


def test_sources_are_named_from_the_bundle_and_found_again(tmp_path: Path) -> None:
    target, bundle = tmp_path / "models" / "target", tmp_path / "artifacts" / "x"
    target.mkdir(parents=True)
    name = source_name(local(target), bundle)
    assert name == "../../models/target"
    assert find_source(name, bundle) is None
    (target / "config.json").write_text("{}")
    bundle.mkdir(parents=True)
    assert find_source(name, bundle) == local(target)
    assert source_name(HUB, bundle) == "Qwen/Qwen3-4B"
    assert find_source("Qwen/Qwen3-4B", bundle) == HUB
