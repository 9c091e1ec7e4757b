"""Drafts that were looked up: the delta rule against the rule in Python, and its law by exact counts."""

from __future__ import annotations

import itertools
from collections import defaultdict
from fractions import Fraction

import numpy as np
import onnxruntime as ort
import pytest
import torch

from acceptance_graphs import acceptance_session, softmax
from dspark_reference import verify

K, M, V = 3, 6, 11


def run(
    opened: ort.InferenceSession,
    logits: np.ndarray,
    drafts: np.ndarray,
    n_draft: int,
    temperature: float,
    uniform: np.ndarray,
    draft_probs: np.ndarray,
    looked_up: bool,
) -> tuple[int, int]:
    feeds = {
        "logits": logits,
        "drafts": drafts,
        "n_draft": np.array([n_draft]),
        "temperature": np.array([temperature], np.float32),
        "uniform": uniform,
        "draft_probs": draft_probs,
        "looked_up": np.array([int(looked_up)]),
    }
    kept, own = opened.run(None, feeds)
    return int(kept[0]), int(own[0])


@pytest.mark.parametrize("temperature", [0.0, 1.0, 0.6])
def test_verdicts_equal_the_rule_in_python(temperature: float) -> None:
    """Both kinds of draft in one graph: the drafter's of up to K tokens, looked up ones of up to M > K."""
    opened, rng, seen = acceptance_session(K, V, M), np.random.default_rng(6), set[tuple[bool, int, int]]()
    for number in range(3000):
        looked_up = number % 2 == 0
        rows = int(rng.integers(1, M + 2))
        n = int(rng.integers(0, min(rows - 1, M if looked_up else K) + 1))
        logits = rng.standard_normal((rows, V), np.float32) * 2
        drafts = rng.integers(0, V, M + 1)
        drafts[:rows] = np.where(rng.random(rows) < 0.9, logits.argmax(1), drafts[:rows])
        logits[np.arange(rows), drafts[:rows]] += 2  # else long drafts are hardly ever kept
        uniform, draft_probs = rng.random(M + 1, np.float32), softmax(rng.standard_normal((K, V), np.float32) * 2)
        certain = np.eye(V, dtype=np.float32)[drafts[:n]]
        probs = [torch.from_numpy(row) for row in (certain if looked_up else draft_probs[:n])]
        uniforms = [*uniform[:n].tolist(), float(uniform[M])]
        want = verify(torch.from_numpy(logits), drafts[:n].tolist(), probs, temperature, uniforms)
        # The drafter's probabilities of an earlier draft must not matter, whatever they are.
        given = np.full_like(draft_probs, np.nan) if looked_up else draft_probs
        assert run(opened, logits, drafts, n, temperature, uniform, given, looked_up) == want, number
        seen.add((looked_up, n, want[0]))
    assert {(n, kept) for looked, n, kept in seen if looked} >= {(n, kept) for n in range(M) for kept in range(n + 1)}
    assert {(n, kept) for looked, n, kept in seen if not looked} == {
        (n, kept) for n in range(K + 1) for kept in range(n + 1)
    }


FIRST = (1, 1, 2)
AFTER = ((2, 1, 1), (0, 3, 1), (1, 2, 1))
"""Weights of the first token and of the one after each first token, in quarters; one of them never comes."""
TESTS, DRAWS = 4, 12
"""Uniform numbers in the middles of as many parts: every probability here, of a residual too, is a number of parts."""


def law(opened: ort.InferenceSession, draft: tuple[int, int], looked_up: bool) -> dict[tuple[int, int], Fraction]:
    """Exact probabilities of the first two tokens when this draft is verified; the rest is plain decoding."""
    rows = np.array([FIRST, AFTER[draft[0]], AFTER[draft[1]]], np.float32)
    logits = np.log(np.maximum(rows, 1e-30))
    found: dict[tuple[int, int], Fraction] = defaultdict(Fraction)
    share = Fraction(1, TESTS * TESTS * DRAWS)
    probs = np.array([[0.5, 0.25, 0.25]] * 2, np.float32)
    for one, two, own_part in itertools.product(range(TESTS), range(TESTS), range(DRAWS)):
        uniform = np.array([(one + 0.5) / TESTS, (two + 0.5) / TESTS, (own_part + 0.5) / DRAWS], np.float32)
        kept, own = run(opened, logits, np.array([*draft, 0]), 2, 1.0, uniform, probs, looked_up)
        if kept:
            found[draft[0], draft[1] if kept == 2 else own] += share
            continue
        for second, weight in enumerate(AFTER[own]):
            found[own, second] += share * Fraction(weight, 4)
    return found


def test_a_looked_up_draft_leaves_the_law_of_the_text_as_it_is() -> None:
    """Every draft of two tokens, a first one of the drafter's or none of it: total variation is exactly 0."""
    opened = acceptance_session(2, 3, 2)
    want = {(a, b): Fraction(FIRST[a] * AFTER[a][b], 16) for a in range(3) for b in range(3)}
    for draft in itertools.product(range(3), repeat=2):
        found = law(opened, (draft[0], draft[1]), looked_up=True)
        assert {pair: found.get(pair, Fraction(0)) for pair in want} == want, draft


def test_a_copied_token_tested_as_if_it_had_been_drawn_would_change_the_law() -> None:
    """What the flag is for: p_draft of a draft that was never drawn from it keeps another text."""
    opened = acceptance_session(2, 3, 2)
    assert law(opened, (2, 0), looked_up=False) != law(opened, (2, 0), looked_up=True)
