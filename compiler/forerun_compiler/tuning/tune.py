"""The drafter's precision, chosen by speed: every candidate is built and decodes the same prompts in turn.

The drafter's scheme changes speed only, for verification keeps the target's distribution; so it is chosen by measured
tokens per second, acceptance and time together. The target's scheme is the user's: its cost in quality is measured and
left alone. The search goes along coordinates: first the drafter's layers with the recipe's LM head, then the LM head as
the drafter multiplies with it, given the best drafter. Schemes that gain only together are not found.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from forerun.machine import Machine, describe_machine
from forerun_compiler.bundle import read_manifest
from forerun_compiler.errors import ResourceError
from forerun_compiler.manifest import EngineTarget, Precision
from forerun_compiler.on_progress import OnProgress
from forerun_compiler.prompts import BUILT_IN, read_prompts
from forerun_compiler.proof.own_target import target_schemes
from forerun_compiler.proof.quality import Quality, measure_quality
from forerun_compiler.recipe import Recipe
from forerun_compiler.resources import estimate, in_gib, this_machine
from forerun_compiler.schemes import SCHEMES
from forerun_compiler.tuning.take_turns import Engine, decode_in_turn

OpenEngine = Callable[[Path, int | None], Engine]
QUALITY_TOKENS = 256  # at most, of each prompt


@dataclass(frozen=True)
class Settings:
    """What every candidate decodes, greedily: so many tokens for each of so many prompts."""

    prompts: int = 8
    tokens: int = 64
    threads: int | None = None


@dataclass(frozen=True)
class Candidate:
    """The schemes of the drafter's layers and of the LM head as the drafter multiplies with it."""

    drafter: str
    drafter_lm_head: str


@dataclass(frozen=True)
class Tried:
    """One candidate as measured; those of one `step` took turns and can be compared.

    `tokens_per_s` follows from the acceptance length over all rounds and the median time of a round, so that a round
    which the machine interrupted does not count.
    """

    step: str
    drafter: str
    drafter_lm_head: str
    acceptance_length: float
    round_us: float
    tokens_per_s: float


@dataclass(frozen=True)
class Tuning:
    """What a search found. `quality` is the target's against its float32 self, None if it is float32.

    `held_out` is false if the activation ranges were calibrated on the very text that the quality was measured on.
    """

    machine: Machine
    tried: tuple[Tried, ...]
    chosen: Candidate
    target: str
    lm_head: str
    quality: Quality | None
    held_out: bool
    prompts: int
    tokens: int


class Workshop(Protocol):
    """Builds bundles of one recipe that differ in their precision alone."""

    def build(self, precision: Precision, folder: Path) -> None:
        """Write the bundle to the new folder `folder`."""


@dataclass(frozen=True)
class Tools:
    """What a search works with: who builds the candidates, who opens them, and who is told."""

    workshop: Workshop
    open_engine: OpenEngine
    on_progress: OnProgress


def tune(recipe: Recipe, settings: Settings, tools: Tools) -> Tuning:
    """Search the precision of the recipe's drafter on this machine.

    Candidates lie in a temporary folder that is gone at the end.

    Raises:
        ResourceError: the candidates need more disk space or memory than there is.
        BundleError: the prompts give nothing to measure.
        ForerunError: a candidate cannot be built; of the class that belongs to the stage that failed.
    """
    texts = read_prompts(recipe.prompts) if recipe.prompts else BUILT_IN
    current = Candidate(recipe.precision.drafter, recipe.precision.drafter_lm_head)
    schemes = candidates(current.drafter, recipe.engines)
    with tempfile.TemporaryDirectory(prefix="forerun-tune-") as scratch:
        _check_room(recipe, len(schemes) + 1, Path(scratch))
        search = _Search(recipe, settings, tools, texts, Path(scratch))
        first = search.measure("drafter", [replace(current, drafter=scheme) for scheme in schemes])
        best = fastest(first)
        schemes = candidates(best.drafter_lm_head, recipe.engines)
        second = search.measure("LM head", [replace(best, drafter_lm_head=scheme) for scheme in schemes])
        chosen = fastest(second)
        return Tuning(
            machine=search.machine(),
            tried=(*first, *second),
            chosen=chosen,
            target=recipe.precision.target,
            lm_head=recipe.precision.lm_head,
            quality=search.quality(chosen),
            held_out=recipe.calibration.prompts is None or recipe.calibration.prompts != recipe.prompts,
            prompts=min(settings.prompts, len(texts)),
            tokens=settings.tokens,
        )


def candidates(current: str, engines: Sequence[EngineTarget]) -> tuple[str, ...]:
    """The recipe's own scheme, then every other that all its engines have kernels for."""
    able = (name for name, scheme in SCHEMES.items() if all(engine.backend in scheme.runs_on for engine in engines))
    return (current, *(name for name in able if name != current))


def fastest(tried: Sequence[Tried]) -> Candidate:
    """The candidate of most tokens per second; of equals the first, which is the recipe's own."""
    best = max(tried, key=lambda entry: entry.tokens_per_s)
    return Candidate(best.drafter, best.drafter_lm_head)


class _Search:
    """The candidates' bundles in a scratch folder, each built once, and what is measured on them."""

    def __init__(self, recipe: Recipe, settings: Settings, tools: Tools, texts: Sequence[str], scratch: Path) -> None:
        self._recipe, self._settings, self._tools = recipe, settings, tools
        self._texts, self._scratch = texts, scratch
        self._built: dict[Precision, Path] = {}
        self._count = 0
        self._machine: Machine | None = None

    def measure(self, step: str, chosen: Sequence[Candidate]) -> list[Tried]:
        """Build the candidates and let them take turns; bundles of earlier steps that are not among them go."""
        wanted = [self._precision(candidate) for candidate in chosen]
        self._keep(wanted)
        for done, precision in enumerate(wanted):
            self._tools.on_progress(f"build candidates: {step}", done, len(wanted))
            self._folder(precision)
        with ExitStack() as opened:
            engines = []
            for precision in wanted:
                engine = self._tools.open_engine(self._folder(precision), self._settings.threads)
                opened.callback(engine.close)
                engines.append(engine)
            self._machine = describe_machine(engines[0].facts)
            figures = decode_in_turn(
                engines,
                self._texts[: self._settings.prompts],
                self._settings.tokens,
                lambda done, total: self._tools.on_progress(f"measure: {step}", done, total),
            )
        rows = []
        for candidate, found in zip(chosen, figures, strict=True):
            rate = found.acceptance_length / found.round_us * 1e6
            names = (candidate.drafter, candidate.drafter_lm_head)
            rows.append(Tried(step, *names, found.acceptance_length, found.round_us, rate))
        return rows

    def machine(self) -> Machine:
        """The machine that everything was measured on."""
        assert self._machine is not None
        return self._machine

    def quality(self, chosen: Candidate) -> Quality | None:
        """The target's quality against float32 on the prompts; None if it is float32."""
        precision = self._precision(chosen)
        folder = self._folder(precision)
        if not target_schemes(folder, read_manifest(folder)):
            return None
        self._keep([precision])
        self._tools.on_progress("build the float32 reference", 0, 1)
        reference = self._folder(Precision(cache=precision.cache))
        engine = self._tools.open_engine(folder, self._settings.threads)
        texts = [engine.encode(text)[:QUALITY_TOKENS] for text in self._texts]
        threads = engine.facts.threads
        engine.close()
        return measure_quality(folder, reference, texts, self._tools.on_progress, threads)

    def _precision(self, candidate: Candidate) -> Precision:
        return replace(self._recipe.precision, drafter=candidate.drafter, drafter_lm_head=candidate.drafter_lm_head)

    def _folder(self, precision: Precision) -> Path:
        if precision not in self._built:
            self._count += 1
            folder = self._scratch / f"candidate-{self._count}"
            self._tools.workshop.build(precision, folder)
            self._built[precision] = folder
        return self._built[precision]

    def _keep(self, wanted: Sequence[Precision]) -> None:
        for precision in set(self._built) - set(wanted):
            shutil.rmtree(self._built.pop(precision))


def _check_room(recipe: Recipe, bundles: int, scratch: Path) -> None:
    """Candidates of one step lie on the disk together, and are open together.

    Some are quantized, even if the recipe is not: they need a calibration.
    """
    needs = estimate(replace(recipe, precision=replace(recipe.precision, drafter="int8")))
    machine = this_machine(scratch)
    disk, ram = bundles * needs.disk, needs.ram + (bundles - 1) * needs.disk
    if disk > machine.disk:
        raise ResourceError(
            f"{scratch.parent}: the {bundles} bundles of a search need about {in_gib(disk)} of disk space, "
            f"{in_gib(machine.disk)} are free there; free some space, or set TMPDIR to another folder"
        )
    if ram > machine.ram:
        raise ResourceError(
            f"a search needs about {in_gib(ram)} of memory, as its candidates are open at once; {in_gib(machine.ram)} "
            "are available: end other programs or use a larger machine"
        )
