"""Every setting out of its range is refused by name, before the core sees it."""

from typing import Any

import pytest

import forerun


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens: expected 1 .. .*, got 0"),
        ({"max_new_tokens": 1.5}, "max_new_tokens: expected an integer, got 1.5 of type float"),
        ({"max_new_tokens": True}, "max_new_tokens: expected an integer, got True"),
        ({"temperature": -0.1}, r"temperature: expected 0 \(greedy\) or a finite number above it, got -0.1"),
        ({"temperature": float("nan")}, "temperature: .* got nan"),
        ({"temperature": float("inf")}, "temperature: .* got inf"),
        ({"temperature": 1e-60}, "temperature: 1e-60 does not fit the graph's float32"),
        ({"temperature": 1e60}, "temperature: 1e.60 does not fit the graph's float32"),
        ({"temperature": "warm"}, "temperature: expected a number, got 'warm' of type str"),
        ({"seed": -1}, "seed: expected 0 .. 18446744073709551615, got -1"),
        ({"seed": 2**64}, "seed: expected 0 .. "),
        ({"decoding": "fast"}, "decoding: expected one of speculative, plain, padded, got 'fast'"),
        ({"draft_len": 0}, "draft_len: expected 1 .. 4, got 0"),
        ({"draft_len": 5}, "draft_len: expected 1 .. 4, got 5"),
        ({"planning": 1}, "planning: expected True or False, got 1"),
        ({"lookup": "no"}, "lookup: expected True or False, got 'no'"),
        ({"stop": ""}, r"stop\[0\]: the empty string"),
        ({"stream": "yes"}, "stream: expected True, False or a function"),
    ],
)
def test_a_setting_out_of_range_is_refused(engine: forerun.Engine, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(forerun.ForerunError, match=message) as caught:
        engine.generate("abc", **settings)
    assert caught.value.status == "invalid argument"


def test_the_largest_settings_are_taken(engine: forerun.Engine) -> None:
    assert engine.generate("abc", max_new_tokens=2, seed=2**64 - 1, temperature=3e38).statistics.new_tokens == 2
