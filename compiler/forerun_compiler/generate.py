"""Generation from a bundle for people at a terminal, and the comparison of speculative with plain decoding."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from forerun import Choice, Engine, Generation

Prompt = str | list[dict[str, str]]
WARM_UP_TOKENS = 8
COMPARISONS, COMPARISON_SECONDS = 7, 10
"""Both ways are run in turn up to so often, or until so long has passed: one short run says little."""


@dataclass(frozen=True)
class Request:
    """What to generate; `chat` puts the prompt through the bundle's chat template as the user's message."""

    prompt: str
    chat: bool = False
    max_new_tokens: int = 128
    temperature: float = 0.0
    seed: int = 0
    stop: tuple[str, ...] = ()
    decoding: Literal["speculative", "plain", "padded"] = "speculative"
    threads: int | None = None
    device: str = "cpu"


@dataclass(frozen=True)
class Versus:
    """The same request by speculative and by plain decoding, each the run of median speed.

    `equal` says whether both gave the same tokens: greedy decoding must, up to rounding at a tie; sampling need not.
    """

    speculative: Generation
    plain: Generation

    @property
    def equal(self) -> bool:
        """The same tokens, one for one."""
        return self.speculative.tokens == self.plain.tokens

    @property
    def speedup(self) -> float:
        """Tokens per second of speculative over plain decoding; 0 if one of them decoded nothing."""
        plain = self.plain.statistics.tokens_per_s
        return self.speculative.statistics.tokens_per_s / plain if plain else 0.0


def generate(
    folder: Path,
    request: Request,
    on_text: Callable[[str], None],
    on_device: Callable[[Choice], None] = lambda choice: None,
) -> Generation:
    """Generate from the bundle in `folder`; `on_text` gets the text as it comes, `on_device` what runs it.

    Raises:
        forerun.ForerunError: the bundle, the library or the request cannot be served.
    """
    import forerun

    with forerun.load(folder, device=request.device, threads=request.threads) as engine:
        on_device(engine.device)
        return _generate(engine, request, request.decoding, on_text)


def compare(
    folder: Path,
    request: Request,
    on_text: Callable[[str], None],
    on_device: Callable[[Choice], None] = lambda choice: None,
) -> Versus:
    """Generate both ways in turn, `on_text` getting the first speculative text; both are warmed up before.

    Raises:
        forerun.ForerunError: as `generate`.
    """
    import forerun

    with forerun.load(folder, device=request.device, threads=request.threads) as engine:
        on_device(engine.device)
        for decoding in ("plain", "speculative"):
            engine.generate(_prompt(request), max_new_tokens=WARM_UP_TOKENS, decoding=decoding)
        start = time.monotonic()
        speculative: list[Generation] = []
        plain: list[Generation] = []
        while not plain or (len(plain) < COMPARISONS and time.monotonic() - start < COMPARISON_SECONDS):
            show = (lambda text: None) if plain else on_text
            speculative.append(_generate(engine, request, "speculative", show))
            plain.append(_generate(engine, request, "plain", lambda text: None))
        return Versus(_median(speculative), _median(plain))


def _median(generations: list[Generation]) -> Generation:
    """The generation of median speed; their tokens are the same."""
    return sorted(generations, key=lambda g: g.statistics.tokens_per_s)[len(generations) // 2]


def _generate(
    engine: Engine,
    request: Request,
    decoding: Literal["speculative", "plain", "padded"],
    on_text: Callable[[str], None],
) -> Generation:
    stream = engine.generate(
        _prompt(request),
        max_new_tokens=request.max_new_tokens,
        temperature=request.temperature,
        seed=request.seed,
        stop=request.stop,
        stream=True,
        decoding=decoding,
    )
    with stream:
        for text in stream:
            on_text(text)
    return stream.generation


def _prompt(request: Request) -> Prompt:
    return [{"role": "user", "content": request.prompt}] if request.chat else request.prompt
