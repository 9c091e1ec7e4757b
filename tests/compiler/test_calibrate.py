"""Statistics of a tiny pair against the same model in PyTorch, limits of the text, and what is refused."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch

import dspark_reference
import tiny_pairs
from forerun_compiler.activation_range import BINS, Calibration, count
from forerun_compiler.calibrate import calibrate
from forerun_compiler.calibration_text import TEXTS
from forerun_compiler.errors import CalibrationError
from forerun_compiler.passes.assign_precision import layer_names
from forerun_compiler.teacher_forcing import CalibrationSettings, encode_texts
from tiny_models import VOCAB

WIDTH = 8  # draft_len + 1 of the tiny pair
RNG = np.random.default_rng(5)
SEQUENCES = tuple(tuple(RNG.integers(0, 256, length).tolist()) for length in (40, 19, 3))


def pair() -> tiny_pairs.Pair:
    return tiny_pairs.pair(head="rnn", agree=False)


def run(
    sequences: Sequence[Sequence[int]], *, model: ir.Model | None = None, settings: CalibrationSettings | None = None
) -> Calibration:
    linked = pair().linked
    return calibrate(model or linked.round, linked.facts, sequences, settings or CalibrationSettings(), lambda *_: None)


@functools.cache
def found() -> Calibration:
    return run(SEQUENCES)


@functools.cache
def inputs_in_pytorch() -> dict[str, np.ndarray]:
    """What each nn.Linear of the target reads [rows,K], and the tapped layers' outputs, over all rows of SEQUENCES."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(pair().target, dtype=torch.float32).eval()
    seen: dict[str, list[torch.Tensor]] = {}
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_pre_hook(lambda _, args, name=name: seen.setdefault(name, []).append(args[0][0]))
    for tokens in SEQUENCES:
        with torch.no_grad():
            out = model(torch.tensor([tokens]), output_hidden_states=True)
        taps = [out.hidden_states[tap + 1][0] for tap in pair().linked.facts.taps]
        seen.setdefault("taps", []).append(torch.cat(taps, dim=-1))
        seen.setdefault("best", []).append(out.logits[0].argmax(-1))
    return {name: torch.cat(parts).numpy() for name, parts in seen.items()}


def check(layer: str, expected: np.ndarray) -> None:
    statistics = found().layers[layer]
    assert statistics.rows == len(expected), layer
    assert statistics.absmax == pytest.approx(float(np.abs(expected).max()), rel=1e-4), layer
    moment = np.square(expected, dtype=np.float64).mean(axis=0)
    np.testing.assert_allclose(statistics.second_moment, moment, rtol=1e-3, err_msg=layer)
    moved = np.abs(np.cumsum(statistics.histogram) - np.cumsum(count(expected)))
    assert moved.max() <= 0.002 * expected.size, layer  # values at a bin's edge may fall to either side


def test_every_layer_of_the_target_read_what_it_reads_in_pytorch() -> None:
    layers = [name for name in inputs_in_pytorch() if name not in ("taps", "best")]
    assert len(layers) == 22
    for name in layers:
        check(f"target.{name}", inputs_in_pytorch()[name])


def test_the_drafters_fusion_read_the_tapped_layers() -> None:
    check("drafter.fc", inputs_in_pytorch()["taps"])


def test_context_and_block_of_the_drafter_have_statistics() -> None:
    runs = sum(-(-len(tokens) // WIDTH) for tokens in SEQUENCES)
    block, context = runs * pair().linked.facts.block_size, sum(map(len, SEQUENCES))
    rows = {name: found().layers[f"drafter.layers.0.{name}"].rows for name in ("self_attn.q_proj", "mlp.down_proj")}
    assert rows == {"self_attn.q_proj": block, "mlp.down_proj": block}
    for name in ("k_proj", "v_proj"):  # one weight, read by both
        assert found().layers[f"drafter.layers.1.self_attn.{name}"].rows == block + context


class Recorder(dspark_reference.Drafter):
    """The drafter in plain PyTorch, which keeps what its linear layers read."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.read: dict[str, list[torch.Tensor]] = {}

    def linear(self, name: str, x: torch.Tensor) -> torch.Tensor:
        self.read.setdefault(name, []).append(x)
        return super().linear(name, x)


@functools.cache
def inputs_of_the_drafter() -> dict[str, np.ndarray]:
    """What each layer of the drafter reads: the context of a text once, and a block behind every run of its tokens."""
    drafter, size = Recorder(pair().drafter), pair().linked.facts.block_size
    read: dict[str, list[torch.Tensor]] = {}
    first = 0
    for tokens in SEQUENCES:
        taps = torch.from_numpy(inputs_in_pytorch()["taps"][first : first + len(tokens)])
        best = inputs_in_pytorch()["best"][first : first + len(tokens)]
        for end in [*range(WIDTH, len(tokens), WIDTH), len(tokens)]:
            drafter.read.clear()
            drafter.block(taps[:end], int(best[end - 1]))
            del drafter.read["fc"]
            for name, (x,) in drafter.read.items():
                context = len(x) - size  # 0 for layers that read the block alone
                read.setdefault(name, []).append(x if end == len(tokens) else x[max(context, 0) :])
        first += len(tokens)
    return {name: torch.cat(parts).numpy() for name, parts in read.items()}


def test_every_layer_of_the_drafter_read_what_it_reads_in_pytorch() -> None:
    assert len(inputs_of_the_drafter()) == 15
    for name, expected in inputs_of_the_drafter().items():
        check(f"drafter.{name}", expected)


def test_layers_within_branches_are_missing_and_said_to_be() -> None:
    assert found().missing == ("drafter.markov_head.joint_proj", "drafter.markov_head.markov_w2")
    assert {*found().layers, *found().missing} == set(layer_names([pair().linked.round]))


def test_every_value_is_counted_once() -> None:
    for layer, statistics in found().layers.items():
        assert statistics.histogram.shape == (BINS,)
        assert statistics.histogram.sum() == statistics.rows * statistics.second_moment.size, layer
    assert found().tokens == sum(map(len, SEQUENCES))


def test_two_runs_give_the_same_bytes_and_leave_the_graph_alone() -> None:
    before = ir.to_proto(pair().linked.round).SerializeToString(deterministic=True)
    again = run(SEQUENCES)
    assert list(again.layers) == list(found().layers)
    for layer, one in found().layers.items():
        other = again.layers[layer]
        assert (one.rows, one.absmax) == (other.rows, other.absmax)
        assert one.histogram.tobytes() == other.histogram.tobytes()
        assert one.second_moment.tobytes() == other.second_moment.tobytes()
    assert ir.to_proto(pair().linked.round).SerializeToString(deterministic=True) == before


def test_progress_ends_where_it_said() -> None:
    calls: list[tuple[str, int, int]] = []
    calibrate(
        pair().linked.round,
        pair().linked.facts,
        [range(20), range(3)],
        CalibrationSettings(),
        lambda *call: calls.append(call),
    )
    assert calls == [("calibrate", done, 23) for done in (0, 8, 16, 20, 23)]


def test_all_texts_are_cut_at_one_length_to_fit_the_number_of_tokens() -> None:
    tokens = run([range(100), range(4), range(50)], settings=CalibrationSettings(tokens=64))
    assert tokens.tokens == 64
    assert tokens.layers["drafter.fc"].rows == 30 + 4 + 30


def test_a_text_is_cut_to_the_capacity() -> None:
    assert run([[1] * 1000]).tokens == tiny_pairs.CAPACITY


@pytest.mark.parametrize(
    ("sequences", "message"),
    [
        ([], r"expected at least 16 tokens of text, found 0 in 0 texts; give more or longer ones"),
        ([[1] * 7, [2] * 8], r"expected at least 16 tokens of text, found 15 in 2 texts; give more"),
        ([[1] * 30, []], r"calibration text 2 of 2: expected some text, found no token"),
        ([[1] * 30, [3, VOCAB]], r"calibration text 2 of 2: expected tokens below 272 .*, found 272: tokenizer and"),
        ([[1] * 30, [-1]], r"calibration text 2 of 2: expected tokens below 272 .*, found -1: tokenizer and"),
    ],
)
def test_text_that_does_not_suffice_is_refused(sequences: list[list[int]], message: str) -> None:
    with pytest.raises(CalibrationError, match=message):
        run(sequences)


@pytest.mark.parametrize("settings", [{"tokens": 0}, {"least_tokens": 0}, {"tokens": 20, "least_tokens": 21}])
def test_settings_that_nothing_satisfies_are_refused(settings: dict[str, int]) -> None:
    with pytest.raises(CalibrationError, match=r"calibration: expected at least 1 token, and no more of least_tokens"):
        CalibrationSettings(**settings)


def poisoned(initializer: str, row: int, value: float) -> ir.Model:
    """The linked round with one entry of a weight, [row, 5], replaced."""
    model = pair().linked.round.clone()
    weight = next(each for name, each in model.graph.initializers.items() if name.endswith(initializer))
    assert weight.const_value is not None
    array = weight.const_value.numpy().copy()
    array[row, 5] = value
    weight.const_value = ir.tensor(array, name=weight.name)
    return model


def test_an_activation_that_is_not_finite_is_refused_with_its_layer_and_text() -> None:
    """An embedding with an infinite entry: the first norm makes it nan, as soon as the token is read."""
    texts = [[1] * 30, [*[2] * 9, 200, 2, 2]]
    model = poisoned("model.embed_tokens.weight", 200, np.inf)
    expected = (
        r"calibration: layer target\.model\.layers\.0\.self_attn\.q_proj: expected finite activations, found nan in "
        r"channel \d+ of row 1 while reading tokens 8 to 11 of text 2 of 2; the model overflows on this text in float32"
    )
    with pytest.raises(CalibrationError, match=expected):
        run(texts, model=model)


def test_an_overflow_within_the_model_names_the_first_layer_that_reads_it() -> None:
    model = poisoned("model.layers.1.mlp.up_proj.weight", 3, 3e38)
    with pytest.raises(
        CalibrationError, match=r"layer target\.model\.layers\.1\.mlp\.down_proj: .* found -?inf in channel 3 of row"
    ):
        run([[1] * 30], model=model)


def test_the_shipped_text_calibrates_a_byte_level_model() -> None:
    tokenizer = (pair().target / "tokenizer.json").read_text(encoding="utf-8")
    tokens = encode_texts(TEXTS, tokenizer)
    assert [len(each) for each in tokens] == [len(text.encode()) for text in TEXTS]
    assert run(tokens, settings=CalibrationSettings(tokens=256)).tokens == 256
