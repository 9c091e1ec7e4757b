"""Engines of GPUs in a bundle: built with it, added to it later, refused; all with the real TensorRT-RTX, no device."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import forerun
import tiny_pairs
from forerun_compiler import cli, report
from forerun_compiler.add_engines import add_engines
from forerun_compiler.build import check_devices, write_compiled
from forerun_compiler.bundle import Manifest, add_files, check_bundle
from forerun_compiler.compilation import calibrate_linked, compile_linked
from forerun_compiler.errors import BundleError, EngineError
from forerun_compiler.manifest import EngineTarget, Precision

CPU = EngineTarget()
HALF = EngineTarget("tensorrt-rtx", "cuda", "stock", compute_capability=("8.9", "12.0"), dtype="float16")
FP8 = replace(HALF, precision=Precision("fp8", "fp8", "fp8", "fp8"))


def build(folder: Path, *engines: EngineTarget) -> Manifest:
    made = tiny_pairs.pair(head_dim=32)  # the least that TensorRT's attention takes
    recipe = replace(tiny_pairs.recipe(made.target, made.drafter), engines=engines)
    calibration = None
    if any(engine.precision is not None for engine in engines):
        calibration = calibrate_linked(recipe, made.linked, None, lambda *_: None)
    compiled = compile_linked(recipe, made.linked, calibration, lambda *_: None)
    return write_compiled(recipe, compiled, folder, lambda *_: None)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("engines") / "bundle"
    build(folder, CPU, HALF, FP8)
    return folder


@pytest.fixture
def bundle(built: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(built, tmp_path / "bundle"))


def test_a_bundle_says_what_its_engines_are(built: Path) -> None:
    manifest = check_bundle(built)
    cpu, half, fp8 = manifest.engines
    assert (cpu.graphs, cpu.built) == ({}, ())
    assert half.graphs["round"].file == "engines/float16/round.onnx"
    assert {state.dtype for state in half.graphs["round"].states} == {"float16", "float32"}  # caches, draft_probs
    engine = half.built[0]
    assert engine.folder == "engines/float16/tensorrt-rtx-sm89-sm120"
    assert engine.compute_capability == ("8.9", "12.0")
    assert {f"{engine.folder}/{name}" for name in ("round.engine", "plain.engine", "build.log")} <= set(manifest.files)
    assert all(plan.capturable and plan.kernels > 0 for plan in engine.plans.values())
    assert "fp8" not in engine.plans["round"].products
    assert fp8.built[0].plans["round"].products["fp8"] > 0


def test_the_cpu_runs_it_as_ever(built: Path) -> None:
    with forerun.load(built) as engine:
        assert engine.facts.backend == "onnxruntime"
        assert len(engine.generate("import os", max_new_tokens=5).tokens) == 5


def test_inspect_lists_devices_library_and_products(built: Path) -> None:
    text = report.inspect_text(check_bundle(built), built)
    assert "tensorrt-rtx on cuda, float16, no quantization" in text
    assert "tensorrt-rtx on cuda, float16, all layers fp8" in text
    assert "engines/fp8/tensorrt-rtx-sm89-sm120: for 8.9, 12.0, built by version 1." in text
    assert " fp8" in text.split("products: ")[2]


def test_an_engine_for_another_device_is_added_without_the_checkpoints(bundle: Path) -> None:
    before = check_bundle(bundle)
    stages: list[str] = []
    manifest = add_engines(bundle, ["8.6"], lambda stage, done, total: stages.append(stage))
    assert check_bundle(bundle) == manifest
    assert not any("trace" in stage for stage in stages)
    half, fp8 = manifest.engines[1:]
    assert half.compute_capability == ("8.9", "12.0", "8.6")
    assert [engine.compute_capability for engine in half.built] == [("8.9", "12.0"), ("8.6",)]
    assert len(fp8.built) == 1  # 8.6 has no FP8
    added = set(manifest.files) - set(before.files)
    assert {Path(name).parent.as_posix() for name in added} == {"engines/float16/tensorrt-rtx-sm86"}
    assert {name: manifest.files[name] for name in before.files} == dict(before.files)


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("8.9", r"nothing to build for 8\.9: .*tensorrt-rtx for 8\.9 is there already; .*engines/fp8.* there already"),
        ("5.0", r"nothing to build for 5\.0: .*it cannot build for the compute capability '5\.0'.*it knows 7\.5, 8\.0"),
        ("tensorrt", r"builds on the device that will run the engine, and this machine has none: .*driver"),
    ],
)
def test_targets_that_cannot_be_added(bundle: Path, target: str, said: str) -> None:
    before = sorted(path.name for path in bundle.rglob("*"))
    with pytest.raises(EngineError, match=said):
        add_engines(bundle, [target], lambda *_: None)
    assert sorted(path.name for path in bundle.rglob("*")) == before


def test_a_failure_leaves_the_bundle_as_it_was(bundle: Path) -> None:
    before = (bundle / "manifest.json").read_bytes()
    with pytest.raises(EngineError, match=r"'5\.0'"):
        add_engines(bundle, ["8.6", "5.0"], lambda *_: None)
    assert (bundle / "manifest.json").read_bytes() == before
    assert not (bundle / "engines/float16/tensorrt-rtx-sm86").exists()


def test_an_interrupt_behind_the_last_write_loses_nothing(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*arguments: Any) -> Manifest:
        add_files(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr("forerun_compiler.add_engines.add_files", interrupted)
    with pytest.raises(KeyboardInterrupt):
        add_engines(bundle, ["8.6"], lambda *_: None)
    assert check_bundle(bundle).engines[1].compute_capability == ("8.9", "12.0", "8.6")


def test_a_damaged_graph_is_not_built_from(bundle: Path) -> None:
    graph = bundle / "engines/float16/round.onnx"
    graph.write_bytes(graph.read_bytes()[:-1])
    with pytest.raises(BundleError, match=r"engines/float16/round\.onnx: expected \d+ bytes, found"):
        add_engines(bundle, ["8.6"], lambda *_: None)


def test_a_bundle_for_the_cpu_alone_has_nothing_to_build_from(tmp_path: Path) -> None:
    build(tmp_path / "bundle", CPU)
    with pytest.raises(EngineError, match=r"holds no graphs for GPUs to build from: add - backend: tensorrt-rtx"):
        add_engines(tmp_path / "bundle", ["8.6"], lambda *_: None)


def test_a_bundle_for_gpus_alone_is_refused_on_the_cpu(tmp_path: Path) -> None:
    manifest = build(tmp_path / "bundle", replace(HALF, compute_capability=("8.9",)))
    assert manifest.graphs == {}
    with pytest.raises(forerun.ForerunError, match=r"holds no graphs for ONNX Runtime on the CPU: .* GPUs alone"):
        forerun.load(tmp_path / "bundle")


@pytest.mark.parametrize(
    ("engine", "said"),
    [
        (
            replace(HALF, precision=Precision(target="nvfp4")),
            "nvfp4 needs a compute capability of 12.0, 12.1, found 8.9",
        ),
        (
            replace(HALF, compute_capability=("7.5",), dtype="bfloat16"),
            "dtype bfloat16 needs a compute capability of 8.0",
        ),
        (EngineTarget("tensorrt", "cuda", "stock", dtype="float16"), "tensorrt: it builds on the device that will run"),
    ],
)
def test_what_a_device_cannot_do_is_refused_before_the_compile(engine: EngineTarget, said: str) -> None:
    made = tiny_pairs.pair()
    with pytest.raises(EngineError) as caught:
        check_devices(replace(tiny_pairs.recipe(made.target, made.drafter), engines=(engine,)))
    assert said in str(caught.value)


def test_only_engines_on_the_command_line(bundle: Path) -> None:
    found = CliRunner().invoke(cli.commands, ["build", "--only", "engines", "--target", "8.0", "-o", str(bundle)])
    assert found.exit_code == 0, found.output
    assert (bundle / "engines/float16/tensorrt-rtx-sm80/round.engine").is_file()
    for wrong in (["--only", "engines"], ["--target", "8.6"], ["x.yaml", "--only", "engines", "--target", "8.6"]):
        found = CliRunner().invoke(cli.commands, ["build", *wrong, "-o", str(bundle)])
        assert found.exit_code == 2
