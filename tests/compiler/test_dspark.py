"""DSpark checkpoints: every layout is read, every misfit is refused by name, and the parts compute what they should."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from safetensors.torch import load_file, save_file

from dspark_reference import Drafter as Reference
from forerun_compiler import dialect
from forerun_compiler.drafters import TargetSide, load_drafter
from forerun_compiler.drafters.dspark_checkpoint import parse_config
from forerun_compiler.errors import CheckpointError
from tiny_drafters import HEADS, save_dspark
from tiny_models import save_target
from tiny_pairs import pair

TOLERANCE = 3e-5
LAYERS, VOCAB, HIDDEN = 3, 272, 64
Config = dict[str, Any]


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_target(tmp_path_factory.mktemp("target"))


@pytest.fixture
def folder(target: Path, tmp_path: Path) -> Path:
    return save_dspark(tmp_path / "drafter", target)


def side(target: Path, **changes: Any) -> TargetSide:
    embedding = load_file(target / "model.safetensors")["model.embed_tokens.weight"]
    facts: Config = {"name": "the-target", "vocab_size": VOCAB, "hidden_size": HIDDEN, "num_layers": LAYERS}
    return TargetSide(**(facts | {"embedding": embedding, "lm_head": embedding} | changes))


def edit(folder: Path, change: Callable[[Config], object]) -> None:
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))


def edit_tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def test_three_layouts_give_one_configuration(folder: Path) -> None:
    deepspec = json.loads((folder / "config.json").read_text())
    own = ("block_size", "mask_token_id", "markov_rank", "markov_head_type", "enable_confidence_head",
           "confidence_head_with_markov")  # fmt: skip
    layer = {key: value for key, value in deepspec.items() if key not in (*own, "architectures", "target_layer_ids")}
    head = {key: deepspec[key] for key in own}
    speculators = {
        "speculators_model_type": "dspark",
        "architectures": ["DSparkSpeculator"],
        "transformer_layer_config": layer,
        "aux_hidden_state_layer_ids": [tap + 1 for tap in deepspec["target_layer_ids"]],
        "draft_vocab_size": VOCAB,
        **head,
    }
    block = {"block_size": head.pop("block_size")}
    specforge = {
        "architectures": ["DSparkDraftModel"],
        "dflash_config": {"projector_type": "dspark", "target_layer_ids": deepspec["target_layer_ids"], **head},
        **layer,
        **block,
    }
    expected = parse_config(deepspec, "a")
    assert expected.taps == (0, 1)
    assert expected.block_size == 7
    assert expected.markov_head == "vanilla"
    assert parse_config(speculators, "b") == expected
    assert parse_config(specforge, "c") == expected


def test_rope_base_is_read_from_either_spelling(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    for key in ("rope_parameters", "rope_theta", "rope_scaling"):
        config.pop(key, None)
    assert parse_config(config | {"rope_theta": 5e5}, "a").rope_theta == 5e5
    new = {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}
    assert parse_config(config | new, "a").rope_theta == 5e5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architectures": ["Llama"]}, r"expected a DSpark drafter .*found architectures \['Llama'\]"),
        ({"speculators_model_type": "eagle3"}, "expected a DSpark drafter"),
        ({"markov_head_type": "cubic"}, r"markov_head_type 'cubic' \(supported: vanilla, gated, rnn\)"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 4.0}}, "positions of type 'yarn' are not supported"),
        ({"layer_types": ["sliding_attention", "full_attention"]}, "layer_types .*sliding_attention.*supported: full"),
        ({"attention_bias": True}, "attention_bias true"),
        ({"hidden_act": "gelu"}, r"hidden_act 'gelu' \(supported: silu\)"),
        ({"draft_vocab_size": 100}, "draft_vocab_size 100 other than vocab_size"),
        ({"sample_from_anchor": False}, "sample_from_anchor false"),
        ({"target_layer_ids": [1, 0]}, r"target_layer_ids must be strictly increasing; found \[1, 0\]"),
        ({"target_layer_ids": []}, r"target_layer_ids must be a list of layer numbers .*found \[\]"),
        ({"mask_token_id": 272}, "mask_token_id is 272, outside the vocabulary of 272"),
        ({"block_size": "7"}, "block_size must be a whole number of at least 1; found '7'"),
        ({"markov_rank": 0}, "confidence_head_with_markov is true, but markov_rank is 0"),
    ],
)  # fmt: skip
def test_configurations_that_are_refused(folder: Path, change: Config, message: str) -> None:
    config = json.loads((folder / "config.json").read_text())
    with pytest.raises(CheckpointError, match=f"^here: .*{message}"):
        parse_config(config | change, "here")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("fc.weight"), r"missing: fc\.weight; unexpected: none"),
        (lambda t: t.update({"layers.9.mlp.x": torch.zeros(1)}), r"unexpected: layers\.9\.mlp\.x$"),
        (
            lambda t: t.update({"norm.weight": torch.zeros(63)}),
            r"norm\.weight: expected the shape \[64\], found \[63\].*target the-target",
        ),
    ],
)  # fmt: skip
def test_tensors_that_do_not_fit_are_refused(folder: Path, target: Path, change: Any, message: str) -> None:
    edit_tensors(folder, change)
    with pytest.raises(CheckpointError, match=message):
        load_drafter(folder, "auto", side(target))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vocab_size": 300}, "the drafter's vocabulary has 272 tokens, that of its target the-target has 300"),
        ({"num_layers": 2}, r"target_layer_ids \[0, 1\] must stay below the last layer 1 of the target the-target"),
        ({"hidden_size": 32}, r"fc\.weight: expected the shape \[64, 64\], found \[64, 128\]"),
    ],
)
def test_another_target_is_refused(folder: Path, target: Path, changes: Config, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        load_drafter(folder, "dspark", side(target, **changes))


def test_files_that_cannot_be_read_are_refused(folder: Path, target: Path) -> None:
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match=r"model\.safetensors: not a readable safetensors file"):
        load_drafter(folder, "auto", side(target))
    weights.unlink()
    with pytest.raises(CheckpointError, match=r"expected at least one \.safetensors file, found none"):
        load_drafter(folder, "auto", side(target))
    (folder / "config.json").write_text("[1]")
    with pytest.raises(CheckpointError, match=r"config\.json: expected a JSON object, found list"):
        load_drafter(folder, "auto", side(target))
    (folder / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config\.json: expected the drafter's configuration"):
        load_drafter(folder, "auto", side(target))


def test_unknown_families_are_refused(folder: Path, target: Path) -> None:
    with pytest.raises(CheckpointError, match="drafter family 'medusa' does not exist; known: dspark, auto"):
        load_drafter(folder, "medusa", side(target))
    edit(folder, lambda config: config.update(architectures=["MedusaModel"]))
    with pytest.raises(CheckpointError, match=r"expected a drafter of a known family \(dspark\).*MedusaModel"):
        load_drafter(folder, "auto", side(target))


def test_missing_embedding_and_head_are_the_targets(folder: Path, target: Path) -> None:
    edit_tensors(folder, lambda t: (t.pop("embed_tokens.weight"), t.pop("lm_head.weight")))
    drafter = load_drafter(folder, "auto", side(target))
    lent = side(target).embedding
    module = drafter.module  # type: ignore[attr-defined]
    assert torch.equal(module.embed_tokens.weight, lent)
    assert torch.equal(module.lm_head.weight, lent)


def test_draft_length_outside_the_block_is_refused(folder: Path, target: Path) -> None:
    drafter = load_drafter(folder, "auto", side(target))
    for wrong in (0, 8):
        with pytest.raises(CheckpointError, match=f"draft_len must be from 1 to the block size 7; got {wrong}"):
            drafter.trace(wrong, 48)


@pytest.mark.parametrize("head", [*HEADS, "none"])
def test_traced_parts_equal_the_reference(head: str) -> None:
    """Context, block, both walks and confidence, in the dialect's own evaluator."""
    made = pair(agree=False, markov=False) if head == "none" else pair(agree=False, head=head)
    parts, reference, rng = made.parts.drafter, Reference(made.drafter), np.random.default_rng(1)
    rows, draft_len, anchor = 11, made.parts.draft_len, 42
    taps = rng.standard_normal((1, rows, 2 * HIDDEN)).astype(np.float32)
    states = {str(v.name): np.zeros(v.shape.numpy(), np.float32) for v in parts.context.graph.inputs[2:] if v.shape}
    # In two chunks, the second one continuing the first.
    for start, end in ((0, 4), (4, rows)):
        feeds = {"taps": taps[:, start:end], "position": np.array([start]), **states}
        states = {name.removesuffix(".out"): state for name, state in dialect.evaluate(parts.context, feeds).items()}
    block = dialect.evaluate(parts.block, {"anchor": np.array([anchor]), "position": np.array([rows]), **states})
    hidden, logits = reference.block(torch.from_numpy(taps[0]), anchor)
    np.testing.assert_allclose(block["hidden"][0], hidden.numpy(), rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(block["logits"][0], logits.numpy(), rtol=0, atol=TOLERANCE)
    uniform = rng.random((1, draft_len), np.float32)
    known = block | {"anchor": np.array([anchor]), "temperature": np.array([0.8], np.float32), "uniform": uniform}
    for part, temperature in ((parts.greedy, 0.0), (parts.sampled, 0.8)):
        got = run_part(part, known)
        tokens, confidence, probs = reference.draft(
            torch.from_numpy(taps[0]), anchor, draft_len, temperature, uniform[0].tolist()
        )
        assert got["draft_tokens"][0].tolist() == tokens
        if temperature:
            np.testing.assert_allclose(got["draft_probs"][0], torch.stack(probs).numpy(), rtol=0, atol=TOLERANCE)
        if parts.confidence is not None:
            sure = run_part(parts.confidence, known | {"draft_tokens": got["draft_tokens"]})
            np.testing.assert_allclose(sure["draft_confidence"][0], confidence, rtol=0, atol=TOLERANCE)
    assert (parts.confidence is None) == (head == "none")


@pytest.mark.parametrize("head", [*HEADS, "none"])
def test_walks_do_not_take_slots_out_one_by_one(head: str) -> None:
    """A row of the embedding is the only thing that a slot gathers, and the total of its distribution all it slices."""
    made = pair(agree=False, markov=False) if head == "none" else pair(agree=False, head=head)
    for part, slices in ((made.parts.drafter.greedy, 0), (made.parts.drafter.sampled, made.parts.draft_len)):
        count = Counter(node.op_type for node in part.graph)
        assert count["Gather"] == (0 if head == "none" else made.parts.draft_len)
        assert count["Slice"] == slices
        assert count["Squeeze"] == 0
        assert count["Unsqueeze"] == (slices > 0) + (head != "none")


def run_part(part: ir.Model, known: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return dialect.evaluate(part, {str(value.name): known[str(value.name)] for value in part.graph.inputs})
