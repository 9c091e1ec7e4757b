"""Text is a function of the tokens alone, however they are grouped into rounds."""

import itertools
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forerun.errors import ForerunError
from forerun.text import TextAssembler, decode_tokens, parse_stops


def one_byte(token: int) -> bytes:
    return bytes([token])


def assemble(rounds: Iterable[bytes], stops: tuple[str, ...] = ()) -> tuple[list[str], int]:
    """Chunks of every round and of the end, and the number of tokens used."""
    assembler, chunks, used = TextAssembler(one_byte, stops), [], 0
    for tokens in rounds:
        chunk, count = assembler.push(tuple(tokens))
        chunks.append(chunk)
        used += count
        if assembler.stopped:
            break
    return [*chunks, assembler.finish()], used


def cut_by_definition(text: str, stops: tuple[str, ...]) -> str:
    """Walks the text a character at a time: the first moment at which it ends with a stop string, the longest one."""
    for end in range(1, len(text) + 1):
        ending = [stop for stop in stops if text[:end].endswith(stop)]
        if ending:
            return text[: end - len(max(ending, key=len))]
    return text


def test_a_character_spread_over_rounds_comes_out_whole() -> None:
    chunks, _ = assemble([b"a\xf0", b"\x9f\x99", b"\x82b"])
    assert chunks == ["a", "", "🙂b", ""]


def test_an_unfinished_character_is_replaced_at_the_end_only() -> None:
    assert assemble([b"a\xe6\xbc"])[0] == ["a", "\ufffd"]


def test_an_invalid_byte_is_replaced_at_once_and_the_rest_survives() -> None:
    assert assemble([b"a\xff", b"\xe6(b"])[0] == ["a\ufffd", "\ufffd(b", ""]


def test_a_stop_string_across_rounds_is_held_back_and_cut() -> None:
    assert assemble([b"one\n", b"\nDe", b"f two"], ("\n\nDef",)) == (["one", "", "", ""], 8)


def test_text_that_only_begins_like_a_stop_string_is_delivered() -> None:
    assert assemble([b"one\n", b"\nDe", b"ad"], ("\n\nDef",))[0] == ["one", "", "\n\nDead", ""]


def test_held_back_text_is_delivered_at_the_end() -> None:
    assert assemble([b"one\n\n"], ("\n\nDef",))[0] == ["one", "\n\n"]


def test_the_stop_that_ends_first_wins_and_of_equals_the_longest() -> None:
    assert assemble([b"xabcde"], ("abcde", "cd"))[0][0] == "xab"
    assert assemble([b"xabcde"], ("cd", "abcd"))[0][0] == "x"


def test_tokens_after_the_stop_in_the_same_round_are_not_used() -> None:
    assert assemble([b"ab.cd"], (".",)) == (["ab", ""], 3)


def test_a_stop_string_of_several_bytes_per_character_is_cut() -> None:
    text = "é漢🙂".encode()
    assert assemble([text[:3], text[3:6], text[6:]], ("漢🙂",))[0] == ["é", "", "", ""]


@given(
    data=st.lists(st.sampled_from([*b"aab\n", 0xC3, 0xA9, 0xF0, 0x9F, 0x99, 0x82, 0xFF])).map(bytes),
    borders=st.lists(st.integers(0, 40)),
    stops=st.lists(st.sampled_from(["a", "aa", "ab", "aab", "ba\n", "é", "é🙂", "b🙂a", "\ufffd"]), max_size=3),
)
def test_grouping_never_changes_the_text(data: bytes, borders: list[int], stops: list[str]) -> None:
    cuts = sorted({min(border, len(data)) for border in borders} | {0, len(data)})
    rounds = [data[start:end] for start, end in itertools.pairwise(cuts)]
    whole = data.decode("utf-8", errors="replace")
    assert "".join(assemble(rounds, tuple(stops))[0]) == cut_by_definition(whole, tuple(stops))


@given(data=st.binary())
def test_decoding_tokens_is_decoding_their_joined_bytes(data: bytes) -> None:
    assert decode_tokens(one_byte, tuple(data)) == data.decode("utf-8", errors="replace")


def test_stops_are_strings_and_not_empty() -> None:
    assert parse_stops(None) == ()
    assert parse_stops("ab") == ("ab",)
    assert parse_stops(["a", "b"]) == ("a", "b")
    with pytest.raises(ForerunError, match=r"stop\[1\]: the empty string would stop before the first token"):
        parse_stops(["a", ""])
    with pytest.raises(ForerunError, match=r"stop\[0\]: expected a string, got int"):
        parse_stops([3])  # type: ignore[list-item]
