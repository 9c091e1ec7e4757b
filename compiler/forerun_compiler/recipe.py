"""A recipe: one YAML file that says all that a build needs, as a frozen dataclass.

`recipes/README.md` holds the schema as a table. Every error names the file, the line and the key.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import cast, get_args

from forerun_compiler.errors import RecipeError
from forerun_compiler.manifest import EngineTarget, Precision
from forerun_compiler.recipe_engines import describe, read_engines
from forerun_compiler.recipe_precision import read_precision
from forerun_compiler.recipe_section import Section, load_yaml
from forerun_compiler.schemes import ONNXRUNTIME, RangeMethod, Rounding

FAMILIES = ("dspark",)
DEFAULT_CAPACITY, DEFAULT_PREFILL_CHUNK, DEFAULT_CALIBRATION_TOKENS = 2048, 128, 2048
_KEYS = ("name", "target", "drafter", "capacity", "draft_len", "prefill_chunk")
_OPTIONAL = ("verify_widths", "prompt_lookup", "precision", "calibration", "engines", "prompts")
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
class CalibrationChoice:
    """Text to measure on (None: the shipped one), the method for ranges of activations, and how many tokens are read.

    `rounding` is that of int4 weights: to the nearest, or with errors that make up for each other on that text.
    """

    prompts: Path | None = None
    method: RangeMethod = "mse"
    tokens: int = DEFAULT_CALIBRATION_TOKENS
    rounding: Rounding = "compensated"


@dataclass(frozen=True)
class PromptLookup:
    """Drafts of up to `draft_len` tokens copied from the text, where its last `match_len` tokens occurred before."""

    draft_len: int = 15
    match_len: int = 4


@dataclass(frozen=True)
class Recipe:
    """All that a build needs. `draft_len` None means the drafter's block size; `prompts` None the built-in ones.

    `verify_widths` None lets the build choose; `prompt_lookup` None leaves drafting to the drafter alone.
    `override_lines` are the lines of `precision.overrides`, for messages; those of each engine's own stand apart.
    """

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
    calibration: CalibrationChoice = CalibrationChoice()
    override_lines: tuple[int, ...] = ()
    engine_override_lines: tuple[tuple[int, ...], ...] = ()
    verify_widths: tuple[int, ...] | None = None
    prompt_lookup: PromptLookup | None = None


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
    top = Section(load_yaml(text, path), path, "")
    top.only(*_KEYS, *_OPTIONAL)
    name = top.text("name")
    if not re.fullmatch(r"[\w.-]+", name):
        raise top.error("name", f"expected letters, digits, '.', '_' and '-' only, found {name!r}")
    target = top.section("target")
    target.only("model")
    drafter = top.section("drafter")
    drafter.only("model", "family")
    capacity = top.integer("capacity", 16, 1 << 20) or DEFAULT_CAPACITY
    engines, engine_override_lines = read_engines(top)
    precision, override_lines = read_precision(top, tuple(engine for engine in engines if engine.precision is None))
    return Recipe(
        name=name,
        target=ModelReference(*_checkpoint(target)),
        drafter=DrafterReference(*_checkpoint(drafter), drafter.choice("family", ("auto", *FAMILIES), "auto")),
        capacity=capacity,
        draft_len=top.integer("draft_len", 1, 64),
        prefill_chunk=top.integer("prefill_chunk", 1, capacity) or min(DEFAULT_PREFILL_CHUNK, capacity),
        precision=precision,
        engines=engines,
        prompts=_file(top, "prompts"),
        text=text,
        path=path,
        calibration=_calibration(top),
        override_lines=override_lines,
        engine_override_lines=engine_override_lines,
        verify_widths=_widths(top),
        prompt_lookup=_prompt_lookup(top, engines),
    )


def _checkpoint(section: Section) -> tuple[str, bool]:
    """(hub name, False) or (absolute folder, True): a folder that exists wins, as in transformers."""
    given = section.text("model")
    folder = (section.path.parent / given).resolve()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise section.error("model", f"expected a checkpoint with a config.json, found none in {folder}")
        return str(folder), True
    if not _HUB_NAME.fullmatch(given):
        raise section.error(
            "model",
            f"expected a folder or a hub name such as Qwen/Qwen3-4B, found no folder {folder}; correct the path, or "
            "make or download the checkpoint first: the first lines of a recipe may say how",
        )
    return given, False


def _widths(top: Section) -> tuple[int, ...] | None:
    """Ascending from 2; what the last one has to be is known once the drafter is."""
    widths = top.integers("verify_widths", "[2, 4, 8]")
    if widths is not None and (not widths or widths[0] < 2 or any(a >= b for a, b in pairwise(widths))):
        raise top.error("verify_widths", f"expected widths that ascend from 2 or more, found {list(widths)}")
    return widths


def _prompt_lookup(top: Section, engines: tuple[EngineTarget, ...]) -> PromptLookup | None:
    if "prompt_lookup" not in top.values:
        return None
    if top.values["prompt_lookup"] is None:
        raise top.error("prompt_lookup", "expected a section, found nothing; write {} for its defaults, or remove it")
    section = top.section("prompt_lookup")
    section.only("draft_len", "match_len")
    on_gpu = next((engine for engine in engines if engine.backend != ONNXRUNTIME), None)
    if on_gpu is not None:
        raise top.error(
            "prompt_lookup",
            f"{describe(on_gpu)} has no prompt lookup: its rounds keep their draft tokens on the device; remove this "
            "section or that engine",
        )
    return PromptLookup(
        draft_len=section.integer("draft_len", 1, 63) or PromptLookup.draft_len,
        match_len=section.integer("match_len", 1, 16) or PromptLookup.match_len,
    )


def _calibration(top: Section) -> CalibrationChoice:
    if top.values.get("calibration") is None:
        return CalibrationChoice()
    section = top.section("calibration")
    section.only("prompts", "method", "tokens", "rounding")
    return CalibrationChoice(
        prompts=_file(section, "prompts"),
        method=cast(RangeMethod, section.choice("method", get_args(RangeMethod), CalibrationChoice().method)),
        tokens=section.integer("tokens", 16, 1 << 20) or DEFAULT_CALIBRATION_TOKENS,
        rounding=cast(Rounding, section.choice("rounding", get_args(Rounding), CalibrationChoice().rounding)),
    )


def _file(section: Section, key: str) -> Path | None:
    if section.values.get(key) is None:
        return None
    path = (section.path.parent / section.text(key)).resolve()
    if not path.is_file():
        raise section.error(key, f"expected a file with one JSON object a line, found no file {path}")
    return path
