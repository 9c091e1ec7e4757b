"""The bundles that a comparison of schemes opens: one for each candidate of a pair, built where they are missing."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import inflate
from scheme_recipes import CANDIDATES, Candidate, PairFiles, recipe_text

from forerun_compiler.build import write_compiled
from forerun_compiler.bundle import Manifest, check_bundle
from forerun_compiler.compilation import RecipeCompiler
from forerun_compiler.drafters.dspark_checkpoint import parse_config
from forerun_compiler.errors import BundleError, ResourceError
from forerun_compiler.on_progress import OnProgress
from forerun_compiler.precision_map import read_precision_map
from forerun_compiler.prompts import FILE_NAME, read_prompts
from forerun_compiler.recipe import load_recipe
from forerun_compiler.resources import in_gib, this_machine

PAIRS = ("demo", *inflate.SIZES)
WEIGHTS = "weights.bin"
_OPEN_BYTES = 2.3
"""Bytes of memory a byte of weights: the round and the plain graph each pack their own copy, and have caches."""


@dataclass(frozen=True)
class Bundle:
    """A built candidate."""

    candidate: Candidate
    folder: Path
    manifest: Manifest

    @property
    def name(self) -> str:
        return self.candidate.name

    @property
    def weight_bytes(self) -> int:
        """As the scheme stores them, also where this processor only emulates it."""
        return sum(row.bytes for row in read_precision_map(self.folder))

    @property
    def file_bytes(self) -> int:
        return self.manifest.files[WEIGHTS].size


def prepare_pair(pair: str, work: Path) -> Path:
    """The folder with a recipe for each candidate; an inflated pair is made there if it is not there yet."""
    folder = work / pair
    if pair in inflate.SIZES:
        if not inflate.is_made(pair, folder):
            inflate.inflate_demo(pair, folder)
        inflate.write_recipes(f"inflated-{pair}", folder, all_schemes=True)
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    target, drafter, prompts = (
        os.path.relpath(inflate.DEMO / name, folder) for name in ("target", "drafter", "prompts.jsonl")
    )
    files = PairFiles("demo", target, drafter, prompts, inflate.CAPACITY)
    for candidate in CANDIDATES.values():
        (folder / f"{candidate.name}.yaml").write_text(recipe_text(files, candidate))
    return folder


class PairBuilder:
    """Builds the candidates of one pair, whose recipes differ in precision and kernels only: traced once for all."""

    def __init__(self, recipes: Path, on_progress: OnProgress) -> None:
        self._recipes, self._on_progress = recipes, on_progress
        self._compiler: RecipeCompiler | None = None

    def build(self, candidate: Candidate, folder: Path, keep: bool) -> Bundle:
        """The candidate's bundle; with `keep` one of the same recipe that is there already, whatever built it."""
        recipe = load_recipe(self._recipes / f"{candidate.name}.yaml")
        if keep and (folder / "manifest.json").is_file():
            manifest = check_bundle(folder)
            if manifest.recipe == recipe.text:
                return Bundle(candidate, folder, manifest)
        if self._compiler is None:
            self._compiler = RecipeCompiler(recipe, None, self._on_progress)
        self._on_progress(f"build {candidate.name}", 0, 0)
        return Bundle(candidate, folder, write_compiled(recipe, self._compiler.compile(recipe, _quiet), folder, _quiet))


def _quiet(stage: str, done: int, total: int) -> None:
    pass


def count_parameters(pair: str) -> tuple[int, int]:
    """Parameters of the pair's target and drafter."""
    target, drafter = (json.loads((inflate.DEMO / side / "config.json").read_text()) for side in ("target", "drafter"))
    size = inflate.SIZES.get(pair, inflate.size_of(target))
    return inflate.count_target(target, size), inflate.count_drafter(parse_config(drafter, "the demo's drafter"), size)


def held_out_tokens(folder: Path, prompts: int, quality_tokens: int) -> tuple[list[list[int]], list[list[int]]]:
    """(prompts to continue, texts to measure quality on): tokens of the bundle's held-out pieces, from its front."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    pieces = [tokenizer.encode(text).ids for text in read_prompts(folder / FILE_NAME, BundleError)]
    texts: list[list[int]] = []
    left = quality_tokens
    for piece in pieces:
        if left > 1:
            texts.append(piece[:left])
            left -= len(texts[-1])
    return pieces[:prompts], texts


def check_memory(bundles: Sequence[Bundle], work: Path) -> None:
    """Refuse to open more at once than fits.

    Raises:
        ResourceError: says how much is needed and what to leave out.
    """
    need = int(_OPEN_BYTES * sum(bundle.file_bytes for bundle in bundles))
    free = this_machine(work).ram
    if need > free:
        raise ResourceError(
            f"the timed bundles, open at once, need {in_gib(need)} of memory, {in_gib(free)} are available; "
            "name fewer with --schemes, or measure on a larger machine"
        )
