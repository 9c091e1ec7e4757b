"""The three forms of a prompt, and what is refused."""

from typing import Any

import numpy as np
import pytest

import forerun
from table_bundle import EOS, IM_END, IM_START, MERGED


def committed(engine: forerun.Engine, prompt: Any) -> tuple[int, ...]:
    return engine.generate(prompt, max_new_tokens=8).tokens


def test_text_ids_arrays_and_tuples_are_the_same_prompt(engine: forerun.Engine) -> None:
    expected = committed(engine, "xyza")
    assert expected == tuple(b"bc\xc3\xa9-d\xe6\xbc")
    for prompt in (list(b"xyza"), tuple(b"xyza"), np.frombuffer(b"xyza", np.uint8), np.array([*b"xyza"], np.int64)):
        assert committed(engine, prompt) == expected


def test_encode_and_decode(engine: forerun.Engine) -> None:
    assert engine.encode("thé<|im_end|>") == [MERGED, 0xC3, 0xA9, IM_END]
    assert engine.decode([MERGED, 0xC3, 0xA9, IM_END, 0xC3]) == "thé\ufffd"
    with pytest.raises(forerun.ForerunError, match="260"):
        engine.decode([260])


def test_chat_messages_go_through_the_template(engine: forerun.Engine) -> None:
    messages = [{"role": "user", "content": "abc"}]
    ids = [IM_START, *b"user\nabc", IM_END, *b"\n", IM_START, *b"assistant\n"]
    assert committed(engine, messages) == committed(engine, ids)


def test_a_bundle_without_template_refuses_chat(ending_engine: forerun.Engine) -> None:
    with pytest.raises(forerun.ForerunError, match="has no chat template, so it takes no chat messages"):
        ending_engine.generate([{"role": "user", "content": "abc"}])


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("", "the prompt's text has no token"),
        ([], "the prompt is empty"),
        (np.array([], np.int64), "the prompt is empty"),
        ([1, -1], "token 1 of the prompt: expected an id in 0 .. 259, got -1"),
        ([260], "token 0 of the prompt: expected an id in 0 .. 259, got 260"),
        ([2**70], "token 0 of the prompt: expected an id in 0 .. 259"),
        ([1.0], "token 0 of the prompt: expected an integer id, got 1.0"),
        (["a"], "token 0 of the prompt: expected an integer id, got 'a'"),
        (b"abc", "the prompt is of type bytes"),
        ({"role": "user"}, "the prompt is of type dict"),
        ([{"role": "user"}], "message 0 lacks content"),
        ([1] * 200, "the prompt has 200 tokens; this bundle holds 200 .* shorten the prompt to 199"),
    ],
)
def test_a_prompt_that_cannot_be_read_is_refused(engine: forerun.Engine, prompt: Any, message: str) -> None:
    with pytest.raises(forerun.ForerunError, match=message) as caught:
        engine.generate(prompt)
    assert caught.value.status == "invalid argument"


def test_an_end_token_in_the_prompt_is_only_a_token(ending_engine: forerun.Engine) -> None:
    assert ending_engine.generate([EOS, *b"a"], max_new_tokens=2).text == "bc"
