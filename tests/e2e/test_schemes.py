"""Every scheme from recipe to proof on the tiny pair: built, lossless, its rows independent of each other."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from forerun_compiler.activation_range import Calibration
from forerun_compiler.build import write_compiled
from forerun_compiler.bundle import check_bundle
from forerun_compiler.compilation import calibrate_linked, compile_linked
from forerun_compiler.manifest import EngineTarget, Override, Precision
from forerun_compiler.pipeline import LinkedGraphs, link_recipe
from forerun_compiler.precision_map import read_precision_map
from forerun_compiler.proof.gate_runs import Effort
from forerun_compiler.proof.prove import verify_bundle
from forerun_compiler.proof.target_probe import TargetProbe
from forerun_compiler.recipe import Recipe, load_recipe
from forerun_compiler.schemes import DENSE, INT4_GROUPS, ONNXRUNTIME, SCHEMES
from tiny_pairs import BuiltPair

EFFORT = Effort(prompts=3, tokens=24, sampled_prompts=2, samples=150)
QUANTIZED = [name for name in SCHEMES if name != DENSE]
Source = tuple[Recipe, LinkedGraphs, Calibration]


@pytest.fixture(scope="module")
def source(pair: BuiltPair) -> Source:
    """Traced and calibrated once for all schemes."""
    recipe = load_recipe(pair.bundle.with_name("tiny.yaml"))
    linked = link_recipe(recipe, lambda stage: None)
    return recipe, linked, calibrate_linked(recipe, linked, None, lambda *_: None)


@pytest.fixture(scope="module")
def bundles(pair: BuiltPair, source: Source) -> dict[str, Path]:
    """Filled by `bundle`; beside the pair's own bundle, so that each finds the source checkpoints."""
    return {}


def bundle(pair: BuiltPair, source: Source, kept: dict[str, Path], scheme: str, kernels: str = "forerun") -> Path:
    name = f"{scheme}-{kernels}"
    if name not in kept:
        recipe, linked, calibration = source
        engine = EngineTarget(kernels=kernels, emulate=ONNXRUNTIME not in SCHEMES[scheme].runs_on)
        precision = Precision(scheme, scheme, scheme, scheme)
        asked = replace(recipe, precision=precision, engines=(engine,))
        compiled = compile_linked(asked, linked, calibration, lambda *_: None)
        kept[name] = pair.bundle.with_name(f"bundle-{name}")
        write_compiled(asked, compiled, kept[name], lambda *_: None)
    return kept[name]


@pytest.mark.parametrize("scheme", QUANTIZED)
def test_a_bundle_of_each_scheme_is_proven_lossless(
    pair: BuiltPair, source: Source, bundles: dict[str, Path], scheme: str
) -> None:
    folder = bundle(pair, source, bundles, scheme)
    proof = verify_bundle(folder, EFFORT, lambda *_: None)
    assert proof.failures == ()
    assert proof.not_run == ()
    assert (proof.lossless, proof.guarantee) == (True, "bit-identical")
    assert proof.prompts_identical == 3
    assert proof.kl_to_source is not None
    # Random weights of 64 channels: four bits on both sides change much here. Noise instead of numbers gives several.
    assert 0 < proof.kl_to_source < 1
    rows = {row.layer: row for row in read_precision_map(folder)}
    assert rows["target.model.layers.0.mlp.up_proj"].scheme == scheme
    assert rows["drafter.fc"].scheme == ("int8" if scheme in ("int8", *INT4_GROUPS) else DENSE)


@pytest.mark.parametrize("name", [*(f"{scheme}-forerun" for scheme in QUANTIZED), "int8-stock", "int4-stock"])
def test_the_anchor_row_does_not_depend_on_the_draft(
    pair: BuiltPair, source: Source, bundles: dict[str, Path], name: str
) -> None:
    """The verify pass at its own width: other draft rows, the same bits in the anchor's logits."""
    scheme, _, kernels = name.rpartition("-")
    folder = bundle(pair, source, bundles, scheme, kernels)
    probe = TargetProbe(folder, check_bundle(folder), "round", threads=1)
    prompt = list(range(1, 33))
    probe.read(prompt[:-1])
    chance = np.random.default_rng(0)
    seen = []
    for _ in range(4):
        draft = chance.integers(0, 255, 7).tolist()
        seen.append(probe.run([prompt[-1], *draft], 1, len(prompt) - 1)[:2])
    assert len({logits[0].tobytes() for logits in seen}) == 1
    # The rows behind it differ, so the drafts were read.
    assert len({logits[1].tobytes() for logits in seen}) == 4


@pytest.mark.parametrize("kernels", ["forerun", "stock"])
def test_caches_of_int8_are_proven_lossless(pair: BuiltPair, source: Source, kernels: str) -> None:
    recipe, linked, _ = source
    asked = replace(recipe, precision=Precision(cache="int8"), engines=(EngineTarget(kernels=kernels),))
    folder = pair.bundle.with_name(f"bundle-cache-{kernels}")
    write_compiled(asked, compile_linked(asked, linked, None, lambda *_: None), folder, lambda *_: None)
    proof = verify_bundle(folder, EFFORT, lambda *_: None)
    assert (proof.failures, proof.not_run) == ((), ())
    assert (proof.lossless, proof.guarantee) == (True, "bit-identical")
    assert proof.kl_to_source is not None
    assert 0 < proof.kl_to_source < 1e-3
    states = check_bundle(folder).graphs["round"].states
    assert {state.dtype for state in states if state.name.endswith((".k", ".v"))} == {"int8"}


def test_an_override_reaches_its_layer_alone(pair: BuiltPair, source: Source) -> None:
    recipe, linked, calibration = source
    precision = Precision("int8", "int8", "int8", "int8", overrides=(Override("target.*.down_proj", "float32"),))
    compiled = compile_linked(replace(recipe, precision=precision), linked, calibration, lambda *_: None)
    schemes = {row.layer: row.scheme for row in compiled.precision_map}
    assert schemes["target.model.layers.1.mlp.down_proj"] == DENSE
    assert schemes["target.model.layers.1.mlp.up_proj"] == "int8"
    assert schemes["drafter.layers.1.mlp.down_proj"] == "int8"
