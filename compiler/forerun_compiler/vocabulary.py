"""vocab.bin: the bytes that each token id decodes to, so that the C core writes text without a tokenizer library.

Layout, little endian: uint32 magic 0x46524E56, uint32 count, uint32 offsets[count + 1], then the bytes; id i decodes to
bytes offsets[i] .. offsets[i + 1]. Special tokens, and ids that the tokenizer does not use, have none.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable
from typing import Any

from forerun_compiler.errors import CheckpointError

MAGIC = 0x46524E56
_BYTE_FALLBACK = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def encode_vocabulary(tokenizer_json: str, vocab_size: int, where: str) -> bytes:
    """vocab.bin of a tokenizer.json for a model of `vocab_size` logits; `where` names the checkpoint in messages.

    Raises:
        CheckpointError: the tokenizer's decoder is of a kind whose bytes are not known here, or it has more ids than
            the model has logits.
    """
    tokenizer: dict[str, Any] = json.loads(tokenizer_json)
    pieces = [b""] * vocab_size
    to_bytes = _piece_decoder(tokenizer.get("decoder"), where)
    for text, index in _vocabulary(tokenizer["model"], where).items():
        if index >= vocab_size:
            raise CheckpointError(
                f"{where}: the tokenizer has token {text!r} with id {index}, the model has logits for ids below "
                f"{vocab_size}: tokenizer and model do not belong together"
            )
        pieces[index] = to_bytes(text)
    for token in tokenizer.get("added_tokens", ()):
        # Added tokens beyond the logits (an image token of a text model) can be read but never written.
        if token["id"] < vocab_size:
            pieces[token["id"]] = b"" if token["special"] else token["content"].encode()
    offsets, end = [0], 0
    for piece in pieces:
        end += len(piece)
        offsets.append(end)
    return struct.pack(f"<{len(offsets) + 2}I", MAGIC, vocab_size, *offsets) + b"".join(pieces)


def _vocabulary(model: dict[str, Any], where: str) -> dict[str, int]:
    vocab = model.get("vocab")
    if isinstance(vocab, dict):
        return vocab
    if isinstance(vocab, list):  # Unigram: [piece, score] in the order of the ids
        return {piece: index for index, (piece, _) in enumerate(vocab)}
    raise CheckpointError(f"{where}: expected a tokenizer model with a vocabulary, found kind {model.get('type')!r}")


def _piece_decoder(decoder: dict[str, Any] | None, where: str) -> Callable[[str], bytes]:
    """What turns a vocabulary entry into bytes: byte-level letters, or text with a space mark and <0xNN> bytes."""
    steps = [] if decoder is None else decoder.get("decoders", [decoder])
    kinds = {step["type"] for step in steps}
    if "ByteLevel" in kinds:
        alphabet = {letter: byte for byte, letter in enumerate(byte_letters())}
        return lambda piece: _byte_level(piece, alphabet)
    unknown = kinds - {"Metaspace", "Replace", "ByteFallback", "Fuse", "Strip"}
    if unknown or not kinds:
        raise CheckpointError(
            f"{where}: the tokenizer's decoder is of kind {', '.join(sorted(unknown)) or 'none'}; known here are "
            "ByteLevel and the SentencePiece kinds (Metaspace; Replace, ByteFallback, Fuse, Strip)"
        )
    replacements = [("▁", " ")] if "Metaspace" in kinds else []
    replacements += [(step["pattern"]["String"], step["content"]) for step in steps if step["type"] == "Replace"]
    return lambda piece: _sentence_piece(piece, replacements)


def byte_letters() -> list[str]:
    """The letter of each byte in byte-level BPE (GPT-2): printable Latin-1 as itself, the rest from U+0100 on."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]


def _byte_level(piece: str, alphabet: dict[str, int]) -> bytes:
    if all(letter in alphabet for letter in piece):
        return bytes(alphabet[letter] for letter in piece)
    return piece.encode()


def _sentence_piece(piece: str, replacements: list[tuple[str, str]]) -> bytes:
    if match := _BYTE_FALLBACK.fullmatch(piece):
        return bytes([int(match[1], 16)])
    for old, new in replacements:
        piece = piece.replace(old, new)
    return piece.encode()
