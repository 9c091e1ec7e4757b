"""The compiled round on ONNX Runtime against plain PyTorch: drafts, confidences, committed tokens, guarantees."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
from transformers import AutoModelForCausalLM

from dspark_reference import Drafter, Mutation, rounds
from forerun_compiler import pipeline
from forerun_compiler.errors import PassError, RecipeError
from forerun_compiler.manifest import EngineTarget, Override, Precision
from ort_rounds import GraphRunner, Result, Rounds, open_session, uniforms
from tiny_models import EOS
from tiny_pairs import CAPACITY, Pair, pair, recipe

CONFIDENCE_TOLERANCE = 2e-5
PROMPTS = tuple(
    tuple(np.random.default_rng(seed).integers(0, 256, length).tolist())
    for seed, length in enumerate((17, 1, 40, 2, 23, 9))
)
DEMO = Path(__file__).parents[2] / "recipes/demo"


def hugging_face(folder: Path) -> torch.nn.Module:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def compare(
    engine: Path, target: Path, drafter: Path, *, temperature: float, count: int, prompts: tuple[tuple[int, ...], ...]
) -> Counter[int]:
    """Run both and compare every round; returns how often each number of drafts was accepted."""
    model, reference, seen = hugging_face(target), Drafter(drafter), Counter[int]()
    for seed, prompt in enumerate(prompts):
        loop = Rounds(engine / "round.onnx", temperature=temperature)
        numbers = uniforms(seed, count, loop.k)
        expected = rounds(
            model, reference, prompt, draft_len=loop.k, temperature=temperature, uniforms=numbers.tolist()
        )
        for index, want in enumerate(expected):
            row = numbers[index].tolist()
            got = loop.step(row) if index else loop.prefill(prompt, row, chunk=11)
            assert (got.n_accepted, got.committed) == (want.n_accepted, want.committed), f"{seed=} {index=}"
            assert got.draft_tokens == want.draft_tokens, f"{seed=} {index=}"
            np.testing.assert_allclose(
                got.draft_confidence,
                want.draft_confidence,
                rtol=0,
                atol=CONFIDENCE_TOLERANCE,
                err_msg=f"{seed=} {index=}",
            )
            seen[want.n_accepted] += bool(index)
    return seen


@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_round_equals_plain_pytorch(temperature: float) -> None:
    made = pair()
    seen = compare(made.engine, made.target, made.drafter, temperature=temperature, count=36, prompts=PROMPTS)
    assert sum(seen.values()) >= 200
    # Every way that a round can end was met: nothing kept, some, all.
    assert seen[0]
    assert seen[7]
    assert sum(seen[n] for n in range(1, 7)) >= 20


@pytest.mark.parametrize("temperature", [0.0, 1.1])
@pytest.mark.parametrize("options", [{"head": "gated"}, {"head": "rnn"}, {"markov": False}, {"draft_len": 4}])
def test_other_heads_and_lengths_equal_plain_pytorch(options: dict[str, object], temperature: float) -> None:
    agree = options.get("draft_len") is not None
    made = pair(agree=agree, **options)  # type: ignore[arg-type]
    compare(made.engine, made.target, made.drafter, temperature=temperature, count=12, prompts=PROMPTS[:2])


@pytest.mark.slow
def test_demo_equals_plain_pytorch(tmp_path: Path) -> None:
    from forerun_compiler.engines import onnxruntime as engine

    linked = pipeline.link_recipe(recipe(DEMO / "target", DEMO / "drafter", capacity=512), lambda _: None)
    engine.write(pipeline.lower_linked(linked, Precision(), EngineTarget(), lambda _: None), tmp_path)
    prompts = tuple(tuple(int(t) for t in np.random.default_rng(seed).integers(4, 4000, 24)) for seed in range(4))
    seen = compare(tmp_path, DEMO / "target", DEMO / "drafter", temperature=0.0, count=52, prompts=prompts)
    assert sum(seen.values()) >= 200


@pytest.mark.parametrize("mutation", [Mutation(markov_shift=1), Mutation(position_shift=-1)])
def test_comparison_sees_mistakes(mutation: Mutation) -> None:
    made = pair(agree=False)
    model, drafter = hugging_face(made.target), Drafter(made.drafter, mutation)
    loop = Rounds(made.engine / "round.onnx")
    numbers = uniforms(0, 1, loop.k)
    want = next(rounds(model, drafter, PROMPTS[0], draft_len=loop.k, temperature=0.0, uniforms=numbers.tolist()))
    assert loop.prefill(PROMPTS[0], numbers[0].tolist()).draft_tokens != want.draft_tokens


def decode(loop: Rounds, prompt: tuple[int, ...], count: int) -> list[int]:
    tokens = list(loop.prefill(prompt, [0.5] * (2 * loop.k + 2)).committed)
    while len(tokens) < count:
        tokens += loop.step([0.5] * (2 * loop.k + 2)).committed
    return tokens[:count]


@pytest.mark.parametrize("prompt", PROMPTS[:4], ids=len)
def test_greedy_rounds_equal_hugging_face_generate(prompt: tuple[int, ...]) -> None:
    made = pair()
    model = hugging_face(made.target)
    generated = model.generate(  # type: ignore[operator]
        torch.tensor([prompt]), max_new_tokens=48, do_sample=False, eos_token_id=None, pad_token_id=EOS
    )
    assert decode(Rounds(made.engine / "round.onnx"), prompt, 48) == generated[0, len(prompt) :].tolist()


def test_plain_graph_equals_hugging_face_generate() -> None:
    made, prompt, tokens = pair(), PROMPTS[0], list[int]()
    runner = GraphRunner(open_session(made.engine / "plain.onnx"))
    assert set(runner.results) == {"committed"}
    assert not any(name.startswith("d") for name in runner.states)
    position, known = 0, list(prompt)
    while len(tokens) < 32:
        out = runner.run(
            tokens=np.array([known], np.int64),
            n_known=np.array([len(known)], np.int64),
            position=np.array([position], np.int64),
            temperature=np.zeros(1, np.float32),
            uniform=np.zeros((1, 1), np.float32),
        )
        position, known = position + len(known), out["committed"][0].tolist()
        tokens += known
    generated = hugging_face(made.target).generate(  # type: ignore[operator]
        torch.tensor([prompt]), max_new_tokens=32, do_sample=False, eos_token_id=None, pad_token_id=EOS
    )
    assert tokens == generated[0, len(prompt) :].tolist()


def test_speculation_off_at_the_same_width_gives_the_same_tokens() -> None:
    made, prompt = pair(), PROMPTS[2]
    loop = Rounds(made.engine / "round.onnx", padding=7)
    off = list(loop.prefill(prompt, [0.5] * 16).committed)
    while len(off) < 60:
        off += loop.step([0.5] * 16, n_draft=0).committed
    assert decode(Rounds(made.engine / "round.onnx"), prompt, 60) == off[:60]


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_rows_do_not_depend_on_padding(temperature: float) -> None:
    """Same prompt, fewer drafts verified, two paddings: all numbers, the written states too, are the same bits."""
    made, results = pair(), list[tuple[list[Result], dict[str, np.ndarray]]]()
    for padding in (0, 131):
        loop = Rounds(made.engine / "round.onnx", temperature=temperature, padding=padding)
        numbers = uniforms(3, 9, loop.k)
        given = [loop.prefill(PROMPTS[0], numbers[0].tolist())]
        given += [loop.step(numbers[i].tolist(), n_draft=i % 4) for i in range(1, 9)]
        rows = {
            name: state[..., : loop.position, :] for name, state in loop.runner.states.items() if "draft_p" not in name
        }
        results.append((given, rows))
    assert results[0][0] == results[1][0]
    for name, state in results[0][1].items():
        np.testing.assert_array_equal(state, results[1][1][name], err_msg=name)


def test_draft_probs_are_the_distributions_of_the_draft() -> None:
    made = pair()
    loop = Rounds(made.engine / "round.onnx", temperature=0.7)
    loop.prefill(PROMPTS[0], uniforms(0, 1, loop.k)[0].tolist())
    probs = loop.runner.states["draft_probs"][0]
    np.testing.assert_allclose(probs.sum(-1), 1.0, rtol=0, atol=1e-5)
    assert all(probs[slot, token] > 0 for slot, token in enumerate(loop.draft))


def test_the_last_rounds_of_a_context_stay_inside_the_cache() -> None:
    made = pair()
    loop = Rounds(made.engine / "round.onnx")
    prompt = tuple(np.random.default_rng(5).integers(0, 256, CAPACITY - 1).tolist())
    loop.prefill(prompt, [0.5] * 16)
    # One token fits; the round's own rows and its block all lie past the capacity, and must find room.
    assert loop.step([0.5] * 16).n_accepted >= 0
    rows = made.graphs.facts.cache_rows
    assert rows >= CAPACITY + made.graphs.facts.draft_len + 1
    assert loop.runner.states["target.0.k"].shape[2] == rows


def test_facts_and_interfaces() -> None:
    made = pair(draft_len=4)
    facts = made.graphs.facts
    assert (facts.draft_len, facts.block_size, facts.taps, facts.vocab_size) == (4, 7, (0, 1), 272)
    assert facts.target_architecture == "Qwen3ForCausalLM"
    assert facts.drafter_family == "dspark"
    spoken = made.interfaces["round"]
    assert [(t.name, t.dtype, t.shape) for t in spoken.inputs] == [
        ("tokens", "int64", (1, "T")),
        ("n_known", "int64", (1,)),
        ("n_draft", "int64", (1,)),
        ("position", "int64", (1,)),
        ("temperature", "float32", (1,)),
        ("uniform", "float32", (1, 10)),
    ]
    assert [(t.name, t.shape) for t in spoken.outputs] == [
        ("n_accepted", (1,)),
        ("committed", (1, 5)),
        ("draft_tokens", (1, 4)),
        ("draft_confidence", (1, 4)),
    ]
    assert [s.name for s in made.interfaces["plain"].states] == [
        f"target.{i}.{kind}" for i in range(3) for kind in "kv"
    ]
    assert [s.name for s in spoken.states][-5:] == [
        *(f"drafter.{j}.{kind}" for j in range(2) for kind in "kv"),
        "draft_probs",
    ]


def test_stages_are_named_in_order() -> None:
    made, stages = pair(), list[str]()
    linked = pipeline.link_parts(made.parts, made.graphs.facts, stages.append)
    pipeline.lower_linked(linked, Precision(), EngineTarget(), stages.append)
    assert stages == [
        "link the round",
        "name linear layers",
        "share equal weights",
        "check weights",
        "choose precision",
        "lower to ONNX Runtime",
        "share equal constants",
    ]


def test_caches_of_int8_are_states_of_the_graphs_and_refused_for_gpus() -> None:
    linked, precision = pair().linked, Precision(cache="int8")
    stages: list[str] = []
    graphs = pipeline.lower_linked(linked, precision, EngineTarget(), stages.append)
    assert stages[:2] == ["choose precision", "quantize caches"]
    for graph in (graphs.round, graphs.plain):
        inputs = {str(value.name): value.dtype for value in graph.graph.inputs}
        states = {name: dtype for name, dtype in inputs.items() if name.startswith("target.0.")}
        assert list(states) == ["target.0.k", "target.0.k_scale", "target.0.v", "target.0.v_scale"]
        assert list(states.values()) == [ir.DataType.INT8, ir.DataType.FLOAT] * 2
    with pytest.raises(PassError, match="caches in int8 are lowered for onnxruntime only; tensorrt-rtx has none"):
        pipeline.lower_linked(linked, precision, EngineTarget("tensorrt-rtx", "cuda"), stages.append)


def test_a_pattern_that_matches_no_layer_is_refused() -> None:
    made: Pair = pair()
    precision = Precision(overrides=(Override("target.*", "int8"), Override("*.up_prj", "int8")))
    asked = replace(recipe(made.target, made.drafter), precision=precision, override_lines=(8, 9))
    with pytest.raises(RecipeError) as caught:
        pipeline.check_overrides(asked, made.linked)
    assert str(caught.value).startswith("tiny.yaml:9: precision.overrides[1].layers: '*.up_prj' matches none of the ")
    assert "target.model.layers.0.self_attn.q_proj" in str(caught.value)


def test_a_pattern_of_an_engines_own_precision_is_refused_too() -> None:
    made: Pair = pair()
    own = EngineTarget("tensorrt-rtx", "cuda", precision=Precision(overrides=(Override("target.nose", "fp8"),)))
    asked = replace(recipe(made.target, made.drafter), engines=(EngineTarget(), own), engine_override_lines=((), (12,)))
    with pytest.raises(RecipeError, match=r"^tiny\.yaml:12: engines\[1\]\.precision\.overrides\[0\]\.layers: 'target"):
        pipeline.check_overrides(asked, made.linked)


def test_an_override_that_no_layer_can_follow_is_refused_with_the_reason() -> None:
    made: Pair = pair()
    precision = Precision(overrides=(Override("drafter.fc", "int8-static"),))
    asked = replace(recipe(made.target, made.drafter), precision=precision, override_lines=(8,))
    with pytest.raises(RecipeError) as caught:
        pipeline.check_overrides(asked, made.linked)
    assert str(caught.value).startswith("tiny.yaml:8: precision.overrides[0].layers: 'drafter.fc' matches 1 of the ")
    assert "int8-static for it is not possible (drafter.fc: fc reads the target's features" in str(caught.value)
    # One layer that can follow is enough; and float32 is always possible.
    for fine in (Override("drafter.*", "int8-static"), Override("drafter.fc", "float32")):
        pipeline.check_overrides(replace(asked, precision=Precision(overrides=(fine,))), made.linked)


def test_fc_in_int8_is_possible_on_onnx_runtime_alone() -> None:
    made: Pair = pair()
    precision = Precision(overrides=(Override("drafter.fc", "int8"),))
    asked = replace(recipe(made.target, made.drafter), precision=precision, override_lines=(8,))
    gpu = EngineTarget("tensorrt-rtx", "cuda")
    pipeline.check_overrides(replace(asked, engines=(gpu, EngineTarget())), made.linked)
    with pytest.raises(RecipeError, match="int8 for it is not possible"):
        pipeline.check_overrides(replace(asked, engines=(gpu,)), made.linked)
