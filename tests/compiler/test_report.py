"""What people read, checked line by line where a number could be wrong."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import tiny_bundles
from forerun.machine import Machine
from forerun_compiler.bundle import CostRow, FileEntry, Proof
from forerun_compiler.measure import Bench, PlainFigures, SpeculativeFigures
from forerun_compiler.report import bench_text, built_text, inspect_text, needs_text, proof_text
from forerun_compiler.resources import GIB, Needs

PROOF = Proof(
    lossless=True,
    guarantee="bit-identical",
    reference="Hugging Face",
    greedy_prompts=64,
    greedy_tokens=4096,
    prompts_identical=64,
    plain_prompts=64,
    plain_identical=63,
    plain_ties=1,
    hf_prompts=64,
    hf_identical=64,
    hf_ties=0,
    graph_prompts=0,
    graph_identical=0,
    graph_ties=0,
    tie_tolerance=1e-4,
    chi_square_p=0.5,
    chi_square_tests=12,
    chi_square_samples=1600,
    kl_to_source=None,
    failures=(),
    not_run=(),
    planned_prompts=66,
    planned_identical=66,
)


BENCH = Bench(
    plain=PlainFigures(100.0, 10_000.0),
    speculative=SpeculativeFigures(250.0, 3.5, (0.8, 0.5), 2.5, 0.125, 0.0, 0.0, 14_000.0, 13_990.0, 9.96),
    plain_cost_us=10_000.0,
    verify_cost_us={"2": 11_000.0, "3": 12_000.0},
    planning=True,
    speedup=2.5,
    machine=Machine("cpu", 2, 2, "onnxruntime 1.31.1"),
    prompts=16,
    tokens=2032,
    temperature=0.0,
    seed=0,
)


def test_proof() -> None:
    assert proof_text(PROOF).splitlines() == [
        "  lossless              yes",
        "  guarantee             bit-identical",
        "  reference             Hugging Face",
        "  speculation on = off  64 of 64 prompts, bit for bit",
        "  tokens compared       4096",
        "  plain decoding        63 of 64 prompts equal, 1 parted at a tie",
        "  planned decoding      66 of 66 prompts equal",
        "  Hugging Face          64 of 64 prompts equal",
        "  sampling              p = 0.5 (1600 samples, 12 tests)",
    ]


def test_a_quantized_target_names_its_own_reference() -> None:
    proof = replace(
        PROOF,
        reference="the bundle's own target graph",
        **{"hf_prompts": 0, "hf_identical": 0, "graph_prompts": 64, "graph_identical": 62, "graph_ties": 2},
        kl_to_source=0.0123456,
    )
    lines = proof_text(proof).splitlines()
    assert "  reference             the bundle's own target graph" in lines
    assert "  target graph          62 of 64 prompts equal, 2 parted at a tie" in lines
    assert "  divergence            0.0123 nats a token from the source in float32 (no gate)" in lines
    assert not any(line.startswith("  Hugging Face") for line in lines)
    without = proof_text(replace(proof, kl_to_source=None))
    assert "  divergence            not measured: the source checkpoint is not there" in without


def test_a_failed_proof_says_so() -> None:
    text = proof_text(replace(PROOF, lossless=False, failures=("prompt 3 parts",)))
    assert text.startswith("  lossless              NO\n")
    assert text.endswith("\n  failed: prompt 3 parts")


def test_an_unfinished_proof_claims_nothing() -> None:
    text = proof_text(replace(PROOF, lossless=False, hf_prompts=0, chi_square_p=None, not_run=("no source",)))
    assert "  lossless              not proven\n" in text
    assert "  Hugging Face          not compared\n" in text
    assert text.endswith("  sampling              not tested\n  not run: no source")


def test_inspect_shows_proof_and_cost() -> None:
    manifest = replace(
        tiny_bundles.manifest(),
        proof=PROOF,
        cost=(CostRow("cpu", 10.0, {"1": 20.0, "8": 1234.5}),),
        files={"weights.bin": FileEntry(1234567, "ab" * 32)},
    )
    text = inspect_text(manifest, Path("artifacts/tiny"))
    assert "  weights.bin      1,234,567 bytes  abababababababab" in text
    assert "    plain 10 us; round by verified rows, us: 1: 20, 8: 1,234" in text
    assert "  lossless              yes\n" in text
    assert "  verify widths  2, 5 rows\n" in text
    none = inspect_text(replace(manifest, cost=()), Path("artifacts/tiny"))
    assert "none yet, so every draft is verified: run bench --save" in none
    assert text.splitlines()[-2:] == ["  name: tiny", '  # "quotes", \\ and é']


def test_bench() -> None:
    fixed = bench_text(replace(BENCH, planning=False)).splitlines()
    assert fixed[5] == "  plan                  fixed: every draft is verified"
    assert bench_text(BENCH).splitlines() == [
        "  machine               cpu | 2 cores | 2 threads | onnxruntime 1.31.1",
        "  measured              16 prompts, 2032 tokens, greedy",
        "  plain                 100.0 tokens/s",
        "  speculative           250.0 tokens/s",
        "  speedup               2.50 x",
        "  plan                  by these costs: 2.5 rows a verifying round, 12% of rounds plain",
        "  acceptance length     3.50 tokens a round",
        "  accepted by position  0.80 0.50",
        "  round                 14,000 us: library 13,990, loop 10.0",
        "  round by rows, us     plain 10,000; 2: 11,000, 3: 12,000",
    ]


def test_what_was_looked_up_is_said_where_it_can_be() -> None:
    proof = proof_text(replace(PROOF, lookup_prompts=8, lookup_identical=8, lookup_rounds=90, lookup_sampled_rounds=70))
    assert "  prompt lookup         8 of 8 prompts equal; 90 greedy and 70 sampled rounds looked up\n" in proof
    figures = SpeculativeFigures(250.0, 5.5, (0.8,), 2.5, 0.0, 0.25, 9.876, 14_000.0, 13_990.0, 9.96)
    assert "  looked up             25% of rounds, 9.88 of their draft tokens kept\n" in bench_text(
        replace(BENCH, speculative=figures)
    )
    facts = replace(tiny_bundles.FACTS, lookup_len=6, lookup_match=4, verify_widths=(2, 5, 7))
    text = inspect_text(replace(tiny_bundles.manifest(), model=facts), Path("artifacts/tiny"))
    assert "  prompt lookup  up to 6 tokens that followed the last 4 of the text before\n" in text


def test_needs_and_result() -> None:
    needs = Needs(parameters=4_000_000_000, ram=36 * GIB, disk=16 * GIB, seconds=250.0)
    said = "4,000.0 M parameters; needs about 36.0 GiB of memory, 16.0 GiB of disk and 4 minutes"
    assert needs_text(needs) == said
    assert needs_text(replace(needs, seconds=1.0)).endswith("and 1 minute")
    built = built_text(replace(tiny_bundles.manifest(), files={"a": FileEntry(GIB, "")}), Path("out"))
    assert built == "built out: tiny, 1.0 GiB; next: build-engine verify out"
