"""A bundle made by hand: table lookups instead of networks, so that every token is known beforehand.

The target is a second-order Markov chain: logits = first[token] + second[the token before it], the latter read back
from the cache, so that a wrong position or a stale row changes the output. The drafter is a first-order chain that
disagrees with the target at a few places of the script. `greedy_tokens` says in numpy what must come out.

The graphs follow the manifest's contract (inputs, outputs, states) and are written without the toolchain: this is a
second reading of that contract.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from table_graphs import VOCAB_SIZE, plain_graph, round_graph

SCRIPT = "abcé-d漢(e)🙂fgh!"
"""What the target writes over and over when it decodes greedily; every byte occurs once."""

WRONG = (2, 5, 11, 12)
"""The places of the script where the drafter proposes something else: a rejection after 2, 5 and 0 drafts."""

LOOKUP_MATCH = 2

EOS, IM_START, IM_END, MERGED = 256, 257, 258, 259
SPECIAL = {"<|eos|>": EOS, "<|im_start|>": IM_START, "<|im_end|>": IM_END}
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@dataclass(frozen=True)
class TableBundle:
    """Where the bundle lies, and what a test must know of it."""

    path: Path
    first: np.ndarray  # [V, V] float32
    second: np.ndarray  # [V, V] float32
    drafter: np.ndarray  # [V, V] float32
    draft_len: int
    capacity: int

    def logits(self, tokens: list[int]) -> np.ndarray:
        """The target's logits [V] after `tokens` (at least one)."""
        before = tokens[-2] if len(tokens) > 1 else 0
        return self.first[tokens[-1]] + self.second[before]

    def greedy_tokens(self, prompt: list[int], count: int) -> list[int]:
        """`count` tokens of greedy decoding after `prompt`."""
        tokens = list(prompt)
        for _ in range(count):
            tokens.append(int(np.argmax(self.logits(tokens))))
        return tokens[len(prompt) :]


def make_table_bundle(
    folder: Path,
    *,
    draft_len: int = 4,
    capacity: int = 200,
    prefill_chunk: int = 8,
    ends: bool = False,
    chat: bool = True,
    lookup_len: int = 0,
) -> TableBundle:
    """Writes the bundle to `folder` (created); with `ends` the script is followed by EOS instead of itself.

    With `lookup_len` it looks up as many tokens where the last LOOKUP_MATCH stood in the text before.
    """
    folder.mkdir(parents=True)
    first, second, drafter = _tables(ends)
    bundle = TableBundle(folder, first, second, drafter, draft_len, capacity)
    weights, offsets = b"", {}
    for name, table in (("first", first), ("second", second), ("drafter", drafter)):
        offsets[name] = len(weights)
        weights += table.astype("<f4").tobytes()
    (folder / "weights.bin").write_bytes(weights)
    cache_rows = capacity + max(draft_len, lookup_len) + 1
    graphs = {
        "round": round_graph(draft_len, cache_rows, offsets, lookup_len),
        "plain": plain_graph(cache_rows, offsets),
    }
    for name, model in graphs.items():
        (folder / f"{name}.onnx").write_bytes(model.SerializeToString(deterministic=True))
    _write_tokenizer(folder)
    (folder / "prompts.jsonl").write_text('{"prompt": "abc"}\n', encoding="utf-8")
    if chat:
        (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")
    facts = _facts(draft_len, capacity, cache_rows, prefill_chunk) | _lookup_facts(draft_len, lookup_len)
    write_manifest(folder, facts, {name: interface(name, model) for name, model in graphs.items()})
    return bundle


def _facts(draft_len: int, capacity: int, cache_rows: int, prefill_chunk: int) -> dict[str, object]:
    return {
        "name": "table",
        "target_architecture": "TableForCausalLM",
        "drafter_family": "table",
        "vocab_size": VOCAB_SIZE,
        "hidden_size": 1,
        "draft_len": draft_len,
        "lookup_len": 0,
        "lookup_match": 0,
        "block_size": draft_len,
        "capacity": capacity,
        "cache_rows": cache_rows,
        "prefill_chunk": prefill_chunk,
        "verify_widths": list(range(2, draft_len + 2)),
        "taps": [0],
        "eos_token_ids": [EOS],
        "bos_token_id": None,
        "mask_token_id": None,
    }


def _lookup_facts(draft_len: int, lookup_len: int) -> dict[str, object]:
    if not lookup_len:
        return {}
    widths = sorted({*range(2, draft_len + 2), max(draft_len, lookup_len) + 1})
    return {"lookup_len": lookup_len, "lookup_match": LOOKUP_MATCH, "verify_widths": widths}


CPU_ENGINE = {"backend": "onnxruntime", "device": "cpu", "built": []}


def write_manifest(
    folder: Path, facts: dict[str, object], graphs: dict[str, object], engines: Sequence[object] = (CPU_ENGINE,)
) -> None:
    """Writes manifest.json over the files that lie in `folder`, sealed."""
    files = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        if path.name != "manifest.json":
            data = path.read_bytes()
            name = path.relative_to(folder).as_posix()
            files[name] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    manifest = {
        "format": 5,
        "forerun": "0.1.0",
        "created": "2026-01-01T00:00:00+00:00",
        "files": files,
        "model": facts,
        "graphs": graphs,
        "precision": dict.fromkeys(("target", "drafter", "lm_head", "cache"), "float32"),
        "engines": list(engines),
        "recipe": "name: table\n",
        "source": {"target": "table", "drafter": "table"},
        "cost": [],
        "proof": None,
    }
    body = json.dumps(manifest, indent=2, ensure_ascii=False).removesuffix("\n}") + ",\n"
    seal = hashlib.sha256(body.encode()).hexdigest()
    (folder / "manifest.json").write_bytes(f'{body}  "seal": "{seal}"\n}}\n'.encode())


def interface(name: str, model: onnx.ModelProto) -> dict[str, object]:
    """The manifest's description of a graph: inputs, outputs, and the states that are both."""
    inputs, outputs = map(_tensors, (model.graph.input, model.graph.output))
    results = {tensor["name"] for tensor in outputs}
    states = [tensor for tensor in inputs if f"{tensor['name']}.out" in results]
    kept = {tensor["name"] for tensor in states}
    return {
        "file": f"{name}.onnx",
        "inputs": [tensor for tensor in inputs if tensor["name"] not in kept],
        "outputs": [tensor for tensor in outputs if str(tensor["name"]).removesuffix(".out") not in kept],
        "states": [
            {"name": t["name"], "output": f"{t['name']}.out", "dtype": t["dtype"], "shape": t["shape"]} for t in states
        ],
    }


def _tensors(values: object) -> list[dict[str, object]]:
    names = {TensorProto.INT64: "int64", TensorProto.FLOAT: "float32", TensorProto.FLOAT16: "float16"}
    described = []
    for value in values:  # type: ignore[attr-defined]
        tensor = value.type.tensor_type
        shape = [dim.dim_param or dim.dim_value for dim in tensor.shape.dim]
        described.append({"name": value.name, "dtype": names[tensor.elem_type], "shape": shape})
    return described


def _tables(ends: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """first, second and drafter, [V, V] float32: noise, and 9 for the script's successor of each of its bytes."""
    random = np.random.default_rng(7)
    first = random.normal(size=(VOCAB_SIZE, VOCAB_SIZE)).astype(np.float32)
    second = (0.5 * random.normal(size=(VOCAB_SIZE, VOCAB_SIZE))).astype(np.float32)
    drafter = first.copy()
    script = list(SCRIPT.encode())
    assert len(set(script)) == len(script)
    after = [*script[1:], EOS if ends else script[0]]
    for at, (token, successor) in enumerate(zip(script, after, strict=True)):
        first[token, successor] += 9
        drafter[token, EOS - 1 if at in WRONG else successor] += 9
    first[:, [IM_START, IM_END, MERGED]] -= 20
    if not ends:
        first[:, EOS] -= 20
    return first, second, drafter


def _write_tokenizer(folder: Path) -> None:
    """A byte-level tokenizer (id = byte, one merge: "th"), and vocab.bin: the bytes of every id."""
    letters = _byte_letters()
    vocabulary = {letters[byte]: byte for byte in range(256)} | SPECIAL | {"th": MERGED}
    tokenizer = Tokenizer(models.BPE(vocabulary, [("t", "h")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(text, special=True) for text in SPECIAL])
    tokenizer.save(str(folder / "tokenizer.json"))
    pieces = [bytes([byte]) for byte in range(256)] + [b"", b"", b"", b"th"]
    ends = np.cumsum([0] + [len(piece) for piece in pieces])
    header = struct.pack("<II", 0x46524E56, VOCAB_SIZE) + ends.astype("<u4").tobytes()
    (folder / "vocab.bin").write_bytes(header + b"".join(pieces))


def _byte_letters() -> list[str]:
    """The printable letter that byte-level BPE writes for each byte (the GPT-2 table)."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]


def edit_manifest(folder: Path, change: Callable[[Any], None]) -> None:
    """Changes the manifest and seals it again: what the runtime then refuses, it refuses for its content."""
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    change(manifest)
    write_manifest(folder, manifest["model"], manifest["graphs"], manifest["engines"])


def reseal(folder: Path) -> None:
    """Give the files of a bundle, changed since, the hashes and the seal that belong to them."""
    edit_manifest(folder, lambda manifest: None)
