"""The graphs that TensorRT gets: standard operators only, and round for round what the CPU's own lowering computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest

from forerun_compiler import pipeline
from forerun_compiler.dialect import Linear
from forerun_compiler.errors import PassError, RecipeError
from forerun_compiler.graph import remove_unused
from forerun_compiler.manifest import EngineTarget, Precision
from forerun_compiler.model_facts import cache_rows
from forerun_compiler.passes.flatten_branches import flatten_branches
from forerun_compiler.passes.lower_tensorrt import lower_tensorrt, passes_for
from forerun_compiler.passes.name_products import products
from forerun_compiler.passes.ordered_passes import Pass
from forerun_compiler.schemes import TENSORRT_RTX
from hand_graphs import FLOAT, make_model, node, session
from ort_rounds import uniforms
from tiny_pairs import pair, recipe

ROUNDS, CHUNK = 40, 16
CACHE_TOLERANCE = {"float32": 2e-5, "float16": 2e-2}
CONFIDENCE_TOLERANCE = {"float32": 5e-6, "float16": 2e-2}
LEAST_DRAFTS = {"float32": 1.0, "float16": 0.97}
"""Share of equal draft tokens: two tokens of a random drafter may be equally probable in half precision."""
NUMPY = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(int64)": np.int64}
PROMPT = np.random.default_rng(0).integers(0, 256, 40).tolist()
Array = np.ndarray[Any, Any]


def lowered(graphs: pipeline.LinkedGraphs, dtype: Literal["float32", "float16"]) -> pipeline.CompiledGraphs:
    return pipeline.lower_linked(graphs, Precision(), EngineTarget(TENSORRT_RTX, dtype=dtype), lambda _: None)


class Graph:
    """A graph whose states are one buffer as input and output."""

    def __init__(self, model: ir.Model) -> None:
        self.session = session(model)
        outputs = self.session.get_outputs()
        written = {value.name for value in outputs}
        self.results = [value.name for value in outputs if not value.name.endswith(".out")]
        self.states = {
            value.name: ort.OrtValue.ortvalue_from_numpy(np.full(value.shape, 7, NUMPY[value.type]))
            for value in self.session.get_inputs()
            if f"{value.name}.out" in written
        }

    def run(self, **feeds: Array) -> dict[str, Array]:
        binding = self.session.io_binding()
        for name, array in feeds.items():
            binding.bind_cpu_input(name, array)
        for name in self.results:
            binding.bind_output(name, "cpu")
        for name, state in self.states.items():
            binding.bind_ortvalue_input(name, state)
            binding.bind_ortvalue_output(f"{name}.out", state)
        self.session.run_with_iobinding(binding)
        return dict(zip(self.results, [value.numpy() for value in binding.get_outputs()], strict=False))

    def rows(self, position: int) -> dict[str, Array]:
        """The rows of the caches that hold tokens, as float32."""
        return {
            name: state.numpy()[:, :, :position].astype(np.float32)
            for name, state in self.states.items()
            if name != "draft_probs"
        }


def feeds_of(tokens: list[int], known: int, position: int, temperature: float, uniform: Array) -> dict[str, Array]:
    return {
        "tokens": np.array([tokens]),
        "n_known": np.array([known]),
        "n_draft": np.array([len(tokens) - known if known == 1 else 0]),
        "position": np.array([position]),
        "temperature": np.array([temperature], np.float32),
        "uniform": uniform[None],
    }


@pytest.mark.parametrize(
    ("dtype", "temperature"), [("float32", 0.0), ("float32", 0.9), ("float16", 0.0)], ids=lambda each: str(each)
)
def test_rounds_equal_those_of_the_cpu_lowering(dtype: Literal["float32", "float16"], temperature: float) -> None:
    made = pair()
    ours, theirs = Graph(lowered(made.linked, dtype).round), Graph(made.graphs.round)
    numbers, position, seen = uniforms(1, ROUNDS + 9, 7), 0, set[int]()
    for start in range(0, len(PROMPT), CHUNK):
        part = PROMPT[start : start + CHUNK]
        feeds = feeds_of(part, len(part), position, temperature, numbers[ROUNDS])
        padded = np.array([[*part, *[0] * (CHUNK - len(part))]])
        found, wanted = ours.run(**feeds | {"tokens": padded}), theirs.run(**feeds)
        position += len(part)
    drafts = 0
    for index in range(ROUNDS):
        for name in ("n_accepted", "committed"):
            np.testing.assert_array_equal(found[name], wanted[name], err_msg=f"{index=}")
        same = found["draft_tokens"] == wanted["draft_tokens"]
        drafts += int(same.sum())
        if same.all():
            tolerance = CONFIDENCE_TOLERANCE[dtype]
            np.testing.assert_allclose(found["draft_confidence"], wanted["draft_confidence"], rtol=0, atol=tolerance)
        accepted = int(wanted["n_accepted"][0])
        seen.add(accepted)
        following = [int(wanted["committed"][0, accepted]), *wanted["draft_tokens"][0].tolist()]
        assert found["next_tokens"].tolist() == [[following[0], *found["draft_tokens"][0].tolist()]]
        assert found["next_position"].tolist() == [position]
        feeds = feeds_of(following, 1, position, temperature, numbers[index])
        found, wanted = ours.run(**feeds), theirs.run(**feeds)
        position += 1 + int(wanted["n_accepted"][0])
    assert {0, 7} <= seen
    assert drafts >= LEAST_DRAFTS[dtype] * 7 * ROUNDS
    for name, rows in theirs.rows(position).items():
        np.testing.assert_allclose(ours.rows(position)[name], rows, rtol=0, atol=CACHE_TOLERANCE[dtype], err_msg=name)


@pytest.mark.parametrize("options", [{"head": "gated"}, {"head": "rnn"}, {"markov": False}], ids=str)
@pytest.mark.parametrize("temperature", [0.0, 1.1])
def test_other_heads_draw_the_same_tokens(options: dict[str, Any], temperature: float) -> None:
    made = pair(agree=False, **options)
    ours, theirs = Graph(lowered(made.linked, "float32").round), Graph(made.graphs.round)
    tokens, position = [5, *range(7)], 0
    for row in uniforms(2, 12, 7):
        feeds = feeds_of(tokens, 1, position, temperature, row)
        found, wanted = ours.run(**feeds), theirs.run(**feeds)
        for name in ("n_accepted", "committed", "draft_tokens"):
            np.testing.assert_array_equal(found[name], wanted[name])
        tokens, position = found["next_tokens"][0].tolist(), int(found["next_position"][0])


@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_plain_decoding_equals_that_of_the_cpu_lowering(temperature: float) -> None:
    made = pair()
    ours, theirs = Graph(lowered(made.linked, "float32").plain), Graph(made.graphs.plain)
    tokens, position = PROMPT[:CHUNK], 0
    for row in np.random.default_rng(4).random((24, 1), np.float32):
        feeds = feeds_of(tokens, len(tokens), position, temperature, row)
        del feeds["n_draft"]
        found, wanted = ours.run(**feeds), theirs.run(**feeds)
        np.testing.assert_array_equal(found["committed"], wanted["committed"])
        assert found["next_tokens"].tolist() == wanted["committed"].tolist()
        tokens, position = found["next_tokens"][0].tolist(), int(found["next_position"][0])
        assert position == feeds["position"] + feeds["n_known"]


def test_only_standard_operators_of_opset_24_are_left() -> None:
    graphs = lowered(pair().linked, "float16")
    for model in (graphs.round, graphs.plain):
        assert dict(model.graph.opset_imports) == {"": 24}
        assert model.ir_version == 11
        ops = {each.op_type for each in model.graph.all_nodes()}
        assert not ops & {"If", "Loop", "Scan", "ArgMax", "ArgMin", "ScatterND", "ScatterElements"}
        written = [each for each in model.graph if each.op_type == "TensorScatter"]
        ends = {(str(each.inputs[0].name), str(each.outputs[0].name)) for each in written}  # type: ignore[union-attr]
        states = {str(value.name) for value in model.graph.outputs if str(value.name).endswith(".out")}
        assert ends == {(name.removesuffix(".out"), name) for name in states}
        assert all(each.inputs[0].is_graph_input() for each in written)  # type: ignore[union-attr]


def test_the_walk_is_one_chain() -> None:
    """One product with the Markov table a slot, although the round both draws and takes the largest."""
    model = pair().linked.round.clone()
    layers = [Linear.from_node(each).layer for each in products(model)]
    flatten_branches(model)
    remove_unused(model)
    flat = [Linear.from_node(each).layer for each in products(model)]
    table = "drafter.markov_head.markov_w2"
    assert (layers.count(table), flat.count(table)) == (2 * 7, 7)


def test_two_lowerings_are_the_same_bytes() -> None:
    linked = pair().linked
    first, second = (ir.to_proto(lowered(linked, "float16").round).SerializeToString() for _ in range(2))
    assert first == second


def test_a_pass_that_must_fire_and_does_not_is_an_error() -> None:
    x = ir.val("x", FLOAT, [2])
    made = node("Neg", [x], ("committed", [1, 2]))
    with pytest.raises(PassError, match=r"pass 'flatten branches' found nothing to rewrite in 'hand'"):
        lower_tensorrt(make_model([x], [made], made.outputs), passes_for("float16", narrower=False))
    model = pair().linked.round.clone()
    with pytest.raises(PassError, match=r"lowering 'round' for TensorRT left CacheWrite, CachedAttention, Linear of"):
        lower_tensorrt(model, (Pass("nothing", lambda _: 1, must_fire=True),))


def test_the_table_names_every_pass_once() -> None:
    names = [step.name for step in passes_for("float16", narrower=False)]
    assert len(set(names)) == len(names)


def test_caches_have_room_for_a_padded_prefill_run() -> None:
    made = pair()
    asked = recipe(Path(made.target), Path(made.drafter))
    facts = made.graphs.facts
    assert facts.cache_rows == facts.capacity + facts.draft_len + 1 + facts.block_size
    rows = cache_rows(asked.capacity, facts.draft_len, facts.block_size, asked.prefill_chunk)
    assert rows == facts.capacity + asked.prefill_chunk + facts.block_size


def test_prefill_chunks_that_are_no_multiple_of_a_decoding_run_are_refused() -> None:
    from dataclasses import replace

    made = pair()
    asked = recipe(Path(made.target), Path(made.drafter))
    asked = replace(asked, engines=(EngineTarget(), EngineTarget(TENSORRT_RTX)), prefill_chunk=100)
    text = r"tiny\.yaml: prefill_chunk: .* multiples of draft_len \+ 1 = 8 tokens; found 100, choose 96"
    with pytest.raises(RecipeError, match=text):
        pipeline.link_recipe(asked, lambda _: None)
