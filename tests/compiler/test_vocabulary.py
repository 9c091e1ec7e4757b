"""vocab.bin against the decoders of the tokenizers library."""

from __future__ import annotations

import itertools
import json
import struct

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from forerun_compiler.errors import CheckpointError
from forerun_compiler.vocabulary import MAGIC, byte_letters, encode_vocabulary


def pieces(data: bytes) -> list[bytes]:
    magic, count = struct.unpack_from("<II", data)
    assert magic == MAGIC
    offsets = struct.unpack_from(f"<{count + 1}I", data, 8)
    body = data[8 + 4 * (count + 1) :]
    assert offsets[0] == 0
    assert offsets[-1] == len(body)
    return [body[start:end] for start, end in itertools.pairwise(offsets)]


def byte_level() -> Tokenizer:
    vocabulary = {letter: byte for byte, letter in enumerate(byte_letters())} | {"th": 256}
    tokenizer = Tokenizer(models.BPE(vocabulary, [("t", "h")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken("<|end|>", special=True)])
    tokenizer.add_tokens([AddedToken("<tool é>", special=False)])
    return tokenizer


def test_byte_level_pieces() -> None:
    found = pieces(encode_vocabulary(byte_level().to_str(), 262, "here"))
    assert found[:256] == [bytes([byte]) for byte in range(256)]
    assert found[256:] == [b"th", b"", "<tool é>".encode(), b"", b"", b""]


def test_byte_level_text_is_that_of_the_library() -> None:
    tokenizer = byte_level()
    found = pieces(encode_vocabulary(tokenizer.to_str(), 259, "here"))
    text = "the\tthin 漢字 🙂 é\n\x00<tool é>"
    ids = tokenizer.encode(text).ids
    assert b"".join(found[index] for index in ids).decode() == text == tokenizer.decode(ids)


def test_sentence_piece_pieces() -> None:
    vocabulary = {"<unk>": 0, "▁a": 1, "b": 2, "<0xE6>": 3, "<0xBC>": 4, "<0xA2>": 5}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], byte_fallback=True, unk_token="<unk>"))
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens(["<unk>"])
    found = pieces(encode_vocabulary(tokenizer.to_str(), 6, "here"))
    assert found == [b"", b" a", b"b", b"\xe6", b"\xbc", b"\xa2"]
    assert b"".join(found).decode() == tokenizer.decode([1, 2, 3, 4, 5]) == " ab漢"


def test_unigram_with_metaspace() -> None:
    tokenizer = Tokenizer(models.Unigram([("▁hello", -1.0), ("x", -2.0)], unk_id=1))
    tokenizer.decoder = decoders.Metaspace()
    assert pieces(encode_vocabulary(tokenizer.to_str(), 2, "here")) == [b" hello", b"x"]


def test_a_special_token_beyond_the_logits_is_left_out() -> None:
    assert len(pieces(encode_vocabulary(byte_level().to_str(), 257, "here"))) == 257


def test_a_tokenizer_larger_than_the_model_is_refused() -> None:
    with pytest.raises(CheckpointError, match=r"here: the tokenizer has token 'th' with id 256, .* below 256"):
        encode_vocabulary(byte_level().to_str(), 256, "here")


@pytest.mark.parametrize("decoder", [{"type": "WordPiece", "prefix": "##", "cleanup": True}, None])
def test_unknown_decoders_are_refused(decoder: object) -> None:
    fields = json.loads(byte_level().to_str()) | {"decoder": decoder}
    with pytest.raises(CheckpointError, match=f"decoder is of kind {'WordPiece' if decoder else 'none'}; known here"):
        encode_vocabulary(json.dumps(fields), 300, "here")
