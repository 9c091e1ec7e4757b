"""A recipe written back: only the two schemes and the table change, and never over what was not asked for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from forerun_compiler.errors import RecipeError
from forerun_compiler.recipe import Recipe, load_recipe
from forerun_compiler.tuning.tuned_recipe import check_place, tuned_text, write_tuned

TABLE = ("on a machine", "*  drafter  int8")
RECIPE = """\
# What this is.

name: "tiny"                # quoted
target:
  model: ./target
drafter: {model: ./drafter, family: dspark}

precision:                  # of each part
  # why int8
  target: int8              # the user's choice
  drafter: float32
  lm_head: 'int8'

# The rest.
engines:
  - backend: onnxruntime
    device: cpu
capacity: 0x100
"""
TUNED = """\
# What this is.

name: "tiny"                # quoted
target:
  model: ./target
drafter: {model: ./drafter, family: dspark}

precision:                  # of each part
  #| on a machine
  #| *  drafter  int8
  # why int8
  target: int8              # the user's choice
  drafter: int8
  drafter_lm_head: int4
  lm_head: 'int8'

# The rest.
engines:
  - backend: onnxruntime
    device: cpu
capacity: 0x100
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("target", "drafter"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    return tmp_path


def load(folder: Path) -> Recipe:
    return load_recipe(folder / "recipe.yaml")


def test_all_else_stays_as_it_was() -> None:
    assert tuned_text(RECIPE, "int8", "int4", TABLE) == TUNED


def test_a_second_search_replaces_the_first_table() -> None:
    assert tuned_text(tuned_text(RECIPE, "int4", "int8", ("old", "older")), "int8", "int4", TABLE) == TUNED


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("a: 1\n", "a: 1\nprecision:\n  #| T\n  drafter_lm_head: int4\n  drafter: int8\n"),
        (
            "precision: {target: fp8, drafter: int4}  # x\na: 1\n",
            "#| T\nprecision: {target: fp8, drafter_lm_head: int4, drafter: int8} # x\na: 1\n",
        ),
        (
            "precision: int8\na:\n- b\n",
            "precision:\n  #| T\n  target: int8\n  drafter: int8\n  drafter_lm_head: int4\n  lm_head: int8\na:\n- b\n",
        ),
        (
            "precision:\n  target: fp8\n\na: 1\n",
            "precision:\n  #| T\n  drafter: int8\n  drafter_lm_head: int4\n  target: fp8\n\na: 1\n",
        ),
        (
            "precision:\n  drafter_lm_head: fp8\n  drafter: fp8\na: 1\n",
            "precision:\n  #| T\n  drafter_lm_head: int4\n  drafter: int8\na: 1\n",
        ),
    ],
    ids=["no section", "one line", "one scheme", "no drafter", "both"],
)
def test_every_form_of_the_section(before: str, after: str) -> None:
    assert tuned_text(before, "int8", "int4", ("T",)) == after


def test_it_is_written_beside_the_recipe(folder: Path) -> None:
    recipe, output = load(folder), folder / "tuned.yaml"
    check_place(recipe, output)
    assert not output.exists()
    written = write_tuned(recipe, "int8", "int4", TABLE, output)
    assert output.read_text() == TUNED
    assert load_recipe(output) == written
    assert (written.precision.drafter, written.precision.drafter_lm_head) == ("int8", "int4")
    assert replace(written, precision=recipe.precision, text=recipe.text, path=recipe.path) == recipe
    assert (folder / "recipe.yaml").read_text() == RECIPE
    assert sorted(path.name for path in folder.iterdir()) == ["drafter", "recipe.yaml", "target", "tuned.yaml"]


def test_it_may_replace_the_recipe_itself_but_not_what_was_edited_meanwhile(folder: Path) -> None:
    recipe = load(folder)
    write_tuned(recipe, "int8", "int4", TABLE, recipe.path)
    assert recipe.path.read_text() == TUNED
    with pytest.raises(RecipeError, match="the recipe was edited while it was measured"):
        write_tuned(recipe, "int4", "int4", TABLE, folder / "." / "recipe.yaml")
    assert recipe.path.read_text() == TUNED


def test_a_place_where_its_paths_lead_nowhere(folder: Path) -> None:
    (folder / "elsewhere").mkdir()
    output = folder / "elsewhere" / "tuned.yaml"
    with pytest.raises(RecipeError, match="the recipe would not be the same there") as caught:
        check_place(load(folder), output)
    assert f"so write it into {folder}" in str(caught.value)
    assert list(output.parent.iterdir()) == []


def test_a_place_where_its_paths_lead_to_another_model(folder: Path) -> None:
    for name in ("target", "drafter"):
        (folder / "elsewhere" / name).mkdir(parents=True)
        (folder / "elsewhere" / name / "config.json").write_text("{}")
    with pytest.raises(RecipeError, match="a path in it leads to another file from there"):
        check_place(load(folder), folder / "elsewhere" / "tuned.yaml")


def test_a_file_that_is_no_recipe_is_kept(folder: Path) -> None:
    other = folder / "notes.txt"
    other.write_text("precious")
    with pytest.raises(RecipeError, match=r"notes\.txt: expected nothing or an earlier recipe, found something else"):
        check_place(load(folder), other)
    assert other.read_text() == "precious"


def test_a_folder_that_is_not_there(folder: Path) -> None:
    with pytest.raises(RecipeError, match=r"tuned\.yaml: the recipe cannot be written: No such file or directory"):
        check_place(load(folder), folder / "gone" / "tuned.yaml")
