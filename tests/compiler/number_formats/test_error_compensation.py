"""Compensated INT4 against the nearest: smaller errors of the output, the same codes where nothing can be gained."""

from __future__ import annotations

import numpy as np
import pytest

from forerun_compiler.errors import PassError
from forerun_compiler.number_formats import error_compensation, int4
from forerun_compiler.number_formats.checks import Array
from forerun_compiler.number_formats.error_compensation import encode_compensated


def example(seed: int, rows: int = 48, columns: int = 200) -> tuple[Array, Array]:
    """A weight [rows,columns], and the second moments of inputs that a tenth as many numbers decide, but for noise."""
    rng = np.random.default_rng(seed)
    hidden = rng.standard_normal((1000, columns // 10))
    inputs = hidden @ rng.standard_normal((columns // 10, columns)) + 0.3 * rng.standard_normal((1000, columns))
    weight = rng.standard_normal((rows, columns)).astype(np.float32)
    return weight, (inputs.T @ inputs / 1000).astype(np.float32)


def errors(weight: Array, encoded: int4.Int4Weight, moment: Array) -> Array:
    """The error of each row, in float64."""
    difference = weight.astype(np.float64) - encoded.decode()
    found: Array = np.einsum("nk,kl,nl->n", difference, moment.astype(np.float64), difference)
    return found


@pytest.mark.parametrize("group", [32, 64, 128])
@pytest.mark.parametrize("seed", range(4))
def test_the_error_is_a_tenth_of_the_nearests_where_inputs_are_correlated(seed: int, group: int) -> None:
    weight, moment = example(seed)
    nearest = errors(weight, int4.encode(weight, group), moment)
    ours = errors(weight, encode_compensated(weight, moment, group), moment)
    assert ours.sum() < 0.1 * nearest.sum()  # 0.03 to 0.04 of it were seen
    assert (ours < nearest).all()


def test_the_form_is_that_of_the_nearest() -> None:
    weight, moment = example(0)
    ours, nearest = encode_compensated(weight, moment, 64), int4.encode(weight, 64)
    assert (ours.codes.shape, ours.codes.dtype) == (nearest.codes.shape, nearest.codes.dtype) == ((48, 4, 64), "int4")
    assert (ours.scale.shape, ours.scale.dtype) == (nearest.scale.shape, nearest.scale.dtype) == ((48, 4), "bfloat16")
    assert ours.columns == 200
    assert not ours.codes[:, 3, 200 - 192 :].astype(np.int8).any()  # the padding


def test_no_row_is_worse_whatever_its_inputs() -> None:
    """Hardly correlated inputs, rows with an outlier, and rows of zeros: where nothing is gained the nearest stays."""
    rng = np.random.default_rng(7)
    weight = rng.standard_normal((64, 96)).astype(np.float32)
    weight[::4, 5] *= 1e4
    weight[1::4] = 0
    inputs = rng.standard_normal((4000, 96))
    moment = (inputs.T @ inputs).astype(np.float32)
    nearest = errors(weight, int4.encode(weight, 32), moment)
    ours = errors(weight, encode_compensated(weight, moment, 32), moment)
    assert (ours <= nearest * (1 + 1e-6)).all()
    assert not ours[1::4].any()


def test_a_weight_on_the_grid_is_exact() -> None:
    _, moment = example(1)
    rng = np.random.default_rng(1)
    codes = rng.integers(-8, 8, (16, 200))
    codes[:, ::32] = -8  # or a smaller scale would do as well
    weight = (codes * np.repeat(rng.choice([0.25, -0.5, 2.0], (16, 7)), 32, axis=1)[:, :200]).astype(np.float32)
    assert np.array_equal(encode_compensated(weight, moment, 32).decode(), weight)


def test_equal_arguments_give_equal_bytes() -> None:
    weight, moment = example(2)
    one, other = (encode_compensated(weight.copy(), moment.copy(), 128) for _ in range(2))
    assert one.codes.tobytes() == other.codes.tobytes()
    assert one.scale.tobytes() == other.scale.tobytes()


def test_rows_are_apart_and_the_factor_of_the_moments_is_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, moment = example(3)
    whole = encode_compensated(weight, moment, 64).decode()
    monkeypatch.setattr(error_compensation, "_ROWS", 7)
    np.testing.assert_allclose(encode_compensated(weight, 1024 * moment, 64).decode(), whole, rtol=1e-6)


def test_inputs_that_were_zero_are_rounded_to_the_nearest() -> None:
    weight, moment = example(4)
    dead = slice(64, 128)  # a group of its own
    moment[dead] = moment[:, dead] = 0
    nearest, ours = int4.encode(weight, 64), encode_compensated(weight, moment, 64)
    miss = np.abs(ours.decode()[:, dead] - weight[:, dead]).mean()
    assert miss < 1.05 * np.abs(nearest.decode()[:, dead] - weight[:, dead]).mean()
    without = encode_compensated(weight, np.zeros_like(moment), 64)
    assert np.array_equal(without.decode(), nearest.decode())


def test_fewer_rows_of_text_than_channels_are_enough() -> None:
    weight, _ = example(5)
    inputs = np.random.default_rng(5).standard_normal((20, 200)).astype(np.float32)
    moment = inputs.T @ inputs
    nearest = errors(weight, int4.encode(weight, 32), moment)
    assert errors(weight, encode_compensated(weight, moment, 32), moment).sum() < 0.1 * nearest.sum()


@pytest.mark.parametrize(
    ("moment", "message"),
    [
        (
            np.eye(199, dtype=np.float32),
            r"layer x: expected finite second moments \[200, 200\] of its input, found \[199",
        ),
        (np.full((200, 200), np.nan, np.float32), r"found numbers that are not finite; calibrate the layer again"),
    ],
)
def test_moments_that_cannot_be_are_refused(moment: Array, message: str) -> None:
    with pytest.raises(PassError, match=message):
        encode_compensated(example(0)[0], moment, 32, "layer x")
