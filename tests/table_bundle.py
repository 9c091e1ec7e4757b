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
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

SCRIPT = "abcé-d漢(e)🙂fgh!"
"""What the target writes over and over when it decodes greedily; every byte occurs once."""

WRONG = (2, 5, 11, 12)
"""The places of the script where the drafter proposes something else: a rejection after 2, 5 and 0 drafts."""

EOS, IM_START, IM_END, MERGED = 256, 257, 258, 259
SPECIAL = {"<|eos|>": EOS, "<|im_start|>": IM_START, "<|im_end|>": IM_END}
VOCAB_SIZE = 260
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
) -> TableBundle:
    """Writes the bundle to `folder` (created); with `ends` the script is followed by EOS instead of itself."""
    folder.mkdir(parents=True)
    first, second, drafter = _tables(ends)
    bundle = TableBundle(folder, first, second, drafter, draft_len, capacity)
    weights, offsets = b"", {}
    for name, table in (("first", first), ("second", second), ("drafter", drafter)):
        offsets[name] = len(weights)
        weights += table.astype("<f4").tobytes()
    (folder / "weights.bin").write_bytes(weights)
    cache_rows = capacity + draft_len + 1
    graphs = {
        "round": _round_graph(draft_len, cache_rows, offsets),
        "plain": _plain_graph(cache_rows, offsets),
    }
    for name, model in graphs.items():
        (folder / f"{name}.onnx").write_bytes(model.SerializeToString(deterministic=True))
    _write_tokenizer(folder)
    (folder / "prompts.jsonl").write_text('{"prompt": "abc"}\n', encoding="utf-8")
    if chat:
        (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")
    facts = {
        "name": "table",
        "target_architecture": "TableForCausalLM",
        "drafter_family": "table",
        "vocab_size": VOCAB_SIZE,
        "hidden_size": 1,
        "draft_len": draft_len,
        "block_size": draft_len,
        "capacity": capacity,
        "cache_rows": cache_rows,
        "prefill_chunk": prefill_chunk,
        "taps": [0],
        "eos_token_ids": [EOS],
        "bos_token_id": None,
        "mask_token_id": None,
    }
    write_manifest(folder, facts, {name: interface(name, model) for name, model in graphs.items()})
    return bundle


def write_manifest(folder: Path, facts: dict[str, object], graphs: dict[str, object]) -> None:
    """Writes manifest.json over the files that lie in `folder`, sealed."""
    files = {}
    for path in sorted(folder.iterdir()):
        if path.name != "manifest.json":
            data = path.read_bytes()
            files[path.name] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    manifest = {
        "format": 1,
        "forerun": "0.1.0",
        "created": "2026-01-01T00:00:00+00:00",
        "files": files,
        "model": facts,
        "graphs": graphs,
        "precision": dict.fromkeys(("target", "drafter", "lm_head", "cache"), "float32"),
        "engines": [{"backend": "onnxruntime", "device": "cpu"}],
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
    names = {TensorProto.INT64: "int64", TensorProto.FLOAT: "float32"}
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


class _Graph:
    """Writes nodes one call at a time; the result's name is the call's value."""

    def __init__(self, offsets: dict[str, int]) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = [_external(name, offset) for name, offset in offsets.items()]

    def __call__(self, op: str, *inputs: str, out: str | None = None, **attributes: object) -> str:
        name = out or f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [name], **attributes))
        return name

    def constant(self, value: object, dtype: type = np.int64) -> str:
        array = np.asarray(value, dtype)
        tensor = onnx.numpy_helper.from_array(array, f"c{len(self.initializers)}")
        self.initializers.append(tensor)
        return str(tensor.name)

    def model(self, inputs: list[onnx.ValueInfoProto], outputs: list[onnx.ValueInfoProto]) -> onnx.ModelProto:
        graph = helper.make_graph(self.nodes, "table", inputs, outputs, self.initializers)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def _external(name: str, offset: int) -> onnx.TensorProto:
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[VOCAB_SIZE, VOCAB_SIZE])
    tensor.data_location = TensorProto.EXTERNAL
    length = 4 * VOCAB_SIZE * VOCAB_SIZE
    for key, value in (("location", "weights.bin"), ("offset", str(offset)), ("length", str(length))):
        tensor.external_data.add(key=key, value=value)
    return tensor


def _int(name: str, *shape: int | str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.INT64, shape)


def _float(name: str, *shape: int | str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def _write_rows(g: _Graph, state: str, values: str, rows: str) -> str:
    """state [1,1,C,1] with `values` [T] float32 at rows [T]."""
    column = g("Unsqueeze", rows, g.constant([1]))
    zero = g("Mul", column, g.constant(0))
    return g("ScatterND", state, g("Concat", zero, zero, column, zero, axis=1), values, out=f"{state}.out")


def _target(g: _Graph, rows: str) -> str:
    """Writes the tokens to the target's cache; logits [R, V] of `rows` [R], the one before read from the cache."""
    flat = g.constant([-1])
    tokens = g("Reshape", "tokens", flat, out="flat_tokens")
    steps = g("Range", g.constant(0), g("Squeeze", g("Shape", tokens)), g.constant(1))
    places = g("Add", steps, "position", out="places")
    stored = g("Cast", tokens, to=TensorProto.FLOAT, out="stored")
    cache = _write_rows(g, "target.0.k", stored, places)
    _write_rows(g, "target.0.v", stored, places)
    earlier = g("Max", g("Sub", places, g.constant([1])), g.constant([0]))
    before = g("Cast", g("Gather", g("Reshape", cache, flat), earlier), to=TensorProto.INT64)
    before = g("Where", g("Equal", places, g.constant([0])), g.constant([0]), before)
    first = g("Gather", "first", g("Gather", tokens, rows))
    return g("Add", first, g("Gather", "second", g("Gather", before, rows)))


def _safe_temperature(g: _Graph) -> tuple[str, str]:
    sampling = g("Greater", "temperature", g.constant([0], np.float32))
    return sampling, g("Where", sampling, "temperature", g.constant([1], np.float32))


def _draw(g: _Graph, weights: str, uniform: str) -> str:
    """An index [1] by inverse CDF over `weights` [V] (they need not sum to one) and `uniform` [1]."""
    sums = g("CumSum", weights, g.constant(0))
    level = g("Mul", g("Gather", sums, g.constant([VOCAB_SIZE - 1])), uniform)
    below = g("Cast", g("LessOrEqual", sums, level), to=TensorProto.INT64)
    return g("Min", g("ReduceSum", below, keepdims=1), g.constant([VOCAB_SIZE - 1]))


def _uniform(g: _Graph, *columns: int) -> str:
    return g("Gather", g("Reshape", "uniform", g.constant([-1])), g.constant(list(columns)))


def _round_graph(draft_len: int, cache_rows: int, offsets: dict[str, int]) -> onnx.ModelProto:
    g = _Graph(offsets)
    last = g("Sub", g("Gather", g("Shape", "tokens"), g.constant([1])), g.constant([1]))
    known = g("Add", "n_known", g.constant(list(range(-1, draft_len))))
    rows = g("Min", known, last)
    logits = _target(g, rows)
    sampling, temperature = _safe_temperature(g)
    p_target = g("Softmax", g("Div", logits, temperature), axis=1)
    best = g("ArgMax", logits, axis=1, keepdims=0)
    p_draft = g("Squeeze", "draft_probs", g.constant([0]))
    slots = g.constant(list(range(draft_len)))
    drafts = g("Gather", "flat_tokens", g("Min", g("Add", slots, "n_known"), last))
    accepted = _accept(g, drafts, slots, best, p_target, p_draft, sampling)
    n_accepted = g("ArgMin", g("Concat", accepted, g.constant([0]), axis=0), axis=0, keepdims=1, out="n_accepted")
    own = _own_token(g, n_accepted, best, p_target, p_draft, sampling, draft_len)
    padded = g("Concat", drafts, g.constant([-1]), axis=0)
    order = g.constant(list(range(draft_len + 1)))
    rest = g("Where", g("Equal", order, n_accepted), own, g.constant([-1]))
    committed = g("Where", g("Less", order, n_accepted), padded, rest)
    g("Unsqueeze", committed, g.constant([0]), out="committed")
    _write_rows(g, "drafter.0.k", "stored", "places")
    _write_rows(g, "drafter.0.v", "stored", "places")
    _draft(g, own, sampling, temperature, draft_len)
    cache = (1, 1, cache_rows, 1)
    names = ("target.0.k", "target.0.v", "drafter.0.k", "drafter.0.v")
    probs = (1, draft_len, VOCAB_SIZE)
    inputs = [_int("tokens", 1, "T"), _int("n_known", 1), _int("n_draft", 1), _int("position", 1)]
    inputs += [_float("temperature", 1), _float("uniform", 1, 2 * draft_len + 2)]
    inputs += [_float(name, *cache) for name in names] + [_float("draft_probs", *probs)]
    outputs = [_int("n_accepted", 1), _int("committed", 1, draft_len + 1), _int("draft_tokens", 1, draft_len)]
    outputs += [_float("draft_confidence", 1, draft_len)]
    outputs += [_float(f"{name}.out", *cache) for name in names] + [_float("draft_probs.out", *probs)]
    return g.model(inputs, outputs)


def _accept(g: _Graph, drafts: str, slots: str, best: str, p_target: str, p_draft: str, sampling: str) -> str:
    """[K] int64: 1 where the draft passes its own test, whatever came before it."""
    column = g("Unsqueeze", drafts, g.constant([1]))
    draft_len = g("Shape", drafts)
    head = g("Slice", p_target, g.constant([0]), draft_len, g.constant([0]))
    p_t = g("Squeeze", g("GatherElements", head, column, axis=1), g.constant([1]))
    p_d = g("Squeeze", g("GatherElements", p_draft, column, axis=1), g.constant([1]))
    tests = g("Gather", g("Reshape", "uniform", g.constant([-1])), slots)
    ratio = g("Less", g("Mul", tests, p_d), p_t)
    same = g("Equal", drafts, g("Gather", best, slots))
    real = g("Less", slots, "n_draft")
    passed = g("Or", g("And", sampling, ratio), g("And", g("Not", sampling), same))
    return g("Cast", g("And", passed, real), to=TensorProto.INT64)


def _own_token(
    g: _Graph, n_accepted: str, best: str, p_target: str, p_draft: str, sampling: str, draft_len: int
) -> str:
    """[1]: greedy, or from p_target after the last draft, or from the residual at the first rejection."""
    full = g("Squeeze", g("Gather", p_target, n_accepted), g.constant([0]))
    slot = g("Min", n_accepted, g.constant([draft_len - 1]))
    rejected = g("Squeeze", g("Gather", p_draft, slot), g.constant([0]))
    residual = g("Max", g("Sub", full, rejected), g.constant([0], np.float32))
    usable = g("Greater", g("ReduceSum", residual, keepdims=1), g.constant([0], np.float32))
    usable = g("And", usable, g("Less", n_accepted, "n_draft"))
    drawn = _draw(g, g("Where", usable, residual, full), _uniform(g, draft_len))
    return g("Where", sampling, drawn, g("Gather", best, n_accepted))


def _draft(g: _Graph, anchor: str, sampling: str, temperature: str, draft_len: int) -> None:
    tokens, probs, confidences = [], [], []
    for slot in range(draft_len):
        logits = g("Squeeze", g("Gather", "drafter", anchor), g.constant([0]))
        p = g("Softmax", g("Div", logits, temperature), axis=0)
        drawn = _draw(g, p, _uniform(g, draft_len + 1 + slot))
        anchor = g("Where", sampling, drawn, g("ArgMax", logits, axis=0, keepdims=1))
        tokens.append(anchor)
        probs.append(g("Unsqueeze", p, g.constant([0])))
        confidences.append(g("ReduceMax", p, keepdims=1))
    first = g.constant([0])
    g("Unsqueeze", g("Concat", *tokens, axis=0), first, out="draft_tokens")
    g("Unsqueeze", g("Concat", *confidences, axis=0), first, out="draft_confidence")
    g("Unsqueeze", g("Concat", *probs, axis=0), first, out="draft_probs.out")


def _plain_graph(cache_rows: int, offsets: dict[str, int]) -> onnx.ModelProto:
    g = _Graph({name: offset for name, offset in offsets.items() if name != "drafter"})
    logits = _target(g, g("Sub", "n_known", g.constant([1])))
    sampling, temperature = _safe_temperature(g)
    p_target = g("Squeeze", g("Softmax", g("Div", logits, temperature), axis=1), g.constant([0]))
    drawn = _draw(g, p_target, _uniform(g, 0))
    own = g("Where", sampling, drawn, g("ArgMax", logits, axis=1, keepdims=0))
    g("Unsqueeze", own, g.constant([0]), out="committed")
    cache = (1, 1, cache_rows, 1)
    inputs = [_int("tokens", 1, "T"), _int("n_known", 1), _int("position", 1), _float("temperature", 1)]
    inputs += [_float("uniform", 1, 1), _float("target.0.k", *cache), _float("target.0.v", *cache)]
    outputs = [_int("committed", 1, 1), _float("target.0.k.out", *cache), _float("target.0.v.out", *cache)]
    return g.model(inputs, outputs)


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
