"""The gates on table models: right engines pass, planted mutants are caught."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import numpy.typing as npt
import pytest

from forerun_compiler.proof.gates import Comparison, check_sampling, compare, drafter_ways, generate, probabilities

VOCAB = 6


@dataclass
class Table:
    """A first-order Markov target: the reference."""

    target: npt.NDArray[np.float64]  # [V, V]

    def logits(self, tokens: tuple[int, ...]) -> npt.NDArray[np.float64]:
        return self.target[tokens[-1]]

    def views(self, prompt: tuple[int, ...], text: tuple[int, ...]) -> list[npt.NDArray[np.float64]]:
        return [self.logits(prompt + text)]

    def greedy(self, prompt: tuple[int, ...], count: int) -> tuple[int, ...]:
        tokens = list(prompt)
        for _ in range(count):
            tokens.append(int(self.target[tokens[-1]].argmax()))
        return tuple(tokens[len(prompt) :])


@dataclass
class Speculator:
    """An engine that drafts two tokens from its own table, with a rule that a test may break."""

    target: npt.NDArray[np.float64]
    draft: npt.NDArray[np.float64]
    mutant: str = ""

    facts = SimpleNamespace(draft_len=2, lookup_len=0, verify_widths=(2, 3), capacity=100, eos_token_ids=())

    def set_costs(self, costs: object) -> None:
        """It plans nothing."""

    def encode(self, text: str) -> list[int]:
        return [int(letter) for letter in text]

    def rounds(
        self,
        prompt: Sequence[int],
        *,
        max_new_tokens: int,
        temperature: float,
        seed: int,
        decoding: str,
        draft_len: int | None,
        planning: bool,
        lookup: bool,
    ) -> Iterator[SimpleNamespace]:
        chance = np.random.default_rng(seed)
        tokens = [*prompt, self._draw(self.target, prompt[-1], chance)]
        yield SimpleNamespace(committed=(tokens[-1],), looked_up=False)
        left = max_new_tokens - 1
        while left > 0:
            committed = self._round(tokens[-1], chance, draft_len or 2)[:left]
            tokens += committed
            left -= len(committed)
            yield SimpleNamespace(committed=tuple(committed), looked_up=False)

    def _draw(self, table: npt.NDArray[np.float64], last: int, chance: np.random.Generator) -> int:
        return int(chance.choice(VOCAB, p=probabilities(table[last])))

    def _round(self, last: int, chance: np.random.Generator, draft_len: int) -> list[int]:
        committed: list[int] = []
        for _ in range(draft_len):
            proposed = self._draw(self.draft, last, chance)
            p, q = probabilities(self.target[last]), probabilities(self.draft[last])
            if self.mutant == "accepts all" or chance.random() * q[proposed] < p[proposed]:
                committed.append(proposed)
                last = proposed
                continue
            residual = np.maximum(p - q, 0.0)
            law = p if self.mutant == "no residual" else residual / residual.sum()
            return [*committed, int(chance.choice(VOCAB, p=law))]
        own = self.draft if self.mutant == "drafts the bonus" else self.target
        return [*committed, self._draw(own, last, chance)]


@pytest.fixture
def tables() -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    chance = np.random.default_rng(5)
    target = chance.normal(size=(VOCAB, VOCAB))
    return target, target + 0.8 * chance.normal(size=(VOCAB, VOCAB))


def sample(engine: Speculator, samples: int = 2000) -> tuple[float, int]:
    reference = Table(engine.target)
    done: list[int] = []
    tests = check_sampling(engine, reference, (0,), samples, 0, lambda: done.append(1), drafter_ways(engine)).tests
    assert len(done) == samples
    total = sum(tests[1:], tests[0])
    return total.p, sum(test.freedom for test in tests[1:])


def test_a_right_rule_passes(tables: tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]) -> None:
    p, drafted_freedom = sample(Speculator(*tables))
    assert p > 0.01
    assert drafted_freedom > 20


@pytest.mark.parametrize("mutant", ["accepts all", "no residual", "drafts the bonus"])
def test_mutants_are_caught(tables: tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]], mutant: str) -> None:
    p, _ = sample(Speculator(*tables, mutant=mutant), samples=6000)
    assert p < 1e-4


def test_generate_joins_the_rounds(tables: tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]) -> None:
    assert len(generate(Speculator(*tables), (0,), 8, "speculative").tokens) == 8


def test_equal_tokens_are_identical() -> None:
    assert compare("a and b", (0,), (1, 2), (1, 2), None, 1e-4) == Comparison(1, 1, 0, ())


def test_a_difference_is_judged_by_the_reference() -> None:
    reference = Table(np.zeros((VOCAB, VOCAB)))
    reference.target[2] = [0.0, 1.0, 1.0 - 5e-5, 1.0 - 2e-4, 0.0, 0.0]
    assert compare("a and b", (0,), (2, 1, 0), (2, 2, 3), reference, 1e-4) == Comparison(1, 0, 1, ())
    found = compare("a and b", (0,), (2, 1, 0), (2, 3, 3), reference, 1e-4)
    said = "a and b part at token 1: 1 and 3, where the reference's logits differ by 0.0002, more than a tie of 0.0001"
    assert found == Comparison(1, 0, 0, (said,))
    both_low = compare("a and b", (0,), (2, 4), (2, 5), reference, 1e-4)
    assert both_low.failures, "two tokens that are equally unlikely are no tie"


def test_a_difference_without_a_reference_is_a_failure() -> None:
    found = compare("a and b", (0,), (2, 1), (2, 3), None, 1e-4)
    assert found.failures == (
        "a and b part at token 1: 1 and 3; without the source checkpoint it is not known whether it is a tie",
    )


def test_every_view_must_show_the_tie() -> None:
    near, far = np.zeros(VOCAB), np.zeros(VOCAB)
    near[1], far[1] = 1e-3, 1e-2

    class Wide(Table):
        def views(self, prompt: tuple[int, ...], text: tuple[int, ...]) -> list[npt.NDArray[np.float64]]:
            assert (prompt, text) == ((0,), (2,))
            return [near, far]

    reference = Wide(np.zeros((VOCAB, VOCAB)))
    assert compare("a and b", (0,), (2, 1), (2, 3), reference, 2e-2).ties == 1
    assert (
        "differ by 0.01, more than a tie of 0.002"
        in compare("a and b", (0,), (2, 1), (2, 3), reference, 2e-3).failures[0]
    )


def test_where_nothing_may_differ_no_reference_is_asked() -> None:
    found = compare("a and b", (0,), (2, 1), (2, 3), Table(np.zeros((VOCAB, VOCAB))), None)
    assert found.failures == (
        "a and b part at token 1: 1 and 3, which no rounding explains: a row depends on the other rows",
    )


def test_a_shorter_text_is_a_failure() -> None:
    found = compare("a and b", (0,), (2, 1), (2,), Table(np.zeros((VOCAB, VOCAB))), 1e-4)
    assert found.failures == ("a and b stop after 2 and 1 tokens of the same text",)


def test_comparisons_add_up() -> None:
    assert Comparison(1, 1, 0, ()) + Comparison(2, 0, 1, ("x",)) == Comparison(3, 1, 1, ("x",))
