"""A section of a recipe that knows where it stands: every reader checks one value and names file, line and key."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forerun_compiler.errors import RecipeError

if TYPE_CHECKING:
    from ruamel.yaml.comments import CommentedMap


class Section:
    """A mapping of the recipe that knows where it stands; every reader below checks one value."""

    def __init__(self, values: CommentedMap, path: Path, prefix: str) -> None:
        self.values, self.path, self.prefix = values, path, prefix

    def line(self, key: str) -> int:
        """The line of a key, or where its section begins; the first line is 1."""
        found = self.values.lc.key(key)[0] if key in self.values else self.values.lc.line
        return int(found) + 1

    def error(self, key: str, problem: str) -> RecipeError:
        """An error at the line of a key."""
        return RecipeError(f"{self.path}:{self.line(key)}: {self.prefix}{key}: {problem}")

    def only(self, *known: str) -> None:
        """Refuse a key that does not exist, with the nearest one that does."""
        for key in self.values:
            if key not in known:
                near = difflib.get_close_matches(str(key), known, n=1, cutoff=0.5)
                hint = f"did you mean {near[0]!r}? " if near else ""
                raise self.error(key, f"unknown key; {hint}known here: {', '.join(known)}")

    def text(self, key: str, default: str | None = None) -> str:
        """Text that is not empty."""
        value = self.values.get(key, default)
        if value is None:
            raise self.error(key, "expected text, found nothing; add this key, recipes/README.md describes it")
        if not isinstance(value, str) or not value:
            raise self.error(key, f"expected text, found {describe(value)}; put the value in quotes")
        return str(value)

    def integer(self, key: str, low: int, high: int) -> int | None:
        """A whole number in a range; None when absent."""
        value = self.values.get(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.error(key, f"expected a whole number from {low} to {high}, found {describe(value)}")
        if not low <= value <= high:
            raise self.error(key, f"expected a whole number from {low} to {high}, found {value}")
        return int(value)

    def integers(self, key: str, example: str) -> tuple[int, ...] | None:
        """A list of whole numbers; None when absent."""
        value = self.values.get(key)
        if value is None:
            return None
        if not isinstance(value, list) or any(isinstance(entry, bool) or not isinstance(entry, int) for entry in value):
            raise self.error(key, f"expected a list of whole numbers such as {example}, found {describe(value)}")
        return tuple(int(entry) for entry in value)

    def choice(self, key: str, options: Iterable[str], default: str | None) -> str:
        """One of some names; without a default the key must be there."""
        value = self.text(key, default)
        if value not in options:
            raise self.error(key, f"{value!r} does not exist in this version; choose one of: {', '.join(options)}")
        return value

    def section(self, key: str) -> Section:
        """A section that must be there."""
        value = self.values.get(key)
        if value is None:
            raise self.error(key, "expected a section, found nothing; add it, recipes/README.md describes it")
        return self.nested(key, value, f"{self.prefix}{key}.")

    def flag(self, key: str) -> bool:
        """True or false; false when absent."""
        value = self.values.get(key, False)
        if not isinstance(value, bool):
            raise self.error(key, f"expected true or false, found {describe(value)}")
        return value

    def texts(self, key: str, example: str) -> tuple[str, ...]:
        """A list of texts, at least one."""
        value = self.values.get(key)
        if not isinstance(value, list) or not value:
            raise self.error(key, f"expected a list of texts such as {example}, found {describe(value)}")
        for entry in value:
            if not isinstance(entry, str):
                raise self.error(key, f"expected texts such as {example}, found {describe(entry)}; put it in quotes")
        return tuple(str(entry) for entry in value)

    def entries(self, key: str, shape: str) -> list[Section]:
        """The sections of a list; none when the key is absent. `shape` shows one entry in messages."""
        value = self.values.get(key)
        if value is not None and not isinstance(value, list):
            raise self.error(key, f"expected a list of {shape}, found {describe(value)}")
        return [self.nested(key, entry, f"{self.prefix}{key}[{i}].") for i, entry in enumerate(value or [])]

    def nested(self, key: str, value: object, prefix: str) -> Section:
        """A value of this section, or an entry of a list in it, as a section."""
        from ruamel.yaml.comments import CommentedMap

        if not isinstance(value, CommentedMap):
            raise self.error(key, f"expected a section with keys, found {describe(value)}")
        return Section(value, self.path, prefix)


def load_yaml(text: str, path: Path) -> CommentedMap:
    """Parse YAML that must be a mapping.

    Raises:
        RecipeError: with the line, where the parser knows it.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.comments import CommentedMap
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    try:
        loaded: Any = YAML(typ="rt").load(text)
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        problem = str(error.problem or error.context).splitlines()[0]
        raise RecipeError(f"{path}:{line}: this is not YAML: {problem}") from None
    except YAMLError as error:
        raise RecipeError(f"{path}: this is not YAML: {str(error).splitlines()[0]}") from None
    if not isinstance(loaded, CommentedMap):
        raise RecipeError(f"{path}:1: expected keys such as 'name:' and 'target:', found {describe(loaded)}")
    return loaded


def describe(value: object) -> str:
    """A found value for messages."""
    if value is None:
        return "nothing"
    kinds = ((bool, "true/false"), (int, "the number"), (float, "the number"), (str, "the text"), (list, "a list"))
    kind = next((name for kind, name in kinds if isinstance(value, kind)), "a section")
    return f"{kind} {value!r}" if isinstance(value, bool | int | float | str) else kind
