"""How fast a bundle generates on this machine: plain and speculative decoding of the same prompts, taken in turn.

What rounds cost is measured first, and the speculative generations are planned by it.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from forerun.costs import Costs
from forerun.machine import Machine, describe_machine
from forerun_compiler.bundle import CostRow, check_bundle, update_manifest
from forerun_compiler.errors import BundleError
from forerun_compiler.on_progress import OnProgress
from forerun_compiler.prompts import FILE_NAME as PROMPTS
from forerun_compiler.prompts import read_prompts
from forerun_compiler.round_cost import TOKENS, measure_costs


@dataclass(frozen=True)
class Settings:
    """What is generated: so many tokens for each of so many prompts, at this temperature.

    Without `planning` every draft is verified, and what was looked up before the drafter's.
    """

    prompts: int = 16
    tokens: int = 128
    temperature: float = 0.0
    seed: int = 0
    threads: int | None = None
    device: str = "cpu"
    planning: bool = True


@dataclass(frozen=True)
class PlainFigures:
    """Plain decoding; `round_us` is the median time of one token."""

    tokens_per_s: float
    round_us: float


@dataclass(frozen=True)
class SpeculativeFigures:
    """Speculative decoding; times are medians over rounds, acceptance is counted over all of them.

    `verified_width` is the mean of the rounds that verified drafts, `plain_share` that of rounds without a draft,
    `looked_up_share` that of rounds whose draft was looked up, of which `looked_up_accepted` were kept (mean).
    """

    tokens_per_s: float
    acceptance_length: float
    acceptance_per_position: tuple[float, ...]
    verified_width: float
    plain_share: float
    looked_up_share: float
    looked_up_accepted: float
    round_us: float
    session_us: float
    loop_us: float


@dataclass(frozen=True)
class Bench:
    """The result of `build-engine bench`. Rates and `speedup` are medians over prompts; reading them is not counted."""

    plain: PlainFigures
    speculative: SpeculativeFigures
    plain_cost_us: float
    verify_cost_us: dict[str, float]
    planning: bool
    speedup: float
    machine: Machine
    prompts: int
    tokens: int
    temperature: float
    seed: int


@dataclass(frozen=True)
class _Run:
    """The decode rounds of one generation."""

    rounds: tuple[Any, ...]

    @property
    def committed(self) -> int:
        return sum(len(finished.committed) for finished in self.rounds)

    @property
    def tokens_per_s(self) -> float:
        time_us = sum(_round_us(finished) for finished in self.rounds)
        return self.committed / time_us * 1e6


class Engine(Protocol):
    """The part of `forerun.Engine` that a measurement uses."""

    @property
    def facts(self) -> Any:
        """With draft_len, verify_widths, capacity, threads, backend and backend_version."""

    @property
    def device(self) -> Any:
        """With device and gpu: what runs the bundle."""

    def encode(self, text: str) -> list[int]:
        """Token ids of a text."""

    def set_costs(self, costs: Costs | None) -> None:
        """Plan the next generations by these."""

    def rounds(
        self,
        prompt: Sequence[int],
        *,
        max_new_tokens: int,
        temperature: float,
        seed: int,
        decoding: Any,
        draft_len: int | None,
        planning: bool,
        lookup: bool,
    ) -> Iterable[Any]:
        """One generation, round by round."""


def bench_bundle(
    folder: Path,
    settings: Settings,
    save: bool,
    on_progress: OnProgress,
    on_device: Callable[[Any], None] = lambda choice: None,
) -> Bench:
    """Measure the bundle in `folder`; with `save` the cost table of this machine is written into its manifest.

    `on_device` gets the runtime's choice of a device before anything runs on it.

    Raises:
        BundleError: the bundle is damaged, or no prompt gives two tokens.
        EngineError: the execution library refuses a graph.
    """
    manifest = check_bundle(folder)
    texts = read_prompts(folder / PROMPTS, BundleError)[: settings.prompts]
    with _open_engine(folder, settings) as engine:
        on_device(engine.device)
        machine = describe_machine(engine.facts, engine.device)
        prompts = _prompts(engine, texts, settings)
        found = measure_costs(engine, prompts, settings.temperature, on_progress)
        engine.set_costs(Costs(found.plain_us, tuple(found.round_us.values())))
        pairs = _decode(engine, prompts, settings, on_progress)
    if not pairs:
        raise BundleError(f"{folder / PROMPTS}: no prompt gives more than one token, so there is nothing to measure")
    plain, speculative = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    cost = CostRow(machine.fingerprint, found.plain_us, {str(width): time for width, time in found.round_us.items()})
    if save:
        update_manifest(folder, lambda current: replace(current, cost=_replaced(current.cost, cost)))
    return Bench(
        plain=PlainFigures(_rate(plain), _median(plain, _round_us)),
        speculative=_speculative(speculative, manifest.model.verify_len),
        plain_cost_us=cost.plain_us,
        verify_cost_us=dict(cost.round_us),
        planning=settings.planning,
        speedup=statistics.median(fast.tokens_per_s / slow.tokens_per_s for slow, fast in pairs),
        machine=machine,
        prompts=len(pairs),
        tokens=sum(run.committed for run in speculative),
        temperature=settings.temperature,
        seed=settings.seed,
    )


def _tokens(engine: Engine, settings: Settings) -> int:
    return min(settings.tokens, int(engine.facts.capacity) // 2)


def _prompts(engine: Engine, texts: Sequence[str], settings: Settings) -> list[tuple[int, ...]]:
    """Cut where the new tokens would not fit behind them."""
    most = engine.facts.capacity - max(_tokens(engine, settings), TOKENS) - 1
    return [tuple(engine.encode(text))[:most] for text in texts]


def _decode(
    engine: Engine, prompts: Sequence[tuple[int, ...]], settings: Settings, on_progress: OnProgress
) -> list[tuple[_Run, _Run]]:
    """(plain, speculative) for each prompt; who goes first changes from prompt to prompt, the first pair warms up."""
    count, pairs = _tokens(engine, settings), []
    for index, prompt in enumerate([prompts[0], *prompts]):
        on_progress("generate", index, len(prompts) + 1)
        order = ("plain", "speculative") if index % 2 else ("speculative", "plain")
        runs = {}
        for decoding in order:
            rounds = engine.rounds(
                prompt,
                max_new_tokens=count,
                temperature=settings.temperature,
                seed=settings.seed + index,
                decoding=decoding,
                draft_len=None,
                planning=settings.planning,
                lookup=True,
            )
            runs[decoding] = _Run(tuple(finished for finished in rounds if finished.phase == "decode"))
        if index and runs["plain"].rounds and runs["speculative"].rounds:
            pairs.append((runs["plain"], runs["speculative"]))
    return pairs


def _speculative(runs: Sequence[_Run], verify_len: int) -> SpeculativeFigures:
    rounds = [finished for run in runs for finished in run.rounds]
    per_position = [sum(finished.n_accepted > slot for finished in rounds) / len(rounds) for slot in range(verify_len)]
    found = [finished.n_accepted for finished in rounds if finished.looked_up]
    verifying = [finished.width for finished in rounds if finished.n_drafted]
    return SpeculativeFigures(
        tokens_per_s=_rate(runs),
        acceptance_length=sum(run.committed for run in runs) / len(rounds),
        acceptance_per_position=tuple(per_position),
        verified_width=statistics.fmean(verifying) if verifying else 0.0,
        plain_share=sum(finished.graph == "plain" for finished in rounds) / len(rounds),
        looked_up_share=len(found) / len(rounds),
        looked_up_accepted=statistics.fmean(found) if found else 0.0,
        round_us=_median(runs, _round_us),
        session_us=_median(runs, lambda finished: finished.session_us),
        loop_us=_median(runs, lambda finished: finished.loop_us),
    )


def _rate(runs: Sequence[_Run]) -> float:
    return statistics.median(run.tokens_per_s for run in runs)


def _median(runs: Sequence[_Run], time_of: Callable[[Any], float]) -> float:
    return statistics.median(time_of(finished) for run in runs for finished in run.rounds)


def _round_us(finished: Any) -> float:
    return float(finished.session_us + finished.loop_us)


def _replaced(rows: Sequence[CostRow], row: CostRow) -> tuple[CostRow, ...]:
    return (*(other for other in rows if other.fingerprint != row.fingerprint), row)


def _open_engine(folder: Path, settings: Settings) -> Any:
    import forerun

    return forerun.load(folder, device=settings.device, threads=settings.threads)
