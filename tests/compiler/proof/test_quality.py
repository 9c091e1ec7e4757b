"""Quality of a target against another's: a computation of our own, compared with transformers' logits in float64."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

import tiny_bundles
import tiny_pairs
import tiny_targets
from forerun_compiler.bundle import update_manifest
from forerun_compiler.errors import BundleError
from forerun_compiler.proof.quality import Quality, QualityCounter, measure_quality

RANDOM = np.random.default_rng(11)
TEXTS = tuple(tuple(int(token) for token in RANDOM.integers(0, 256, length)) for length in (33, 2, 8, 9, 1))
"""Whole runs of eight rows and less, and a text that predicts nothing."""


@pytest.fixture(scope="module")
def targets(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The checkpoints of two targets of one size: the reference, and the candidate."""
    other = tmp_path_factory.mktemp("targets") / "other"
    return tiny_pairs.pair().target, tiny_pairs.save_agreeing_target(other, seed=5, tie_word_embeddings=False)


@pytest.fixture(scope="module")
def bundles(targets: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    made, folder = tiny_pairs.pair(), tmp_path_factory.mktemp("bundles")
    reference = tiny_targets.write_bundle(folder / "reference", made.linked)
    candidate = tiny_targets.write_bundle(folder / "candidate", tiny_targets.link_other_target(made, targets[1]))
    return reference, candidate


def measure(candidate: Path, reference: Path) -> tuple[Quality, list[tuple[str, int, int]]]:
    steps: list[tuple[str, int, int]] = []
    found = measure_quality(candidate, reference, TEXTS, lambda *step: steps.append(step), threads=1)
    return found, steps


def by_transformers(targets: tuple[Path, Path]) -> Quality:
    """The same four numbers from log_softmax in float64."""
    reference, candidate = (AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval() for path in targets)
    divergences, losses = list[float](), tuple[list[float], list[float]]([[], []])
    for text in TEXTS:
        if len(text) < 2:
            continue
        with torch.no_grad():
            logs = [model(torch.tensor([text])).logits[0, :-1].double() for model in (candidate, reference)]
        ours, theirs = (torch.log_softmax(log, dim=-1) for log in logs)
        divergences += (theirs.exp() * (theirs - ours)).sum(-1).tolist()
        for side, log in zip(losses, (ours, theirs), strict=True):
            side.extend(-log[range(len(text) - 1), text[1:]].numpy())
    perplexities = [math.exp(np.mean(side)) for side in losses]
    return Quality(float(np.mean(divergences)), perplexities[0], perplexities[1], len(divergences))


def test_it_agrees_with_a_direct_computation(targets: tuple[Path, Path], bundles: tuple[Path, Path]) -> None:
    reference, candidate = bundles
    found, steps = measure(candidate, reference)
    expected = by_transformers(targets)
    assert found.tokens == expected.tokens == 32 + 1 + 7 + 8
    assert expected.kl > 0.1
    # Logits of both sides agree to about 1e-5; so do means of their differences.
    assert found.kl == pytest.approx(expected.kl, rel=1e-5)
    assert found.perplexity == pytest.approx(expected.perplexity, rel=1e-5)
    assert found.reference_perplexity == pytest.approx(expected.reference_perplexity, rel=1e-5)
    assert found.perplexity != pytest.approx(found.reference_perplexity, rel=1e-3)
    assert steps == [*(("quality", done, 4) for done in range(5))]


def test_a_bundle_does_not_diverge_from_itself(bundles: tuple[Path, Path]) -> None:
    found, _ = measure(bundles[0], bundles[0])
    assert found.kl == 0.0
    assert found.perplexity == found.reference_perplexity


def test_the_direction_of_the_divergence() -> None:
    """KL(reference || candidate) of two coins, by hand: reference (1/2, 1/2), candidate (1/4, 3/4)."""
    counter = QualityCounter()
    counter.add_text((0, 1), [np.log([0.25, 0.75])], [np.log([0.5, 0.5])])
    found = counter.result()
    assert found.kl == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(2 / 3), rel=1e-12)
    assert (found.perplexity, found.reference_perplexity) == (pytest.approx(4 / 3), pytest.approx(2))


def test_logits_that_are_no_numbers_are_refused() -> None:
    counter = QualityCounter()
    with pytest.raises(BundleError, match="the candidate gives logits that are no finite numbers"):
        counter.add_text((0, 1), [np.array([np.nan, 0.0])], [np.zeros(2)])


def test_refusals(bundles: tuple[Path, Path], tmp_path: Path) -> None:
    reference, candidate = bundles
    with pytest.raises(BundleError, match="expected a text of at least two tokens to measure quality on, found none"):
        measure_quality(candidate, reference, [(1,)], lambda *step: None)
    other = tiny_targets.write_bundle(tmp_path / "other", tiny_pairs.pair().linked)
    facts = replace(tiny_bundles.FACTS, vocab_size=99)
    update_manifest(other, lambda manifest: replace(manifest, model=facts))
    with pytest.raises(BundleError, match=r"expected the vocabulary of .*candidate, 272 tokens, found 99"):
        measure_quality(other, candidate, TEXTS, lambda *step: None)
