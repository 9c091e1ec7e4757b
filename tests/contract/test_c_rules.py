"""The C functions make the very decisions of the enumerated rules.

Tables and uniforms are small multiples of powers of two, so float32 holds every product and sum exactly and the
comparison needs no tolerance.
"""

import ctypes
import random
from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import product

import pytest
from enumerator import random_row
from plans import best_plan
from rules import DELTA, GREEDY, RATIO, Row, sample

from installed_core import core_folder

VOCAB = 3
GRID = [Fraction(i, 8) for i in range(8)]


@pytest.fixture(scope="module")
def library() -> ctypes.CDLL:
    """The library that embedders link, as the package ships it."""
    core = ctypes.CDLL(str(core_folder() / "lib" / "libforerun.so"))
    core.forerun_sample.restype = ctypes.c_int64
    for name in ("greedy", "ratio", "delta"):
        getattr(core, f"forerun_accept_{name}").restype = ctypes.c_size_t
    core.forerun_plan.restype = ctypes.c_size_t
    return core


def floats(values: Sequence[Fraction]) -> ctypes.Array[ctypes.c_float]:
    array = (ctypes.c_float * max(len(values), 1))(*map(float, values))
    assert all(Fraction(found) == value for found, value in zip(array, values, strict=False)), "not exact in float32"
    return array


def tables(count: int, n_draft: int) -> Iterator[tuple[list[Row], list[Row]]]:
    source = random.Random(n_draft)
    for _ in range(count):
        rows = [random_row(source, VOCAB, 16) for _ in range(2 * n_draft + 1)]
        yield rows[: n_draft + 1], rows[n_draft + 1 :]


def flat(rows: Sequence[Row]) -> ctypes.Array[ctypes.c_float]:
    return floats([value for row in rows for value in row])


def expected_row(draft: Sequence[int], accepted: int, own: int) -> list[int]:
    return [*draft[:accepted], own, *[-1] * (len(draft) - accepted)]


@pytest.mark.parametrize("n_draft", [0, 1, 2])
def test_ratio_decisions(library: ctypes.CDLL, n_draft: int) -> None:
    scratch, committed = (ctypes.c_float * VOCAB)(), (ctypes.c_int64 * (n_draft + 1))()
    outcomes = set()
    for p_target, p_draft in tables(12, n_draft):
        p, q = flat(p_target), flat(p_draft)
        for draft in product(range(VOCAB), repeat=n_draft):
            if any(row[token] == 0 for row, token in zip(p_draft, draft, strict=True)):
                continue  # the drafter cannot have drawn it
            tokens = (ctypes.c_int64 * max(n_draft, 1))(*draft)
            for *uniform, own in product(GRID, repeat=n_draft + 1):
                n = library.forerun_accept_ratio(
                    p, q, ctypes.c_size_t(VOCAB), tokens, ctypes.c_size_t(n_draft), floats(uniform),
                    ctypes.c_float(float(own)), scratch, committed,
                )  # fmt: skip
                expected = RATIO.decide(p_target, p_draft, draft, uniform, own)
                assert (n, list(committed)) == (expected[0], expected_row(draft, *expected))
                outcomes.add(n)
    assert outcomes == set(range(n_draft + 1))


@pytest.mark.parametrize("n_draft", [1, 2])
def test_delta_decisions(library: ctypes.CDLL, n_draft: int) -> None:
    scratch, committed = (ctypes.c_float * VOCAB)(), (ctypes.c_int64 * (n_draft + 1))()
    for p_target, p_draft in tables(8, n_draft):
        p = flat(p_target)
        for draft in product(range(VOCAB), repeat=n_draft):
            tokens = (ctypes.c_int64 * n_draft)(*draft)
            for *uniform, own in product(GRID, repeat=n_draft + 1):
                n = library.forerun_accept_delta(
                    p, ctypes.c_size_t(VOCAB), tokens, ctypes.c_size_t(n_draft), floats(uniform),
                    ctypes.c_float(float(own)), scratch, committed,
                )  # fmt: skip
                expected = DELTA.decide(p_target, p_draft, draft, uniform, own)
                assert (n, list(committed)) == (expected[0], expected_row(draft, *expected))


@pytest.mark.parametrize("n_draft", [0, 1, 3])
def test_greedy_decisions(library: ctypes.CDLL, n_draft: int) -> None:
    committed, zeros = (ctypes.c_int64 * (n_draft + 1))(), [Fraction(0)] * n_draft
    for p_target, p_draft in tables(60, n_draft):
        p = flat(p_target)
        for draft in product(range(VOCAB), repeat=n_draft):
            tokens = (ctypes.c_int64 * max(n_draft, 1))(*draft)
            n = library.forerun_accept_greedy(p, ctypes.c_size_t(VOCAB), tokens, ctypes.c_size_t(n_draft), committed)
            expected = GREEDY.decide(p_target, p_draft, draft, zeros, Fraction(0))
            assert (n, list(committed)) == (expected[0], expected_row(draft, *expected))


def test_sample_decisions(library: ctypes.CDLL) -> None:
    source = random.Random(1)
    for _ in range(300):
        row = random_row(source, 6, 16)
        for uniform in (Fraction(i, 32) for i in range(32)):
            found = library.forerun_sample(floats(row), ctypes.c_size_t(6), ctypes.c_float(float(uniform)))
            assert found == sample(row, uniform)


@pytest.mark.parametrize("n_draft", [0, 1, 4])
def test_plans(library: ctypes.CDLL, n_draft: int) -> None:
    """Chances and costs of few bits: the best plan is never a matter of rounding, equal ones are equal."""
    source, chosen = random.Random(n_draft), set()
    for _ in range(400):
        chances = [Fraction(source.randint(0, 8), 8) for _ in range(n_draft)]
        cost = [Fraction(source.randint(4, 12), 4) for _ in range(n_draft + 1)]
        survival = [Fraction(1)]
        for chance in chances:
            survival.append(survival[-1] * chance)
        n = library.forerun_plan(floats(survival[1:]), floats(cost), ctypes.c_size_t(n_draft))
        assert n == best_plan(chances, cost)
        chosen.add(n)
    assert chosen == set(range(n_draft + 1))
