"""The whole search on a tiny pair: one trace, real bundles, and the recipe that it writes."""

from __future__ import annotations

from pathlib import Path

import pytest

import tiny_drafters
import tiny_models
from forerun_compiler import compilation
from forerun_compiler.bundle import check_bundle
from forerun_compiler.errors import RecipeError
from forerun_compiler.manifest import Precision
from forerun_compiler.precision_map import read_precision_map
from forerun_compiler.recipe import load_recipe
from forerun_compiler.schemes import SCHEMES
from forerun_compiler.tuning import tune
from forerun_compiler.tuning.tune import Settings
from forerun_compiler.tuning.tune_command import RecipeWorkshop, tune_recipe


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With the checkpoints of a pair and its recipe, tiny.yaml."""
    made = tmp_path_factory.mktemp("pair")
    tiny_models.save_target(made / "target", seed=1, tie_word_embeddings=False)
    tiny_drafters.save_dspark(made / "drafter", made / "target", markov_rank=8)
    (made / "tiny.yaml").write_text(
        "name: tiny\ntarget: {model: target}\ndrafter: {model: drafter}\ncapacity: 160\nprefill_chunk: 16\n"
    )
    return made


@pytest.mark.slow
def test_the_pair_is_linked_and_calibrated_once(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    linked: list[str] = []
    link = compilation.link_recipe
    monkeypatch.setattr(compilation, "link_recipe", lambda *given: linked.append("linked") or link(*given))
    stages: list[str] = []
    workshop = RecipeWorkshop(load_recipe(folder / "tiny.yaml"), tmp_path, lambda stage, *_: stages.append(stage))
    wanted = {"dense": Precision(), "drafter": Precision(drafter="int8"), "target": Precision(target="int8-static")}
    for name, precision in wanted.items():
        workshop.build(precision, tmp_path / name)
    for name, precision in wanted.items():
        assert check_bundle(tmp_path / name).precision == precision
    assert linked == ["linked"]
    assert stages.count("trace the target") == 1
    assert len(list(tmp_path.glob("*.calibration"))) == 1
    found = {
        name: {(row.part, row.scheme) for row in read_precision_map(tmp_path / name) if row.scheme != "float32"}
        for name in wanted
    }
    assert found == {"dense": set(), "drafter": {("drafter", "int8")}, "target": {("target", "int8-static")}}


@pytest.mark.slow
def test_a_search_from_recipe_to_recipe(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = ("float32", "int8")
    monkeypatch.setattr(tune, "SCHEMES", {name: SCHEMES[name] for name in few})
    before = (folder / "tiny.yaml").read_text()
    (folder / "int8.yaml").write_text(f"{before}precision: {{target: int8, lm_head: int8}}\n")
    output = folder / "tuned.yaml"
    found = tune_recipe(
        folder / "int8.yaml", output, Settings(prompts=2, tokens=12, threads=1), lambda *step: None, tmp_path
    )
    assert (folder / "tiny.yaml").read_text() == before
    written = load_recipe(output)
    assert (written.precision.target, written.precision.lm_head) == ("int8", "int8")
    assert (written.precision.drafter, written.precision.drafter_lm_head) == (
        found.chosen.drafter,
        found.chosen.drafter_lm_head,
    )
    assert [tried.drafter for tried in found.tried if tried.step == "drafter"] == [*few]
    assert all(tried.acceptance_length >= 1 and tried.round_us > 0 for tried in found.tried)
    assert found.quality is not None
    assert 0 < found.quality.kl < 0.1
    assert output.read_text().startswith(before)
    assert "#| build-engine tune on " in output.read_text()


def test_a_wrong_output_is_refused_before_anything_is_built(folder: Path, tmp_path: Path) -> None:
    stages: list[str] = []
    with pytest.raises(RecipeError, match="the recipe would not be the same there"):
        tune_recipe(folder / "tiny.yaml", tmp_path / "n.yaml", Settings(), lambda stage, *_: stages.append(stage))
    assert stages == []
