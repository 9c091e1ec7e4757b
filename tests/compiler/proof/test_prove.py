"""The proof of a real bundle of tables: what it counts, what it refuses, what it writes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from tokenizers import Tokenizer

import forerun
from forerun_compiler.bundle import Manifest, check_bundle
from forerun_compiler.errors import BundleError
from forerun_compiler.manifest import Precision
from forerun_compiler.proof import prove
from forerun_compiler.proof.gate_runs import Effort
from forerun_compiler.proof.prove import SourceModel, choose_basis, verify_bundle
from forerun_compiler.proof.ties import TIES
from table_bundle import TableBundle, make_table_bundle

EFFORT = Effort(prompts=4, tokens=24, sampled_prompts=2, samples=400)
PROMPTS = ("abc", "é-d", "the 漢(", "fgh!ab")


@dataclass
class Tables:
    """The bundle's own tables, read in numpy: an independent second reading, as Hugging Face is for a real bundle."""

    bundle: TableBundle
    sharpness: float = 1.0
    wrong_from: int = 1 << 30

    def logits(self, tokens: tuple[int, ...]) -> npt.NDArray[np.float64]:
        return self.sharpness * self.bundle.logits(list(tokens)).astype(np.float64)

    def all_logits(self, tokens: tuple[int, ...]) -> npt.NDArray[np.float64]:
        return np.stack([self.logits(tokens[: end + 1]) for end in range(len(tokens))])

    def views(self, prompt: tuple[int, ...], text: tuple[int, ...]) -> list[npt.NDArray[np.float64]]:
        return [self.logits(prompt + text)]

    def greedy(self, prompt: tuple[int, ...], count: int) -> tuple[int, ...]:
        found = self.bundle.greedy_tokens(list(prompt), count)
        return tuple(found[: self.wrong_from] + [0] * (count - self.wrong_from))


@pytest.fixture
def bundle(tmp_path: Path) -> TableBundle:
    made = make_table_bundle(tmp_path / "table")
    lines = "".join(f'{{"prompt": "{prompt}"}}\n' for prompt in PROMPTS)
    rewrite(made.path, lines)
    return made


def rewrite(folder: Path, lines: str) -> None:
    """Replace the prompts as a build would: with a manifest that knows them."""
    from forerun_compiler.bundle import FileEntry, update_manifest

    (folder / "prompts.jsonl").write_text(lines, encoding="utf-8")
    import hashlib

    data = lines.encode()
    entry = FileEntry(len(data), hashlib.sha256(data).hexdigest())
    update_manifest(folder, lambda manifest: replace(manifest, files={**manifest.files, "prompts.jsonl": entry}))


def verify(bundle: TableBundle, reference: SourceModel | None, effort: Effort = EFFORT, engine: Any = None) -> Any:
    stages: list[tuple[str, int, int]] = []
    open_engine = (lambda folder: engine) if engine else (lambda folder: forerun.load(folder, threads=1))

    def open_source(manifest: Manifest, folder: Path) -> SourceModel | None:
        return reference

    proof = verify_bundle(bundle.path, effort, lambda *step: stages.append(step), open_engine, open_source)
    assert stages[0][0] == "check files"
    assert check_bundle(bundle.path).proof == proof
    return proof


def test_a_sound_bundle_is_lossless(bundle: TableBundle) -> None:
    proof = verify(bundle, Tables(bundle))
    assert (proof.lossless, proof.guarantee) == (True, "bit-identical")
    assert (proof.greedy_prompts, proof.prompts_identical, proof.greedy_tokens) == (4, 4, 96)
    assert (proof.plain_prompts, proof.plain_identical, proof.plain_ties) == (4, 4, 0)
    assert (proof.hf_prompts, proof.hf_identical, proof.hf_ties) == (4, 4, 0)
    assert proof.chi_square_p > 1e-3
    assert (proof.chi_square_samples, proof.failures, proof.not_run) == (800, (), ())
    assert proof.chi_square_tests >= 2


def test_without_the_source_nothing_is_claimed(bundle: TableBundle) -> None:
    proof = verify(bundle, None)
    assert (proof.lossless, proof.guarantee, proof.prompts_identical) == (False, "bit-identical", 4)
    assert (proof.hf_prompts, proof.chi_square_p, proof.failures) == (0, None, ())
    assert proof.not_run == (
        "comparison with Hugging Face: the source checkpoint table is not there",
        "chi-square test: the source checkpoint table is not there",
    )


def test_another_source_is_caught_by_its_text(bundle: TableBundle) -> None:
    proof = verify(bundle, Tables(bundle, wrong_from=7))
    assert not proof.lossless
    assert (proof.guarantee, proof.hf_identical, proof.plain_identical) == ("bit-identical", 0, 4)
    assert proof.failures[0].startswith("prompt 0: speculative and Hugging Face decoding part at token 7: ")
    assert "where the reference's logits differ by" in proof.failures[0]


def test_another_temperature_is_caught_by_the_samples(bundle: TableBundle) -> None:
    proof = verify(bundle, Tables(bundle, sharpness=0.5))
    assert not proof.lossless
    assert proof.hf_identical == 4
    assert proof.chi_square_p < 1e-4
    assert len(proof.failures) == 1
    assert proof.failures[0].startswith("speculative sampling does not follow the reference's probabilities: p = ")


class Drifting:
    """A real engine that writes another third token, by default where it decodes with padding alone."""

    def __init__(self, engine: forerun.Engine, drift: int, decoding: tuple[str, ...] = ("padded",)) -> None:
        self.engine, self.facts, self.drift, self.decoding = engine, engine.facts, drift, decoding

    def set_costs(self, costs: forerun.Costs | None) -> None:
        self.engine.set_costs(costs)

    def encode(self, text: str) -> list[int]:
        return self.engine.encode(text)

    def rounds(self, prompt: Any, **request: Any) -> Any:
        @dataclass
        class Round:
            committed: tuple[int, ...]
            looked_up: bool

        place = 0
        for finished in self.engine.rounds(prompt, **request):
            tokens = list(finished.committed)
            for index in range(len(tokens)):
                if place == 2 and request["decoding"] in self.decoding:
                    tokens[index] = self.drift
                place += 1
            yield Round(tuple(tokens), finished.looked_up)


def test_a_difference_of_on_and_off_is_a_failure(bundle: TableBundle) -> None:
    with forerun.load(bundle.path, threads=1) as engine:
        proof = verify(bundle, Tables(bundle), engine=Drifting(engine, drift=1))
    assert (proof.lossless, proof.guarantee, proof.prompts_identical) == (False, "none", 0)
    assert "prompt 0: speculative and padded decoding part at token 2" in proof.failures[0]


def test_a_difference_at_a_tie_weakens_the_guarantee(bundle: TableBundle) -> None:
    class Flat(Tables):
        def logits(self, tokens: tuple[int, ...]) -> npt.NDArray[np.float64]:
            return super().logits(tokens) * (1e-7 if len(tokens) > 2 + len(PROMPTS[0].encode()) else 1)

    with forerun.load(bundle.path, threads=1) as engine:
        effort = replace(EFFORT, prompts=1, sampled_prompts=1, samples=60)
        proof = verify(bundle, Flat(bundle, sharpness=1e-7), effort, Drifting(engine, drift=1))
    assert (proof.guarantee, proof.prompts_identical, proof.greedy_prompts) == ("equal-up-to-ties", 0, 1)


def quantize(bundle: TableBundle) -> None:
    """Let the manifest say that the target is int8; the tables stay what they are."""
    from forerun_compiler.bundle import update_manifest

    precision = Precision(target="int8", lm_head="int8")
    update_manifest(bundle.path, lambda manifest: replace(manifest, precision=precision))


def test_a_quantized_target_is_compared_with_its_own_graph(bundle: TableBundle) -> None:
    quantize(bundle)
    proof = verify(bundle, Tables(bundle, sharpness=0.5, wrong_from=0))
    assert (proof.lossless, proof.guarantee, proof.not_run) == (True, "bit-identical", ())
    assert proof.reference == "the bundle's own target graph"
    assert (proof.hf_prompts, proof.hf_identical, proof.hf_ties) == (0, 0, 0)
    assert (proof.graph_prompts, proof.graph_identical, proof.graph_ties) == (4, 4, 0)
    assert proof.tie_tolerance == TIES["int8"]
    assert proof.chi_square_p > 1e-3
    assert proof.kl_to_source == pytest.approx(expected_divergence(bundle, 0.5), rel=1e-6)


def expected_divergence(bundle: TableBundle, sharpness: float) -> float:
    """Between the tables and the source that is less sharp, over the prompts' tokens."""
    found, tokenizer = [], Tokenizer.from_file(str(bundle.path / "tokenizer.json"))
    for prompt in PROMPTS:
        tokens = tokenizer.encode(prompt).ids
        for end in range(1, len(tokens)):
            ours = bundle.logits(tokens[:end]).astype(np.float64)
            log_ours, log_theirs = (x - np.log(np.exp(x).sum()) for x in (ours, sharpness * ours))
            found.append(float((np.exp(log_theirs) * (log_theirs - log_ours)).sum()))
    return float(np.mean(found))


def test_a_quantized_target_needs_no_source(bundle: TableBundle) -> None:
    quantize(bundle)
    proof = verify(bundle, None)
    assert (proof.lossless, proof.kl_to_source, proof.not_run) == (True, None, ())


def test_a_leak_between_rows_is_no_tie_however_near_the_logits_lie(bundle: TableBundle) -> None:
    """The drifting engine's padded text differs from its speculative one, which equal kernels cannot explain."""
    quantize(bundle)
    effort = replace(EFFORT, prompts=1, sampled_prompts=1, samples=60)
    with forerun.load(bundle.path, threads=1) as engine:
        flat = choose_basis(frozenset({"int8"}), Tables(bundle, sharpness=0.0), None)
        leaking = Drifting(engine, drift=1)
        prompts = [tuple(engine.encode(PROMPTS[0]))]
        proof = prove.prove(leaking, flat, prompts, effort, lambda *step: None, "source")
    assert (proof.lossless, proof.guarantee) == (False, "none")
    said = "prompt 0: speculative and padded decoding part at token 2: "
    assert proof.failures[0].startswith(said)
    assert proof.failures[0].endswith("which no rounding explains: a row depends on the other rows")


def test_a_leak_into_plain_decoding_is_found_in_the_logits(bundle: TableBundle) -> None:
    """Speculation on and off leak alike, the plain graph does not: the reference's logits lie far apart."""
    quantize(bundle)
    with forerun.load(bundle.path, threads=1) as engine:
        leaking = Drifting(engine, drift=1, decoding=("speculative", "padded"))
        proof = verify(bundle, None, replace(EFFORT, prompts=1, sampled_prompts=1), leaking)
    assert (proof.lossless, proof.guarantee, proof.plain_ties, proof.graph_ties) == (False, "bit-identical", 0, 0)
    assert "speculative and plain decoding part at token 2" in proof.failures[0]
    assert "speculative and target graph decoding part at token 2" in proof.failures[1]
    assert "where the reference's logits differ by" in proof.failures[1]


def test_a_scheme_whose_rows_depend_on_each_other_may_part_at_ties(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(prove.SCHEMES, "int8", replace(prove.SCHEMES["int8"], by_row=False))
    assert choose_basis(frozenset({"int8"}), None, None).same_width_tie == TIES["int8"]
    assert choose_basis(frozenset({"int4"}), None, None).same_width_tie is None
    assert choose_basis(frozenset(), None, None).name == "none"


def test_too_few_samples_prove_nothing(bundle: TableBundle) -> None:
    proof = verify(bundle, Tables(bundle), replace(EFFORT, samples=10))
    assert not proof.lossless
    assert proof.not_run == (
        "chi-square test: no prefix occurred often enough for a test of drafted tokens; use more samples",
    )


def test_long_prompts_and_many_tokens_stay_within_the_capacity(bundle: TableBundle) -> None:
    rewrite(bundle.path, '{"prompt": "%s"}\n' % ("abc" * 500))
    proof = verify(bundle, Tables(bundle), replace(EFFORT, tokens=10_000, samples=60))
    assert proof.greedy_tokens == bundle.capacity // 2
    assert proof.prompts_identical == 1


def test_a_damaged_bundle_is_refused_before_it_is_run(bundle: TableBundle) -> None:
    (bundle.path / "weights.bin").write_bytes(b"x")
    with pytest.raises(BundleError, match=r"weights\.bin: expected"):
        verify_bundle(bundle.path, EFFORT, lambda *step: None, lambda folder: pytest.fail("it was opened"))
