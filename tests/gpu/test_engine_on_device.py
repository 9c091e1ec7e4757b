"""An engine on a device: numerics, losslessness, one launch a round. What a test needs and lacks, it says and skips."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path

import pytest

import forerun
import gpu_checks
from gpu_checks import Opened

pytestmark = pytest.mark.gpu

AGREEMENT = {"float32": 0.99, "fp8": 0.93, "nvfp4": 0.80}
"""The least share of next tokens that are those of float32 on the CPU: float16 differs at ties, FP8 (3 bits of
mantissa) and NVFP4 (1 bit) also where two tokens are nearly as likely."""
RESULTS = Path(__file__).parents[2] / "artifacts" / "gpu"


def test_next_tokens_agree_with_the_cpu(opened: Opened) -> None:
    share = gpu_checks.agreement(opened.gpu, opened.cpu, opened.prompts, 24)
    assert share >= AGREEMENT[opened.target.precision]


def test_speculation_changes_nothing(opened: Opened) -> None:
    assert gpu_checks.speculation_changes(opened.gpu, opened.prompts, 128) == []


def test_sampling_has_one_law(opened: Opened) -> None:
    assert gpu_checks.homogeneity(opened.gpu, opened.prompts[0], 1000) > 1e-3


@pytest.mark.parametrize("decoding", ["speculative", "plain"])
def test_a_round_is_one_launch_and_one_wait_and_takes_no_memory(opened: Opened, decoding: str) -> None:
    found = gpu_checks.count_calls(opened.gpu, opened.driver, opened.prompts[0], 64, decoding)
    assert found.rounds > 1
    assert found == gpu_checks.Calls(found.rounds, found.rounds, found.rounds, 0, 0)


def test_every_cache_is_updated_in_place(opened: Opened) -> None:
    core = opened.gpu._core
    for index in range(opened.gpu.facts.n_states):
        name, entry, out, _ = core.state(index)
        assert entry == out, name


def test_a_second_start_gives_the_same_tokens(opened: Opened) -> None:
    first = gpu_checks.greedy(opened.gpu, opened.prompts[0], 64, "speculative")
    start = time.monotonic()
    with forerun.load(opened.bundle, device="cuda") as again:
        assert gpu_checks.greedy(again, opened.prompts[0], 64, "speculative") == first
    write(opened, "second-start", {"seconds": time.monotonic() - start})


def test_times_are_written(opened: Opened) -> None:
    """A round against the verification of a chunk alone, and against plain decoding of the same engine."""
    figures = gpu_checks.measure(opened.gpu, opened.prompts, 128)
    assert figures.acceptance_length >= 1
    write(opened, "times", asdict(figures))


def write(opened: Opened, name: str, figures: dict[str, float]) -> None:
    """Into artifacts/gpu, which is not committed; `-s` also shows it."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    result = {"device": opened.gpu.device.reason, "precision": opened.target.precision, **figures}
    line = json.dumps(result)
    print(line)
    (RESULTS / f"{name}-{opened.target.precision}.json").write_text(line + "\n", encoding="utf-8")
