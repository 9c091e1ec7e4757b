"""A recipe with another drafter precision: comments and order as they were, and what was measured above them."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forerun_compiler.errors import RecipeError
from forerun_compiler.recipe import Recipe, load_recipe

if TYPE_CHECKING:
    from ruamel.yaml import YAML

MARK = "#| "
"""Begins each line of the measurement; an earlier one is replaced by it."""
_SECTION = re.compile(r"precision\s*:")


def check_place(recipe: Recipe, output: Path) -> None:
    """Refuse, before anything is measured, an output that cannot hold the recipe.

    Raises:
        RecipeError: a file that is no recipe is there, or the recipe's relative paths lead elsewhere from there.
    """
    if output.exists():
        try:
            load_recipe(output)
        except RecipeError as error:
            raise RecipeError(
                f"{output}: expected nothing or an earlier recipe, found something else that would be lost ({error}); "
                "choose another output"
            ) from None
    _write(recipe, recipe.text, output, keep=False)


def write_tuned(recipe: Recipe, drafter: str, drafter_lm_head: str, table: Sequence[str], output: Path) -> Recipe:
    """Write the recipe with these two schemes and the lines of `table` as a comment, in one step; returns it.

    Raises:
        RecipeError: the recipe was edited since it was read, or `output` cannot be written.
    """
    if output.resolve() == recipe.path.resolve() and load_recipe(output).text != recipe.text:
        raise RecipeError(f"{output}: the recipe was edited while it was measured; write to another file with -o")
    found = _write(recipe, tuned_text(recipe.text, drafter, drafter_lm_head, table), output, keep=True)
    assert (found.precision.drafter, found.precision.drafter_lm_head) == (drafter, drafter_lm_head)
    return found


def tuned_text(text: str, drafter: str, drafter_lm_head: str, table: Sequence[str]) -> str:
    """The recipe's text with the two schemes set and `table` at the top of its precision section."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith(MARK.rstrip())]
    yaml = _yaml(lines)
    loaded = yaml.load("\n".join(lines) + "\n")
    _set_schemes(loaded, drafter, drafter_lm_head)
    stream = io.StringIO()
    yaml.dump(loaded, stream)
    return _with_table(stream.getvalue().splitlines(), table)


def _yaml(lines: Sequence[str]) -> YAML:
    """A round-trip reader and writer that indents lists as the text does."""
    from ruamel.yaml import YAML

    yaml = YAML(typ="rt")
    yaml.preserve_quotes = True
    yaml.width = 1 << 16
    if any(re.match(r" +- ", line) for line in lines):
        yaml.indent(mapping=2, sequence=4, offset=2)
    return yaml


def _set_schemes(loaded: Any, drafter: str, drafter_lm_head: str) -> None:
    from ruamel.yaml.comments import CommentedMap

    section = loaded.get("precision")
    if isinstance(section, str):  # one scheme for all parts
        section = CommentedMap({"target": section, "drafter": section, "lm_head": section})
        loaded["precision"] = section
    elif section is None:
        loaded["precision"] = section = CommentedMap()
    if "drafter" not in section:
        section.insert(0, "drafter", drafter)
    section["drafter"] = drafter
    if "drafter_lm_head" not in section:
        # Never as the last key: what follows the section, an empty line at least, is bound to the key before it.
        place = list(section).index("drafter")
        section.insert(place if len(section) == place + 1 else place + 1, "drafter_lm_head", drafter_lm_head)
    section["drafter_lm_head"] = drafter_lm_head


def _with_table(lines: list[str], table: Sequence[str]) -> str:
    """Below `precision:`, or above it if its keys stand on the same line."""
    place = next(number for number, line in enumerate(lines) if _SECTION.match(line))
    same_line = lines[place].partition(":")[2].partition(" #")[0].strip()
    indent, at = ("", place) if same_line else ("  ", place + 1)
    lines[at:at] = [f"{indent}{MARK}{line}".rstrip() for line in table]
    return "\n".join(lines) + "\n"


def _write(recipe: Recipe, text: str, output: Path, keep: bool) -> Recipe:
    """Write through a file beside the output and read that back: what a later build reads must be this recipe."""
    temporary = output.with_name(f".{output.name}.forerun")
    try:
        temporary.write_text(text, encoding="utf-8")
        try:
            found = load_recipe(temporary)
        except RecipeError as error:
            raise _misplaced(recipe, output, str(error)) from None
        expected = replace(found, precision=recipe.precision, override_lines=recipe.override_lines)
        if replace(expected, text=recipe.text, path=recipe.path) != recipe:
            raise _misplaced(recipe, output, "a path in it leads to another file from there")
        if keep:
            temporary.replace(output)
    except OSError as error:
        raise RecipeError(f"{output}: the recipe cannot be written: {error.strerror}; choose another output") from None
    finally:
        temporary.unlink(missing_ok=True)
    return replace(found, path=output)


def _misplaced(recipe: Recipe, output: Path, problem: str) -> RecipeError:
    return RecipeError(
        f"{output}: the recipe would not be the same there: {problem}; its paths are relative to its own folder, "
        f"so write it into {recipe.path.parent}"
    )
