"""The precision map of a graph: every layer once, bytes as stored, errors where something was rounded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from forerun_compiler.activation_range import BINS, Calibration, LayerStatistics
from forerun_compiler.manifest import Precision
from forerun_compiler.number_formats import int4, stored_bytes
from forerun_compiler.passes.assign_precision import Choice, assign_precision
from forerun_compiler.passes.quantize_int4 import RoundedLayer
from forerun_compiler.precision_map import LayerPrecision
from forerun_compiler.weigh_layers import weigh_layers
from tiny_pairs import pair

LAYER = "target.model.layers.0.mlp.up_proj"


def choices(precision: Precision) -> tuple[Choice, ...]:
    return assign_precision(pair().linked.round.clone(), precision)


def weighed(precision: Precision, calibration: Calibration | None = None) -> dict[str, LayerPrecision]:
    rows = weigh_layers(pair().linked.round, choices(precision), calibration)
    assert len({row.layer for row in rows}) == len(rows)
    return {row.layer: row for row in rows}


def test_bytes_are_those_of_the_scheme() -> None:
    rows = weighed(Precision("int8", "int4", "int8", "int8"))
    row = rows[LAYER]
    assert (row.part, row.scheme, row.parameters) == ("target", "int8", 96 * 64)
    assert row.bytes == stored_bytes("int8", 96, 64)
    assert rows["drafter.layers.0.mlp.up_proj"].bytes == stored_bytes("int4", 96, 64)


def test_a_weight_is_counted_once_per_scheme() -> None:
    same, apart = (weighed(Precision(lm_head="int8", drafter_lm_head=drafter)) for drafter in ("int8", "int4"))
    # The drafter borrows the target's LM head.
    assert same["target.lm_head"].bytes == stored_bytes("int8", 272, 64)
    assert same["drafter.lm_head"].bytes == 0
    assert apart["drafter.lm_head"].bytes == stored_bytes("int4", 272, 64)


def test_all_bytes_of_a_dense_graph_are_accounted_for() -> None:
    rows = weighed(Precision()).values()
    total = sum(value.const_value.nbytes for value in pair().linked.round.graph.initializers.values())  # type: ignore[union-attr]
    assert sum(row.bytes for row in rows) == total
    assert all(row.sensitivity is None for row in rows)


def test_what_is_no_linear_layer_says_so() -> None:
    rows = weighed(Precision("int8", "int8", "int8", "int8"))
    embeddings = [row for row in rows.values() if row.reason is not None and "embedding" in row.reason]
    assert {row.scheme for row in embeddings} == {"float32"}
    assert any(row.layer == "target.model.embed_tokens" and row.bytes == 4 * 272 * 64 for row in embeddings)
    assert (rows["drafter.fc"].scheme, rows["drafter.fc"].reason) == ("int8", None)
    assert str(weighed(Precision(drafter="fp8"))["drafter.fc"].reason).startswith("fc reads the target's features")


def statistics(moment: Sequence[float]) -> Calibration:
    found = LayerStatistics(1, 1.0, np.zeros(BINS, np.int64), np.asarray(moment, np.float64))
    return Calibration({LAYER: found}, (), 1)


def test_sensitivity_weighs_channels_by_what_calibration_saw() -> None:
    plain = weighed(Precision("int8"))[LAYER].sensitivity
    even = weighed(Precision("int8"), statistics([2.0] * 64))[LAYER].sensitivity
    one = weighed(Precision("int8"), statistics([1.0] + [0.0] * 63))[LAYER].sensitivity
    assert plain is not None
    assert one is not None
    assert 0.001 < plain < 0.02  # 8 bits: a step of 1/127 of the row's largest weight
    assert even == pytest.approx(plain, rel=1e-9)
    assert one != pytest.approx(plain, rel=1e-3)


def test_layers_keep_the_order_of_the_graph() -> None:
    made = choices(Precision("int8"))
    rows = weigh_layers(pair().linked.round, [replace(choice) for choice in made], None)
    assert [row.layer for row in rows][: len(made)] == [choice.layer for choice in made]
    assert rows[-1].layer == "other constants"


def test_layers_that_were_rounded_on_text_say_so_and_how_well() -> None:
    graph = pair().linked.round
    made = choices(Precision(target="int4", drafter="int8"))
    weight = np.zeros((96, 64), np.float32)
    rows = weigh_layers(graph, made, None, {("int4", LAYER): RoundedLayer(int4.encode(weight, 128), 0.125)})
    found = {row.layer: (row.rounding, row.sensitivity) for row in rows}
    assert found[LAYER] == ("compensated", 0.125)
    assert found["target.model.layers.1.mlp.up_proj"][0] == "nearest"
    assert found["target.lm_head"] == (None, None)
    assert found["drafter.layers.0.mlp.up_proj"][0] is None
