"""The gates of a proof: comparisons of token sequences, and a chi-square test of sampling.

Everything here takes an engine (`forerun.Engine`, or a table model in tests) and a reference as arguments.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from forerun.costs import Costs
from forerun_compiler.proof.chi_square import ChiSquare, goodness_of_fit

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

Tokens = tuple[int, ...]
Decoding = Literal["speculative", "plain", "padded"]
LEAST_SAMPLES = 40  # of one prefix: fewer make too few bins of five expected samples
MOST_PREFIXES = 6  # tested at one position of one prompt; each costs a run of the reference


class Engine(Protocol):
    """The part of `forerun.Engine` that a proof uses."""

    @property
    def facts(self) -> Any:
        """With draft_len, lookup_len, lookup_match, verify_widths, capacity and eos_token_ids."""

    def encode(self, text: str) -> list[int]:
        """Token ids of a text."""

    def rounds(
        self,
        prompt: Sequence[int],
        *,
        max_new_tokens: int,
        temperature: float,
        seed: int,
        decoding: Decoding,
        draft_len: int | None,
        planning: bool,
        lookup: bool,
    ) -> Iterable[Any]:
        """One generation, round by round; each has `committed` and `looked_up`."""

    def set_costs(self, costs: Costs | None) -> None:
        """Plan the next generations with `planning` by these."""


class Reference(Protocol):
    """The target, run by another loop than the C core's: the source model, or the bundle's own target graph."""

    def greedy(self, prompt: Tokens, count: int) -> Tokens:
        """Up to `count` tokens of greedy decoding, an end token included."""

    def logits(self, tokens: Tokens) -> npt.NDArray[np.float64]:
        """The logits [V] of the token that follows."""

    def views(self, prompt: Tokens, text: Tokens) -> Sequence[npt.NDArray[np.float64]]:
        """The logits [V] after prompt and text, once for each way in which decoding may compute them."""


@dataclass(frozen=True)
class Decoded:
    """New tokens, and in how many rounds the draft was looked up."""

    tokens: Tokens
    looked_up: int


@dataclass(frozen=True)
class Way:
    """How samples are drawn: `draft_len` tokens of the drafter a round, None as planned; with prompt lookup or not."""

    draft_len: int | None
    lookup: bool = False


@dataclass(frozen=True)
class Sampled:
    """One chi-square test a position, and in how many rounds of all samples the draft was looked up."""

    tests: tuple[ChiSquare, ...]
    looked_up: int


@dataclass(frozen=True)
class Comparison:
    """Two ways of decoding the same prompts: how many gave the same tokens, and how many parted at a tie."""

    prompts: int = 0
    identical: int = 0
    ties: int = 0
    failures: tuple[str, ...] = ()

    def __add__(self, other: Comparison) -> Comparison:
        return Comparison(
            self.prompts + other.prompts,
            self.identical + other.identical,
            self.ties + other.ties,
            self.failures + other.failures,
        )


def plan_widths(engine: Engine) -> None:
    """Costs by which confident drafts are verified in wide rounds and doubtful ones in narrow ones.

    A draft pays in them if it is kept more often than in one of four cases; measured costs would leave it to the
    machine what is tested.
    """
    engine.set_costs(Costs(0.75, tuple(1.0 + width / 4 for width in engine.facts.verify_widths)))


def plan_pauses(engine: Engine) -> None:
    """Costs by which nothing ever pays: plain rounds, which one run reads again before the next try."""
    widths = engine.facts.verify_widths
    engine.set_costs(Costs(1.0, (float(widths[-1]),) * len(widths)))


def generate(
    engine: Engine, prompt: Tokens, count: int, decoding: Decoding, planning: bool = False, lookup: bool = False
) -> Decoded:
    """Up to `count` new tokens, greedily; without `planning` all drafts are verified in rounds of one width.

    With `lookup` what the text itself says comes next is verified too, in a bundle that looks up.
    """
    return _decode(
        engine.rounds(
            prompt,
            max_new_tokens=count,
            temperature=0.0,
            seed=0,
            decoding=decoding,
            draft_len=None,
            planning=planning,
            lookup=lookup,
        )
    )


def draw(engine: Engine, prompt: Tokens, count: int, seed: int, way: Way) -> Decoded:
    """Up to `count` new tokens, by speculative sampling at temperature 1."""
    return _decode(
        engine.rounds(
            prompt,
            max_new_tokens=count,
            temperature=1.0,
            seed=seed,
            decoding="speculative",
            draft_len=way.draft_len,
            planning=way.draft_len is None,
            lookup=way.lookup,
        )
    )


def _decode(rounds: Iterable[Any]) -> Decoded:
    tokens, looked_up = list[int](), 0
    for finished in rounds:
        tokens += finished.committed
        looked_up += bool(finished.looked_up)
    return Decoded(tuple(tokens), looked_up)


def compare(
    what: str, prompt: Tokens, one: Tokens, other: Tokens, reference: Reference | None, tie: float | None
) -> Comparison:
    """Compare two continuations of `prompt`; `what` names both ("speculative and plain decoding") in a failure.

    At the first difference the reference's logits judge: if in none of its views one of the tokens lies more than `tie`
    below the largest logit, rounding decided and it is a tie; else, or without a reference, it is a failure.
    `tie` None allows no difference at all: the two must be the same numbers.
    """
    if one == other:
        return Comparison(prompts=1, identical=1)
    place = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    if place == min(len(one), len(other)):
        return Comparison(1, failures=(f"{what} stop after {len(one)} and {len(other)} tokens of the same text",))
    where = f"{what} part at token {place}: {one[place]} and {other[place]}"
    if tie is None:
        return Comparison(1, failures=(f"{where}, which no rounding explains: a row depends on the other rows",))
    if reference is None:
        return Comparison(1, failures=(f"{where}; without the source checkpoint it is not known whether it is a tie",))
    views = reference.views(prompt, one[:place])
    gap = max(float(logits.max() - min(logits[one[place]], logits[other[place]])) for logits in views)
    if gap <= tie:
        return Comparison(prompts=1, ties=1)
    return Comparison(
        1, failures=(f"{where}, where the reference's logits differ by {gap:.3g}, more than a tie of {tie:g}",)
    )


def drafter_ways(engine: Engine) -> tuple[Way, ...]:
    """Every other sample verifies one draft token a round only, so that the token after a whole accepted draft is
    tested too; the others verify whole drafts, or as many tokens as a plan chooses by the drafts themselves.
    """
    return Way(engine.facts.draft_len), Way(1), Way(None), Way(1)


def check_sampling(
    engine: Engine,
    reference: Reference,
    prompt: Tokens,
    samples: int,
    seed: int,
    on_sample: Callable[[], None],
    ways: Sequence[Way],
    positions: int = 3,
) -> Sampled:
    """Chi-square tests of speculative sampling at temperature 1 against the reference's exact probabilities.

    One test a position (the first comes from reading the prompt, the others from verifying drafts). Position i is
    tested given the tokens before it, for every prefix that occurred often enough. Seeds are seed, seed + 1, ...
    Samples take the `ways` in turn.
    """
    drawn = []
    plan_widths(engine)
    for sample in range(samples):
        drawn.append(draw(engine, prompt, positions, seed + sample, ways[sample % len(ways)]))
        on_sample()
    results = []
    for position in range(positions):
        by_prefix: dict[Tokens, Counter[int]] = {}
        for tokens in (decoded.tokens for decoded in drawn):
            if len(tokens) > position:
                by_prefix.setdefault(tokens[:position], Counter())[tokens[position]] += 1
        often = sorted(by_prefix.items(), key=lambda entry: (-entry[1].total(), entry[0]))[:MOST_PREFIXES]
        result = ChiSquare()
        for prefix, counts in often:
            if counts.total() >= LEAST_SAMPLES:
                result += goodness_of_fit(counts, probabilities(reference.logits(prompt + prefix)))
        results.append(result)
    return Sampled(tuple(results), sum(decoded.looked_up for decoded in drawn))


def probabilities(logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """softmax of logits [V], in float64."""
    import numpy as np

    weights = np.exp(logits - logits.max())
    return np.asarray(weights / weights.sum())
