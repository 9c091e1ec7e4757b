"""The search on made-up measurements: what it tries, what it chooses, what it keeps, what it refuses."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import pytest

import tiny_pairs
from forerun_compiler.errors import ResourceError
from forerun_compiler.manifest import EngineTarget, Precision
from forerun_compiler.proof.quality import Quality
from forerun_compiler.recipe import CalibrationChoice, Recipe
from forerun_compiler.resources import GIB, Machine, Needs
from forerun_compiler.schemes import SCHEMES
from forerun_compiler.tuning import tune as tuning
from forerun_compiler.tuning.tune import Candidate, Settings, Tools, Tried, candidates, fastest, tune

ONNXRUNTIME = tuple(name for name, scheme in SCHEMES.items() if "onnxruntime" in scheme.runs_on)
SPEEDS = {
    ("float32", "float32"): (4, 400.0),
    ("int8", "float32"): (4, 300.0),
    ("int4", "float32"): (2, 100.0),  # 20,000 tokens/s
    ("int4-group64", "float32"): (2, 110.0),
    ("int4-group32", "float32"): (2, 110.0),
    ("int8-static", "float32"): (1, 90.0),
    ("int4", "int8"): (3, 120.0),  # 25,000 tokens/s
    ("int4", "int4"): (4, 170.0),
    ("int4", "int4-group64"): (1, 50.0),
    ("int4", "int4-group32"): (1, 50.0),
    ("int4", "int8-static"): (2, 100.0),
}
"""(drafter, drafter_lm_head) -> tokens committed a round, microseconds of a round."""


@dataclass
class Shop:
    """Writes the precision into a file; `built` keeps what was asked for, `most` how many lay there at once."""

    built: list[Precision]
    most: int = 0

    def build(self, precision: Precision, folder: Path) -> None:
        assert not folder.exists()
        folder.mkdir()
        self.built.append(precision)
        (folder / "schemes").write_text(f"{precision.drafter} {precision.drafter_lm_head}")
        self.most = max(self.most, len(list(folder.parent.iterdir())))


@dataclass
class Script:
    """An engine of the made-up speeds."""

    folder: Path
    threads: int | None
    opened: list[Path]

    def __post_init__(self) -> None:
        names = (self.folder / "schemes").read_text().split()
        self.count, self.time_us = SPEEDS[(names[0], names[1])]
        self.opened.append(self.folder)
        self.facts = SimpleNamespace(capacity=100, threads=self.threads, backend="made up", backend_version="1")

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def rounds(self, prompt: Sequence[int], *, max_new_tokens: int, temperature: float) -> Iterator[SimpleNamespace]:
        for _ in range(max_new_tokens // 8):
            yield SimpleNamespace(phase="decode", committed=(0,) * self.count, session_us=self.time_us - 5, loop_us=5.0)

    def close(self) -> None:
        self.opened.remove(self.folder)


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    made = tiny_pairs.recipe(tmp_path, tmp_path)
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "abc"}\n{"prompt": "de"}\n{"prompt": "f"}\n')
    return replace(made, prompts=prompts)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The made-up pair has no checkpoints to estimate, the made-up bundles no precision map."""
    monkeypatch.setattr(tuning, "estimate", lambda recipe: Needs(parameters=1, ram=GIB, disk=GIB, seconds=1.0))
    monkeypatch.setattr(tuning, "this_machine", lambda folder: Machine(ram=100 * GIB, disk=100 * GIB))
    monkeypatch.setattr(tuning, "read_manifest", lambda folder: None)
    monkeypatch.setattr(tuning, "target_schemes", lambda folder, manifest: frozenset())
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))


def search(recipe: Recipe, shop: Shop | None = None) -> tuning.Tuning:
    opened: list[Path] = []
    tools = Tools(shop or Shop([]), lambda folder, threads: Script(folder, threads, opened), lambda *step: None)
    found = tune(recipe, Settings(prompts=2, tokens=16, threads=3), tools)
    assert opened == []
    return found


def test_it_walks_the_drafter_then_the_lm_head_and_takes_the_fastest(recipe: Recipe) -> None:
    found = search(recipe)
    assert found.chosen == Candidate("int4", "int8")
    assert [(tried.step, tried.drafter, tried.drafter_lm_head) for tried in found.tried] == [
        *(("drafter", scheme, "float32") for scheme in ONNXRUNTIME),
        *(("LM head", "int4", scheme) for scheme in ONNXRUNTIME),
    ]
    best = next(tried for tried in found.tried if tried.drafter_lm_head == "int8")
    assert best == Tried("LM head", "int4", "int8", 3.0, 120.0, 25_000.0)
    assert (found.prompts, found.tokens, found.machine.threads) == (2, 16, 3)
    assert (found.target, found.lm_head, found.quality, found.held_out) == ("float32", "float32", None, True)


def test_the_target_is_never_touched_and_each_bundle_is_built_once(recipe: Recipe, tmp_path: Path) -> None:
    given = replace(recipe, precision=Precision(target="int8", lm_head="int4"))
    shop = Shop([])
    search(given, shop)
    assert {(precision.target, precision.lm_head) for precision in shop.built} == {("int8", "int4")}
    assert len(set(shop.built)) == len(shop.built) == 2 * len(ONNXRUNTIME) - 1
    # One step's bundles at most lie there together, and none when all is done.
    assert shop.most == len(ONNXRUNTIME)
    assert list((tmp_path / "temporary").iterdir()) == []


def test_the_recipes_own_scheme_wins_between_equals() -> None:
    rows = [Tried("drafter", scheme, "float32", 2.0, 100.0, 20_000.0) for scheme in ("int8", "float32")]
    assert fastest(rows) == Candidate("int8", "float32")
    assert candidates("int8", (EngineTarget(),))[:2] == ("int8", "float32")
    assert sorted(candidates("int8", (EngineTarget(),))) == sorted(ONNXRUNTIME)


def test_a_candidate_runs_on_every_engine_of_the_recipe_or_is_its_own() -> None:
    both = (EngineTarget(), EngineTarget("tensorrt", "cuda"))
    able = [name for name, scheme in SCHEMES.items() if {"onnxruntime", "tensorrt"} <= set(scheme.runs_on)]
    assert "int8" not in able
    assert sorted(candidates("int4", both)) == sorted(able)
    assert candidates("nvfp4", (EngineTarget(emulate=True),)) == ("nvfp4", *ONNXRUNTIME)


def test_a_failed_build_leaves_nothing(recipe: Recipe, tmp_path: Path) -> None:
    class Broken(Shop):
        def build(self, precision: Precision, folder: Path) -> None:
            super().build(precision, folder)
            if precision.drafter == "int8":
                raise ResourceError("no room")

    with pytest.raises(ResourceError, match="no room"):
        search(recipe, Broken([]))
    assert list((tmp_path / "temporary").iterdir()) == []


def test_room_is_checked_before_anything_is_built(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    shop, bundles = Shop([]), len(ONNXRUNTIME) + 1
    monkeypatch.setattr(tuning, "this_machine", lambda folder: Machine(ram=100 * GIB, disk=2 * GIB))
    with pytest.raises(ResourceError, match=rf"the {bundles} bundles of a search need about {bundles}\.0 GiB of disk"):
        search(recipe, shop)
    monkeypatch.setattr(tuning, "this_machine", lambda folder: Machine(ram=2 * GIB, disk=100 * GIB))
    with pytest.raises(
        ResourceError, match=rf"a search needs about {bundles}\.0 GiB of memory.*2\.0 GiB are available"
    ):
        search(recipe, shop)
    assert shop.built == []


def test_room_for_the_calibration_of_a_float32_recipe_is_counted(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Precision] = []

    def estimate(recipe: Recipe) -> Needs:
        asked.append(recipe.precision)
        return Needs(parameters=1, ram=GIB, disk=GIB, seconds=1.0)

    monkeypatch.setattr(tuning, "estimate", estimate)
    search(replace(recipe, precision=Precision()))
    assert [precision.is_quantized for precision in asked] == [True]


def test_text_that_was_calibrated_on_is_not_held_out(recipe: Recipe) -> None:
    assert not search(replace(recipe, calibration=CalibrationChoice(prompts=recipe.prompts))).held_out
    other = recipe.path.with_name("other.jsonl")
    assert search(replace(recipe, calibration=CalibrationChoice(prompts=other))).held_out


def test_the_targets_cost_is_measured_against_float32(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    """All prompts are read, not only those that are decoded; the last bundle built is the float32 reference."""
    seen: list[tuple[Path, Path, list[list[int]], int]] = []
    quality = Quality(kl=0.01, perplexity=2.0, reference_perplexity=1.9, tokens=3)

    def measure(candidate: Path, reference: Path, texts: list[list[int]], progress: object, threads: int) -> Quality:
        assert (candidate / "schemes").read_text() == "int4 int8"
        seen.append((candidate, reference, texts, threads))
        return quality

    monkeypatch.setattr(tuning, "measure_quality", measure)
    monkeypatch.setattr(tuning, "target_schemes", lambda folder, manifest: frozenset({"int8"}))
    shop = Shop([])
    found = search(replace(recipe, precision=Precision(target="int8", lm_head="int8")), shop)
    assert found.quality == quality
    assert shop.built[-1] == Precision()
    ((candidate, reference, texts, threads),) = seen
    assert reference.name == f"candidate-{len(shop.built)}" != candidate.name
    assert (texts, threads) == ([[97, 98, 99], [100, 101], [102]], 3)
