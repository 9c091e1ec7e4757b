"""The target inside a bundle's graphs: its logits are the source model's, and no row knows of the others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from transformers import AutoModelForCausalLM

import tiny_pairs
import tiny_targets
from forerun_compiler.bundle import Manifest, read_manifest
from forerun_compiler.errors import BundleError
from forerun_compiler.manifest import Precision
from forerun_compiler.proof.target_probe import LOGITS, TargetProbe

TEXT = tuple(int(token) for token in np.random.default_rng(3).integers(0, 256, 40))
NEAR = 2e-5
"""Logits of a few units in float32 through two implementations: measured below 4e-6."""
SCHEMES = ("float32", "int8", "int4")
"""Of which no row of a round may know the others; those that need no calibration."""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Manifest]:
    return build(tmp_path_factory.mktemp("probe"), "float32")


def build(folder: Path, scheme: str) -> tuple[Path, Manifest]:
    made = tiny_targets.write_bundle(
        folder / scheme, tiny_pairs.pair().linked, Precision(scheme, scheme, scheme, scheme)
    )
    return made, read_manifest(made)


def source_logits() -> np.ndarray:
    model = AutoModelForCausalLM.from_pretrained(tiny_pairs.pair().target, dtype=torch.float32).eval()
    with torch.no_grad():
        return model(torch.tensor([TEXT])).logits[0].numpy()


@pytest.mark.parametrize("graph", ["round", "plain"])
def test_logits_are_those_of_the_source(bundle: tuple[Path, Manifest], graph: str) -> None:
    folder, manifest = bundle
    probe, expected = TargetProbe(folder, manifest, graph, 1), source_logits()
    found = [probe.read(TEXT[:end]) for end in (1, 16, 17, 40)]
    np.testing.assert_allclose(found, expected[[0, 15, 16, 39]], rtol=0, atol=NEAR)


def test_rows_of_a_round_are_those_of_the_source(bundle: tuple[Path, Manifest]) -> None:
    folder, manifest = bundle
    rows = np.stack(list(TargetProbe(folder, manifest, "round", 1).verify_rows(TEXT)))
    np.testing.assert_allclose(rows, source_logits(), rtol=0, atol=NEAR)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_row_does_not_depend_on_the_rows_after_it(scheme: str, tmp_path: Path) -> None:
    """Bit for bit: the anchor's row with other drafts, and every row with other rows after it."""
    folder, manifest = build(tmp_path, scheme)
    probe, width = TargetProbe(folder, manifest, "round", 1), manifest.model.draft_len + 1
    first, *others = anchor_rows(probe, width)
    for row in others:
        np.testing.assert_array_equal(row, first)
    whole = probe.run(TEXT[20 : 20 + width], 1, 20)
    for kept in range(1, width):
        padded = [*TEXT[20 : 20 + kept], *[7] * (width - kept)]
        np.testing.assert_array_equal(probe.run(padded, 1, 20)[:kept], whole[:kept])


def anchor_rows(probe: TargetProbe, width: int) -> list[np.ndarray]:
    """The anchor's logits after the same text with eight drafts, and with padding alone."""
    probe.read(TEXT[:20])
    random, found = np.random.default_rng(0), []
    for _ in range(8):
        draft = [int(token) for token in random.integers(0, 256, width - 1)]
        found.append(probe.run([TEXT[20], *draft], 1, 20)[0])
    return [*found, probe.run([TEXT[20], *[0] * (width - 1)], 1, 20)[0]]


def test_one_scale_for_all_rows_would_be_seen(tmp_path: Path) -> None:
    """A round whose first product rounds its input by the range of the whole run, as a per-tensor scheme does."""
    folder, manifest = build(tmp_path, "float32")
    file = folder / "round.onnx"
    model = onnx.load(file, load_external_data=False)
    place = next(number for number, node in enumerate(model.graph.node) if node.op_type == "MatMul")
    product = model.graph.node[place]
    rounded = onnx.helper.make_node("DynamicQuantizeLinear", [product.input[0]], ["codes", "scale", "zero"])
    restored = onnx.helper.make_node("DequantizeLinear", ["codes", "scale", "zero"], ["restored"])
    product.input[0] = "restored"
    for node in (restored, rounded):
        model.graph.node.insert(place, node)
    file.write_bytes(model.SerializeToString())
    first, *others = anchor_rows(TargetProbe(folder, manifest, "round", 1), manifest.model.draft_len + 1)
    assert any((row != first).any() for row in others)


def test_the_drafter_is_gone(bundle: tuple[Path, Manifest]) -> None:
    folder, manifest = bundle
    session = TargetProbe(folder, manifest, "round", 1)._session
    names = {value.name for value in session.get_inputs()}
    assert names == {
        "tokens",
        "n_known",
        "n_draft",
        "position",
        *(f"target.{i}.{kind}" for i in range(3) for kind in "kv"),
    }
    assert [value.name for value in session.get_outputs()][-1] == LOGITS


def test_a_graph_without_logits(bundle: tuple[Path, Manifest]) -> None:
    folder, manifest = bundle
    file = folder / "round.onnx"
    whole = file.read_bytes()
    model = onnx.load(file, load_external_data=False)
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = ["unnamed" if name == LOGITS else name for name in names]
    try:
        file.write_bytes(model.SerializeToString())
        with pytest.raises(BundleError, match=r"round\.onnx: expected a value named 'target/logits', found none"):
            TargetProbe(folder, manifest, "round", 1)
    finally:
        file.write_bytes(whole)
