"""A recipe: one YAML file that says all that a build needs, as a frozen dataclass.

`recipes/README.md` holds the schema as a table. Every error names the file, the line and the key.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forerun_compiler.errors import RecipeError
from forerun_compiler.manifest import EngineTarget, Precision

if TYPE_CHECKING:
    from ruamel.yaml.comments import CommentedMap

FAMILIES = ("dspark",)
PRECISIONS = ("float32",)
ENGINES = (EngineTarget("onnxruntime", "cpu"),)
DEFAULT_CAPACITY, DEFAULT_PREFILL_CHUNK = 2048, 128
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


@dataclass(frozen=True)
class ModelReference:
    """A checkpoint: `model` is a hub name, or the absolute path of a local folder if `is_folder`."""

    model: str
    is_folder: bool


@dataclass(frozen=True)
class DrafterReference(ModelReference):
    """The drafter's checkpoint and its family; "auto" lets the checkpoint's config.json say it."""

    family: str


@dataclass(frozen=True)
class Recipe:
    """All that a build needs. `draft_len` None means the drafter's block size; `prompts` None the built-in ones."""

    name: str
    target: ModelReference
    drafter: DrafterReference
    capacity: int
    draft_len: int | None
    prefill_chunk: int
    precision: Precision
    engines: tuple[EngineTarget, ...]
    prompts: Path | None
    text: str
    path: Path


def load_recipe(path: Path) -> Recipe:
    """Read and check a recipe; relative paths in it are relative to its own folder.

    Raises:
        RecipeError: the file cannot be read, or a key is unknown, missing, of a wrong type or out of range.
    """
    try:
        text = path.read_bytes().decode("utf-8")
    except OSError as error:
        raise RecipeError(
            f"{path}: the recipe cannot be read: {error.strerror}; give the path of a YAML file"
        ) from None
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path}: expected UTF-8 text, found byte {error.object[error.start]:#04x}") from None
    return _parse(text, path)


def _parse(text: str, path: Path) -> Recipe:
    top = _Section(_load_yaml(text, path), path, "")
    top.only("name", "target", "drafter", "capacity", "draft_len", "prefill_chunk", "precision", "engines", "prompts")
    name = top.text("name")
    if not re.fullmatch(r"[\w.-]+", name):
        raise top.error("name", f"expected letters, digits, '.', '_' and '-' only, found {name!r}")
    target = top.section("target")
    target.only("model")
    drafter = top.section("drafter")
    drafter.only("model", "family")
    capacity = top.integer("capacity", 16, 1 << 20) or DEFAULT_CAPACITY
    return Recipe(
        name=name,
        target=ModelReference(*_checkpoint(target)),
        drafter=DrafterReference(*_checkpoint(drafter), drafter.choice("family", ("auto", *FAMILIES), "auto")),
        capacity=capacity,
        draft_len=top.integer("draft_len", 1, 64),
        prefill_chunk=top.integer("prefill_chunk", 1, capacity) or min(DEFAULT_PREFILL_CHUNK, capacity),
        precision=_precision(top),
        engines=_engines(top),
        prompts=_prompts(top),
        text=text,
        path=path,
    )


class _Section:
    """A mapping of the recipe that knows where it stands; every reader below checks one value."""

    def __init__(self, values: CommentedMap, path: Path, prefix: str) -> None:
        self.values, self.path, self.prefix = values, path, prefix

    def error(self, key: str, problem: str) -> RecipeError:
        line = self.values.lc.key(key)[0] if key in self.values else self.values.lc.line
        return RecipeError(f"{self.path}:{line + 1}: {self.prefix}{key}: {problem}")

    def only(self, *known: str) -> None:
        """Refuse a key that does not exist, with the nearest one that does."""
        for key in self.values:
            if key not in known:
                near = difflib.get_close_matches(str(key), known, n=1, cutoff=0.5)
                hint = f"did you mean {near[0]!r}? " if near else ""
                raise self.error(key, f"unknown key; {hint}known here: {', '.join(known)}")

    def text(self, key: str, default: str | None = None) -> str:
        value = self.values.get(key, default)
        if value is None:
            raise self.error(key, "expected text, found nothing; add this key, recipes/README.md describes it")
        if not isinstance(value, str) or not value:
            raise self.error(key, f"expected text, found {_describe(value)}; put the value in quotes")
        return str(value)

    def integer(self, key: str, low: int, high: int) -> int | None:
        value = self.values.get(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.error(key, f"expected a whole number from {low} to {high}, found {_describe(value)}")
        if not low <= value <= high:
            raise self.error(key, f"expected a whole number from {low} to {high}, found {value}")
        return int(value)

    def choice(self, key: str, options: Iterable[str], default: str) -> str:
        value = self.text(key, default)
        if value not in options:
            raise self.error(key, f"{value!r} does not exist in this version; choose one of: {', '.join(options)}")
        return value

    def section(self, key: str) -> _Section:
        value = self.values.get(key)
        if value is None:
            raise self.error(key, "expected a section, found nothing; add it, recipes/README.md describes it")
        return self.nested(key, value, f"{self.prefix}{key}.")

    def nested(self, key: str, value: object, prefix: str) -> _Section:
        from ruamel.yaml.comments import CommentedMap

        if not isinstance(value, CommentedMap):
            raise self.error(key, f"expected a section with keys, found {_describe(value)}")
        return _Section(value, self.path, prefix)


def _load_yaml(text: str, path: Path) -> CommentedMap:
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
        raise RecipeError(f"{path}:1: expected keys such as 'name:' and 'target:', found {_describe(loaded)}")
    return loaded


def _checkpoint(section: _Section) -> tuple[str, bool]:
    """(hub name, False) or (absolute folder, True): a folder that exists wins, as in transformers."""
    given = section.text("model")
    folder = (section.path.parent / given).resolve()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise section.error("model", f"expected a checkpoint with a config.json, found none in {folder}")
        return str(folder), True
    if not _HUB_NAME.fullmatch(given):
        raise section.error("model", f"expected a folder or a hub name such as Qwen/Qwen3-4B, found no folder {folder}")
    return given, False


def _precision(top: _Section) -> Precision:
    if top.values.get("precision") is None:
        return Precision()
    section = top.section("precision")
    parts = ("target", "drafter", "lm_head", "cache")
    section.only(*parts)
    return Precision(*(section.choice(part, PRECISIONS, PRECISIONS[0]) for part in parts))


def _engines(top: _Section) -> tuple[EngineTarget, ...]:
    value = top.values.get("engines")
    if value is None:
        return ENGINES[:1]
    if not isinstance(value, list) or not value:
        raise top.error("engines", f"expected a list of {{backend, device}}, found {_describe(value)}")
    engines: list[EngineTarget] = []
    for index, entry in enumerate(value):
        section = top.nested("engines", entry, f"engines[{index}].")
        section.only("backend", "device")
        backend = section.choice("backend", sorted({engine.backend for engine in ENGINES}), ENGINES[0].backend)
        devices = sorted({engine.device for engine in ENGINES if engine.backend == backend})
        engine = EngineTarget(backend, section.choice("device", devices, devices[0]))
        if engine in engines:
            raise top.error("engines", f"{engine.backend} on {engine.device} is listed twice; remove one")
        engines.append(engine)
    return tuple(engines)


def _prompts(top: _Section) -> Path | None:
    if top.values.get("prompts") is None:
        return None
    path = (top.path.parent / top.text("prompts")).resolve()
    if not path.is_file():
        raise top.error("prompts", f"expected a file with one JSON object a line, found no file {path}")
    return path


def _describe(value: object) -> str:
    if value is None:
        return "nothing"
    kinds = ((bool, "true/false"), (int, "the number"), (float, "the number"), (str, "the text"), (list, "a list"))
    kind = next((name for kind, name in kinds if isinstance(value, kind)), "a section")
    return f"{kind} {value!r}" if isinstance(value, bool | int | float | str) else kind
