"""Second moments of a tiny pair: against the diagonal that calibration finds, in several readings, in batches."""

from __future__ import annotations

import functools
from collections.abc import Mapping

import numpy as np
import pytest

import tiny_pairs
from forerun_compiler import second_moments as module
from forerun_compiler.calibrate import calibrate
from forerun_compiler.passes.observe_inputs import Tap
from forerun_compiler.second_moments import Array, second_moments
from forerun_compiler.teacher_forcing import CalibrationSettings

RNG = np.random.default_rng(5)
TEXTS = tuple(tuple(RNG.integers(0, 256, length).tolist()) for length in (40, 19, 3))
Q, K, V = (f"drafter.layers.0.self_attn.{name}_proj" for name in "qkv")
UP, GATE = (f"target.model.layers.0.mlp.{name}_proj" for name in ("up", "gate"))
LAYERS = (UP, GATE, "target.model.layers.1.mlp.down_proj", "target.lm_head", Q, K, V)


def pair() -> tiny_pairs.Pair:
    return tiny_pairs.pair(head="rnn", agree=False)


def collected(budget: int) -> list[Mapping[str, Array]]:
    linked = pair().linked
    return list(second_moments(linked.round, linked.facts, TEXTS, LAYERS, lambda *_: None, budget))


@functools.cache
def found() -> Mapping[str, Array]:
    (only,) = collected(1 << 30)
    return only


def test_the_diagonal_is_that_of_calibration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RUN_TOKENS", 1)  # runs of calibration's length: as many blocks of the drafter
    linked = pair().linked
    calibration = calibrate(linked.round, linked.facts, TEXTS, CalibrationSettings(), lambda *_: None)
    (moments,) = collected(1 << 30)
    assert {*moments} == {*LAYERS}
    for layer, moment in moments.items():
        statistics = calibration.layers[layer]
        np.testing.assert_allclose(np.diagonal(moment) / statistics.rows, statistics.second_moment, rtol=1e-4)


def test_the_matrix_is_the_sum_of_products_of_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_ROWS", 5)
    rows = RNG.standard_normal((13, 6)).astype(np.float32)
    total = module._Sum(6)
    for part in np.split(rows, [1, 4, 8]):
        total.add(part)
    np.testing.assert_allclose(total.matrix(), rows.T @ rows, rtol=1e-5, atol=1e-5)
    assert np.array_equal(total.matrix(), total.matrix())


def test_layers_of_one_input_share_a_matrix_and_two_inputs_are_added() -> None:
    assert found()[UP] is found()[GATE]
    assert found()[K] is not found()[Q]
    assert np.trace(found()[K]) > np.trace(found()[Q])  # the context's rows as well


def test_several_readings_give_the_same_matrices() -> None:
    parts = collected(4 * 64**2)
    assert len(parts) > 2
    assert [layer for part in parts for layer in part] == list(dict.fromkeys(layer for part in parts for layer in part))
    for part in parts:
        for layer, moment in part.items():
            np.testing.assert_allclose(moment, found()[layer], rtol=1e-5, atol=1e-5 * float(found()[layer].max()))


def test_taps_of_one_layer_are_read_together() -> None:
    taps = [Tap("0", ("a", "b"), 4), Tap("1", ("c",), 4), Tap("2", ("b", "d"), 4), Tap("3", ("e",), 4)]
    assert module._batches(taps, 0) == [[taps[1]], [taps[0], taps[2]], [taps[3]]]
    assert module._batches(taps, 4 * 16 * 3) == [[taps[1], taps[0], taps[2]], [taps[3]]]


def test_progress_counts_every_reading() -> None:
    linked, calls = pair().linked, []
    texts = [range(70), range(20)]
    list(second_moments(linked.round, linked.facts, texts, LAYERS, lambda *call: calls.append(call), 1 << 30))
    assert calls == [("read second moments", done, 90) for done in (0, 64, 70, 90)]
