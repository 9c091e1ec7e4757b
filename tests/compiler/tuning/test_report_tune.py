"""The table of a search, line by line."""

from __future__ import annotations

from dataclasses import replace

from forerun.machine import Machine
from forerun_compiler.proof.quality import Quality
from forerun_compiler.tuning.report_tune import table_lines, tune_text
from forerun_compiler.tuning.tune import Candidate, Tried, Tuning

FOUND = Tuning(
    machine=Machine("cpu", 2, 2, "onnxruntime 1.31.1"),
    tried=(
        Tried("drafter", "float32", "float32", 3.5, 14_000.0, 250.0),
        Tried("drafter", "int8", "float32", 3.25, 10_000.0, 325.0),
        Tried("LM head", "int8", "float32", 3.25, 10_000.0, 325.0),
        Tried("LM head", "int8", "int4-group32", 2.0, 9_876.5, 202.5),
    ),
    chosen=Candidate("int8", "float32"),
    target="int8",
    lm_head="float32",
    quality=Quality(kl=0.000557, perplexity=13.3386, reference_perplexity=13.3198, tokens=1784),
    held_out=True,
    prompts=8,
    tokens=64,
)


def test_the_table() -> None:
    assert table_lines(FOUND) == [
        "build-engine tune on cpu | 2 cores | 2 threads | onnxruntime 1.31.1",
        "8 prompts, 64 tokens of each, greedy; * is the fastest of its step",
        "   step     drafter  drafter_lm_head  acceptance  round us  tokens/s",
        "   drafter  float32  float32                3.50    14,000     250.0",
        "*  drafter  int8     float32                3.25    10,000     325.0",
        "*  LM head  int8     float32                3.25    10,000     325.0",
        "   LM head  int8     int4-group32           2.00     9,876     202.5",
        "target int8, LM head float32: KL divergence from float32 0.000557 nats a token, perplexity 13.34 "
        "(float32: 13.32), on 1,784 tokens of the prompts",
    ]


def test_a_float32_target_costs_nothing_and_a_known_text_is_called_so() -> None:
    plain = replace(FOUND, target="float32", quality=None)
    assert table_lines(plain)[-1] == "target float32, LM head float32: float32, no loss of quality"
    assert table_lines(replace(FOUND, held_out=False))[-1].endswith("of the prompts, which it was calibrated on")


def test_the_end() -> None:
    assert tune_text(FOUND, "new.yaml").splitlines()[-2:] == [
        "chosen: drafter int8, drafter_lm_head float32",
        "wrote new.yaml",
    ]
