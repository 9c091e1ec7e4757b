"""From recipe to bundle with a made-up compiler: what is written, what is refused, what is left behind."""

from __future__ import annotations

import errno
import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models

import tiny_bundles
from forerun_compiler import resources
from forerun_compiler.build import Toolchain, build, plan_build
from forerun_compiler.bundle import EngineTarget, GraphInterface, ModelFacts, check_bundle
from forerun_compiler.checkpoint_files import find_source
from forerun_compiler.compilation import Compiled, DeviceGraphs
from forerun_compiler.errors import BundleError, CheckpointError, PassError, RecipeError, ResourceError
from forerun_compiler.precision_map import LayerPrecision, read_precision_map
from forerun_compiler.prompts import BUILT_IN, read_prompts
from forerun_compiler.recipe import Recipe, load_recipe


@dataclass(frozen=True)
class Graphs:
    facts: ModelFacts


def compile_nothing(recipe: Recipe, cache: object, on_progress: object) -> Compiled:
    graphs: Any = Graphs(replace(tiny_bundles.FACTS, name=recipe.name))
    return Compiled(graphs.facts, graphs, (LayerPrecision("target.lm_head", "lm_head", "int8", 10, 12, 0.25, None),))


def write_nothing(graphs: Graphs, folder: Path) -> dict[str, GraphInterface]:
    tiny_bundles.write_files(folder)
    return {name: tiny_bundles.interface(f"{name}.onnx") for name in ("round", "plain")}


def write_no_engine(device: DeviceGraphs, folder: Path, on_progress: object) -> EngineTarget:
    raise AssertionError("no recipe here has a GPU")


TOOLCHAIN = Toolchain(compile_nothing, write_nothing, write_no_engine)  # type: ignore[arg-type]


def write_safetensors(path: Path, shape: list[int]) -> None:
    count = 1
    for size in shape:
        count *= size
    header = json.dumps({"weight": {"dtype": "BF16", "shape": shape, "data_offsets": [0, 2 * count]}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(2 * count))


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    for part in ("target", "drafter"):
        folder = tmp_path / "pair" / part
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}")
        write_safetensors(folder / "model.safetensors", [10, 20])
    tokenizer = Tokenizer(models.BPE({"a": 0, "b": 1}, []))
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(tmp_path / "pair" / "target" / "tokenizer.json"))
    (tmp_path / "pair" / "recipe.yaml").write_text("name: x\ntarget: {model: ./target}\ndrafter: {model: ./drafter}\n")
    return load_recipe(tmp_path / "pair" / "recipe.yaml")


def test_writes_all_files_and_facts(recipe: Recipe, tmp_path: Path) -> None:
    stages: list[str] = []
    manifest = build(recipe, tmp_path / "out", lambda stage, done, total: stages.append(stage), TOOLCHAIN)
    assert check_bundle(tmp_path / "out") == manifest
    assert sorted(manifest.files) == [
        *("plain.onnx", "precision.json", "prompts.jsonl", "round.onnx", "tokenizer.json", "vocab.bin", "weights.bin")
    ]
    assert manifest.recipe == recipe.text
    assert manifest.model.name == "x"
    assert (manifest.source.target, manifest.source.drafter) == ("../pair/target", "../pair/drafter")
    assert read_prompts(tmp_path / "out" / "prompts.jsonl") == BUILT_IN
    assert [row.layer for row in read_precision_map(tmp_path / "out")] == ["target.lm_head"]
    source = (tmp_path / "pair" / "target" / "tokenizer.json").read_bytes()
    assert (tmp_path / "out" / "tokenizer.json").read_bytes() == source
    assert stages == ["read prompts and tokenizer", "write graphs and weights", "write tokenizer and manifest"]


def test_two_builds_differ_in_their_time_only(recipe: Recipe, tmp_path: Path) -> None:
    one = build(recipe, tmp_path / "a", print, TOOLCHAIN)
    other = build(recipe, tmp_path / "b", print, TOOLCHAIN)
    assert replace(one, created="") == replace(other, created="")
    for name in one.files:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_the_chat_template_comes_along(recipe: Recipe, tmp_path: Path) -> None:
    folder = Path(recipe.target.model)
    named = [{"name": "tool", "template": "no"}, {"name": "default", "template": "yes é"}]
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": named}))
    assert "chat_template.jinja" in build(recipe, tmp_path / "out", print, TOOLCHAIN).files
    assert (tmp_path / "out" / "chat_template.jinja").read_text() == "yes é"
    (folder / "chat_template.jinja").write_text("newer")
    build(recipe, tmp_path / "out", print, TOOLCHAIN)
    assert (tmp_path / "out" / "chat_template.jinja").read_text() == "newer"


def test_prompts_of_the_recipe(recipe: Recipe, tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text('{"prompt": "one"}\n\n{"prompt": "zwei ü"}\n')
    build(replace(recipe, prompts=tmp_path / "p.jsonl"), tmp_path / "out", print, TOOLCHAIN)
    assert read_prompts(tmp_path / "out" / "prompts.jsonl") == ("one", "zwei ü")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"prompt": "a"}\nnonsense\n', r"p\.jsonl:2: expected a JSON object, found text that is not JSON"),
        ('{"text": "a"}\n', r'p\.jsonl:1: expected {"prompt": "some text"}, found'),
        ("\n", r"p\.jsonl: expected at least one line"),
    ],
)
def test_bad_prompts_are_refused_before_the_compile(recipe: Recipe, tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "p.jsonl").write_text(text)
    with pytest.raises(RecipeError, match=said):
        build(replace(recipe, prompts=tmp_path / "p.jsonl"), tmp_path / "out", print, Toolchain(None, None, None))  # type: ignore[arg-type]


def test_a_missing_tokenizer_is_refused(recipe: Recipe, tmp_path: Path) -> None:
    (Path(recipe.target.model) / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match=r"expected a tokenizer\.json, found none; make one"):
        build(recipe, tmp_path / "out", print, TOOLCHAIN)


def test_a_failed_compile_leaves_the_earlier_bundle(recipe: Recipe, tmp_path: Path) -> None:
    earlier = build(recipe, tmp_path / "out", print, TOOLCHAIN)

    def fail(recipe: Recipe, cache: object, on_progress: object) -> Graphs:
        raise PassError("no such pattern")

    with pytest.raises(PassError):
        build(recipe, tmp_path / "out", print, Toolchain(fail, write_nothing, write_no_engine))  # type: ignore[arg-type]
    assert check_bundle(tmp_path / "out") == earlier


def test_a_full_disk_leaves_nothing_behind(recipe: Recipe, tmp_path: Path) -> None:
    def fill_disk(graphs: Graphs, folder: Path) -> dict[str, GraphInterface]:
        (folder / "weights.bin").write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "place").mkdir()
    with pytest.raises(BundleError, match="the disk is full"):
        build(recipe, tmp_path / "place" / "out", print, Toolchain(compile_nothing, fill_disk, write_no_engine))  # type: ignore[arg-type]
    assert os.listdir(tmp_path / "place") == []


def test_no_memory_is_a_resource_error(recipe: Recipe, tmp_path: Path) -> None:
    def starve(recipe: Recipe, cache: object, on_progress: object) -> Graphs:
        raise MemoryError

    with pytest.raises(ResourceError, match="ran out of memory"):
        build(recipe, tmp_path / "out", print, Toolchain(starve, write_nothing, write_no_engine))  # type: ignore[arg-type]


def test_the_plan_states_and_refuses(recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs = plan_build(recipe, tmp_path / "new" / "out")
    assert needs.parameters == 400
    assert needs.disk >= 1600
    monkeypatch.setattr("forerun_compiler.build.this_machine", lambda output: resources.Machine(10, 10))
    with pytest.raises(ResourceError, match=r"the build needs about .* GiB of memory, 0 MiB are available"):
        plan_build(recipe, tmp_path / "out")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").write_text("x")
    with pytest.raises(BundleError, match="found something else"):
        plan_build(recipe, tmp_path / "other")


def test_the_source_is_found_again_from_the_bundle(recipe: Recipe, tmp_path: Path) -> None:
    manifest = build(recipe, tmp_path / "out", print, TOOLCHAIN)
    found = find_source(manifest.source.target, tmp_path / "out")
    assert found is not None
    assert (found.model, found.is_folder) == (recipe.target.model, True)
    assert find_source("../gone", tmp_path / "out") is None
    hub = find_source("Qwen/Qwen3-4B", tmp_path / "out")
    assert hub is not None
    assert (hub.model, hub.is_folder) == ("Qwen/Qwen3-4B", False)
