"""A weight that is no finite number is refused by name and place; constants of ours may be infinite."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from forerun_compiler.dialect import DOMAIN
from forerun_compiler.errors import CheckpointError
from forerun_compiler.finite_weights import check_finite
from forerun_compiler.number_formats import checks
from hand_graphs import FLOAT, INT, constant, make_model, node


def graph(layer: np.ndarray, norm: np.ndarray, embedding: np.ndarray, mask: float = 0.0) -> ir.Model:
    """An embedding, a norm, a linear layer and a mask that is added."""
    tokens = ir.val("tokens", INT, ["T"])
    looked = node("Gather", [constant("embedding", embedding), tokens], ("looked", ["T", 8]))
    normed = node("RMSNormalization", [looked.outputs[0], constant("norm", norm)], ("normed", ["T", 8]))
    attributes = {"layer": "target.up", "scheme": "float32", "x_max": 0.0}
    weight = constant("target/up.weight", layer)
    linear = node("Linear", [normed.outputs[0], weight], ("linear", ["T", 6]), domain=DOMAIN, **attributes)
    masked = node("Add", [linear.outputs[0], constant("mask", np.full(6, mask))], ("masked", ["T", 6]))
    return make_model([tokens], [looked, normed, linear, masked], masked.outputs)


def arrays() -> dict[str, np.ndarray]:
    return {"layer": np.ones((6, 8)), "norm": np.ones(8), "embedding": np.ones((5, 8))}


def test_finite_weights_pass_and_a_mask_may_be_infinite() -> None:
    model = graph(**arrays(), mask=-np.inf)
    assert model.graph.inputs[0].type == ir.TensorType(INT)
    assert model.graph.outputs[0].type == ir.TensorType(FLOAT)
    check_finite(model)


@pytest.mark.parametrize(
    ("which", "place", "number", "said"),
    [
        (
            "layer",
            (4, 3),
            np.nan,
            r"weight of target.up: expected finite numbers, found nan at \[4, 3\]: the checkpo",
        ),
        ("layer", (0, 0), np.inf, r"weight of target.up: expected finite numbers, found inf at \[0, 0\]"),
        ("norm", (7,), -np.inf, r"weight of norm: expected finite numbers, found -inf at \[7\]"),
        ("embedding", (2, 1), np.nan, r"weight of embedding: expected finite numbers, found nan at \[2, 1\]"),
    ],
)
def test_the_first_number_that_is_none_is_named(
    monkeypatch: pytest.MonkeyPatch, which: str, place: tuple[int, ...], number: float, said: str
) -> None:
    monkeypatch.setattr(checks, "SLICE", 16)  # two rows
    found = arrays()
    found[which][place] = number
    with pytest.raises(CheckpointError, match=said):
        check_finite(graph(**found))
