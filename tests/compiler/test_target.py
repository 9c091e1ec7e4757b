"""Each architecture's traced graph against the original model: prefill, decoding in chunks, rollback, taps."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch

import tiny_models
from forerun_compiler import dialect, graph, target

CACHE = 48
PREFILL, CHUNKS = 21, (1, 3, 8)
TAPS = (2, 0)

MAX_ERROR = {
    "llama": 2e-5,
    "qwen2": 2e-5,
    "qwen3": 2e-5,
    "mistral": 2e-5,
    "gemma2": 2e-5,
    "gemma3_text": 2e-5,
    "phi3": 2e-5,
    "smollm3": 2e-5,
    "olmo2": 2e-5,
    "granite": 2e-5,
    "gpt_neox": 2e-5,
    "qwen3_moe": 2e-5,
}
"""Model type -> largest absolute difference of logits and taps from the original in float32 (logits reach about 10)."""


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("targets")
    cache: dict[str, target.Target] = {}

    def load(architecture: str, **overrides: object) -> target.Target:
        key = f"{architecture}{sorted(overrides.items())}"
        if key not in cache:
            path = tiny_models.save_target(folder / str(len(cache)), architecture, **overrides)
            cache[key] = target.load_target(path)
        return cache[key]

    return load


@pytest.fixture(scope="module")
def traced(loaded):
    cache: dict[str, ir.Model] = {}

    def trace(architecture: str) -> ir.Model:
        if architecture not in cache:
            cache[architecture] = target.trace_target(loaded(architecture), TAPS, CACHE)
        return cache[architecture]

    return trace


class Session:
    """A traced target that is run as the runtime runs it: a position, and caches that go in and come out."""

    def __init__(self, model) -> None:
        self.run = dialect.Evaluator(model)
        self.caches = {
            value.name: np.full(value.shape.numpy(), 7.0, np.float32)  # what rows hold before they are written is junk
            for value in model.graph.inputs
            if value.name.startswith("target.")
        }

    def step(self, tokens: list[int], position: int) -> tuple[np.ndarray, np.ndarray | None]:
        rows = np.arange(len(tokens))
        feeds = {"tokens": np.array([tokens]), "position": np.array([position]), "logit_rows": rows}
        found = self.run({**feeds, **self.caches})
        self.caches = {name: found[f"{name}.out"] for name in self.caches}
        return found["logits"][0], found["taps"][0] if "taps" in found else None


def original(model, tokens: list[int], taps: tuple[int, ...] = TAPS) -> tuple[np.ndarray, np.ndarray]:
    """The model of transformers with its plain attention: logits [N,V] and layer outputs [N,A*E] of a whole text."""
    outputs: dict[int, torch.Tensor] = {}
    layers = (model.gpt_neox if hasattr(model, "gpt_neox") else model.model).layers
    hooks = [
        layers[tap].register_forward_hook(
            lambda _m, _a, out, tap=tap: outputs.update({tap: out[0] if isinstance(out, tuple) else out})
        )
        for tap in taps
    ]
    model.set_attn_implementation("eager")
    with torch.no_grad():
        logits = model(torch.tensor([tokens]), use_cache=False).logits[0]
    for hook in hooks:
        hook.remove()
    return logits.numpy(), torch.cat([outputs[tap][0] for tap in taps], -1).numpy()


def text(length: int, seed: int) -> list[int]:
    return np.random.default_rng(seed).integers(0, tiny_models.VOCAB, length).tolist()


@pytest.mark.parametrize("architecture", sorted(MAX_ERROR))
def test_graph_equals_original(architecture: str, loaded, traced) -> None:
    loaded_target, session = loaded(architecture), Session(traced(architecture))
    tokens = text(PREFILL + sum(CHUNKS), 1)
    position, errors = 0, []
    logits, taps = original(loaded_target.model, tokens)
    for chunk in (PREFILL, *CHUNKS):
        rows = slice(position, position + chunk)
        found_logits, found_taps = session.step(tokens[rows], position)
        errors += [abs(found_logits - logits[rows]).max(), abs(found_taps - taps[rows]).max()]
        position += chunk
    # Rollback: the last 6 tokens are rejected; other tokens take their rows, and nothing of the old ones is seen.
    position -= 6
    other = [*tokens[:position], *text(4, 2)]
    logits, taps = original(loaded_target.model, other)
    found_logits, found_taps = session.step(other[position:], position)
    errors += [abs(found_logits - logits[position:]).max(), abs(found_taps - taps[position:]).max()]
    assert max(errors) <= MAX_ERROR[architecture]
    assert abs(logits).max() > 1.0, "logits are too small for the error to mean anything"


@pytest.mark.parametrize("tied", [True, False])
def test_head_is_stored_once_when_tied(tied: bool, loaded) -> None:
    model = target.trace_target(loaded("qwen3", tie_word_embeddings=tied), (), CACHE)
    wide = [name for name, value in model.graph.initializers.items() if tiny_models.VOCAB in value.shape]
    assert sorted(wide) == (["lm_head.weight"] if tied else ["lm_head.weight", "model.embed_tokens.weight"])
    assert [value.name for value in model.graph.outputs][:2] == ["logits", "target.0.k.out"]


def test_taps_are_hidden_states(loaded) -> None:
    loaded_target = loaded("qwen3")
    tokens = text(6, 3)
    _, taps = Session(target.trace_target(loaded_target, (0, 1, 2), CACHE)).step(tokens, 0)
    loaded_target.model.set_attn_implementation("eager")
    with torch.no_grad():
        result = loaded_target.model(torch.tensor([tokens]), output_hidden_states=True, use_cache=False)
    states = [state[0].numpy() for state in result.hidden_states]
    for tap in (0, 1):
        np.testing.assert_allclose(taps[:, tap * 64 : (tap + 1) * 64], states[tap + 1], rtol=0, atol=1e-5)
    # The last entry of hidden_states is behind the final norm; the tap is in front of it.
    normed = loaded_target.model.model.norm(torch.from_numpy(taps[:, 128:])).detach().numpy()
    np.testing.assert_allclose(normed, states[3], rtol=0, atol=1e-5)


def test_logits_of_the_asked_rows_only(traced) -> None:
    session = Session(traced("qwen3"))
    feeds = {"tokens": np.array([text(6, 4)]), "position": np.array([0]), **session.caches}
    every = session.run({**feeds, "logit_rows": np.arange(6)})["logits"]
    some = session.run({**feeds, "logit_rows": np.array([4, 1])})["logits"]
    np.testing.assert_allclose(some, every[:, [4, 1]], rtol=0, atol=1e-5)


def test_ends_are_the_contract(traced) -> None:
    model = traced("mistral")
    found = {v.name: [d if isinstance(d, int) else str(d) for d in v.shape] for v in model.graph.inputs}
    cache = [1, 2, CACHE, 24]
    caches = {f"target.{layer}.{part}": cache for layer in range(3) for part in "kv"}
    assert found == {"tokens": [1, "T"], "position": [1], "logit_rows": ["R"], **caches}
    found = {v.name: [d if isinstance(d, int) else str(d) for d in v.shape] for v in model.graph.outputs}
    outs = {f"{name}.out": shape for name, shape in caches.items()}
    assert found == {"logits": [1, "R", tiny_models.VOCAB], "taps": [1, "T", 128], **outs}


@pytest.mark.parametrize(
    ("architecture", "windows", "softcaps"),
    [
        ("llama", [0, 0, 0], [0.0] * 3),
        ("qwen2", [6, 0, 6], [0.0] * 3),
        ("mistral", [7, 7, 7], [0.0] * 3),
        ("gemma2", [5, 0, 5], [5.0] * 3),
        ("phi3", [9, 9, 9], [0.0] * 3),
    ],
)
def test_windows_and_softcaps_become_attributes(architecture, windows, softcaps, traced) -> None:
    model = traced(architecture)
    ops = [dialect.CachedAttention.from_node(n) for n in graph.find_nodes(model.graph, "CachedAttention", "forerun")]
    assert [op.window for op in ops] == windows
    assert [op.softcap for op in ops] == softcaps


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gemma3_text"])
def test_graph_is_small_and_canonical(architecture: str, traced) -> None:
    model = traced(architecture)
    ops = [node.op_type for node in model.graph]
    # Transposes of weights cost nothing: a lowering folds them into the product.
    weights = sum(node.inputs[0].is_initializer() for node in graph.find_nodes(model.graph, "Transpose"))
    assert (len(ops) - weights - 12) / 3 <= 29, "nodes a layer, beside positions, embedding and head"
    assert not {"Pow", "Sqrt", "Cos", "Sin", "Slice", "Neg", "Where", "Expand", "Cast", "Softmax"} & set(ops)


def digest(folder: str) -> str:
    model = target.trace_target(target.load_target(folder), (1,), CACHE)
    return hashlib.sha256(ir.to_proto(model).SerializeToString()).hexdigest()


def test_two_processes_give_equal_bytes(tmp_path: Path) -> None:
    folder = str(tiny_models.save_target(tmp_path / "target", "gemma3_text"))
    paths = [str(Path(__file__).parent), *sys.path]
    code = f"import sys; sys.path[:0] = {paths!r}; import test_target; print(test_target.digest({folder!r}))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found.split()[-1] == digest(folder)


def test_model_is_left_as_it_was(loaded) -> None:
    loaded_target = loaded("qwen3")
    model = loaded_target.model
    model.set_attn_implementation("sdpa")
    buffers = sorted(name for name, _ in model.named_buffers())
    target.trace_target(loaded_target, (1,), CACHE)
    assert model.config._attn_implementation == "sdpa"
    assert sorted(name for name, _ in model.named_buffers()) == buffers
    assert model.generate(torch.tensor([[1, 2, 3]]), max_new_tokens=2, do_sample=False).shape == (1, 5)


def test_facts_of_a_target(loaded) -> None:
    loaded_target = loaded("qwen3")
    assert loaded_target.architecture == "Qwen3ForCausalLM"
    assert (loaded_target.layers, loaded_target.hidden_size, loaded_target.vocab_size) == (3, 64, tiny_models.VOCAB)
    assert (loaded_target.eos_token_ids, loaded_target.bos_token_id) == ((tiny_models.EOS,), tiny_models.BOS)
