"""What must hold of an engine on a GPU, as functions: `tests/gpu` asks them on a device, and the tests of these
functions on a fake machine, where they must also notice what is wrong.
"""

from __future__ import annotations

import ctypes
import shutil
import statistics
import subprocess
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest

import forerun
from forerun.device import Device
from forerun_compiler.proof.chi_square import upper_gamma

RECIPES = Path(__file__).parents[1] / "recipes"
RECIPE = """\
name: gpu-{precision}
target: {{model: {recipes}/demo/target}}
drafter: {{model: {recipes}/demo/drafter, family: dspark}}
capacity: 1024
prefill_chunk: 64
precision: float32
engines:
  - {{backend: {backend}{capability}, precision: {precision}}}
  - backend: onnxruntime
prompts: {recipes}/demo/prompts.jsonl
"""
COUNTING_DRIVER = Path(__file__).parent / "gpu" / "counting_driver.c"
CALLS = ("cuGraphLaunch", "cuStreamSynchronize", "cuMemAlloc_v2")
Decoding = Literal["speculative", "plain", "padded"]
Prompts = Sequence[Sequence[int]]


@dataclass(frozen=True)
class Target:
    """What is tested: a device, the library that builds for it, and a precision (float32: dense, in float16)."""

    device: Device
    backend: str
    precision: str


@dataclass(frozen=True)
class Opened:
    """A bundle on the device and on the CPU, its prompts as token ids, and a driver that counts what the core calls."""

    target: Target
    bundle: Path
    gpu: forerun.Engine
    cpu: forerun.Engine
    prompts: list[list[int]]
    driver: ctypes.CDLL


def recipe_text(target: Target) -> str:
    """The demo for a device, and for the CPU in float32."""
    ahead = target.backend == "tensorrt-rtx"
    capability = f', compute_capability: ["{target.device.capability}"]' if ahead else ""
    return RECIPE.format(recipes=RECIPES, backend=target.backend, capability=capability, precision=target.precision)


def greedy(engine: forerun.Engine, prompt: Sequence[int], count: int, decoding: Decoding) -> tuple[int, ...]:
    """The tokens of greedy decoding."""
    return engine.generate(list(prompt), max_new_tokens=count, decoding=decoding).tokens


def speculation_changes(engine: forerun.Engine, prompts: Prompts, count: int) -> list[int]:
    """The prompts whose greedy tokens differ with speculation on and off through the same kernels: must be none."""
    return [
        index
        for index, prompt in enumerate(prompts)
        if greedy(engine, prompt, count, "speculative") != greedy(engine, prompt, count, "padded")
    ]


def agreement(engine: forerun.Engine, reference: forerun.Engine, prompts: Prompts, count: int) -> float:
    """The share of places where both choose the same next token after the reference's own greedy text.

    Every place is judged by itself, so that one tie early in a text does not decide about the rest.
    """
    same = places = 0
    for prompt in prompts:
        text = greedy(reference, prompt, count, "plain")
        for at, token in enumerate(text):
            same += greedy(engine, [*prompt, *text[:at]], 1, "plain") == (token,)
            places += 1
    return same / places


def homogeneity(engine: forerun.Engine, prompt: Sequence[int], samples: int, temperature: float = 1.0) -> float:
    """The p-value of one law: the first token that a draft may give, sampled with speculation on and off.

    The chi-square test of two samples of equal size; outcomes seen fewer than ten times in both share a bin.
    """
    count = engine.facts.draft_len + 2  # leaves room for a whole draft
    counts: dict[Decoding, Counter[tuple[int, ...]]] = {"speculative": Counter(), "padded": Counter()}
    for decoding, counter in counts.items():
        for number in range(samples):
            seed = number if decoding == "speculative" else samples + number
            found = engine.generate(
                list(prompt), max_new_tokens=count, temperature=temperature, seed=seed, decoding=decoding
            )
            counter[found.tokens[1:2]] += 1
    pairs = [
        (counts["speculative"][each], counts["padded"][each]) for each in {*counts["speculative"], *counts["padded"]}
    ]
    bins = [pair for pair in pairs if sum(pair) >= 10]
    rare = [pair for pair in pairs if sum(pair) < 10]
    if rare:
        bins.append((sum(on for on, _ in rare), sum(off for _, off in rare)))
    statistic = sum((on - off) ** 2 / (on + off) for on, off in bins)
    return upper_gamma((len(bins) - 1) / 2, statistic / 2) if len(bins) > 1 else 1.0


@dataclass(frozen=True)
class Calls:
    """What the core called of the driver in a number of decode rounds."""

    rounds: int
    launches: int
    waits: int
    allocations: int
    memory_taken: int  # bytes of device memory, by whatever library


def count_calls(engine: forerun.Engine, driver: ctypes.CDLL, prompt: Sequence[int], count: int, decoding: Any) -> Calls:
    """Calls of all rounds after the first decode round; `driver` is a counting driver that the engine runs on."""
    rounds = engine.rounds(list(prompt), max_new_tokens=count, decoding=decoding)
    for first in rounds:
        if first.phase == "decode":
            break
    before, free = [_counted(driver, name) for name in CALLS], _free_memory(driver)
    done = sum(1 for _ in rounds)
    after = [_counted(driver, name) for name in CALLS]
    return Calls(done, *(now - then for now, then in zip(after, before, strict=True)), free - _free_memory(driver))


def build_counting_driver(driver: Path, folder: Path) -> Path:
    """Compile a library that counts the CALLS and hands everything to `driver`."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler for the counting driver")
    library = folder / "libcounting.so"
    flags = ("-O1", "-shared", "-fPIC", "-Wl,--no-as-needed")  # nothing of the driver is called by its name
    command = [compiler, *flags, COUNTING_DRIVER, driver, "-ldl", "-o", library]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return library


def driver_path(name: str) -> Path:
    """Where the driver lies that this process has loaded."""
    ctypes.CDLL(name)
    for line in Path("/proc/self/maps").read_text(encoding="utf-8").splitlines():
        if "libcuda.so" in line:
            return Path(line.split()[-1])
    raise AssertionError(f"{name} was loaded, and is not mapped")


@dataclass(frozen=True)
class Figures:
    """Medians in microseconds: a round, what of it is the GPU and what the loop; a plain step; and their rates."""

    round_us: float
    device_us: float
    loop_us: float
    plain_us: float
    verify_us: float  # of the target alone over as many rows as a round verifies: a prefill run of the plain graph
    acceptance_length: float
    speedup: float


def measure(engine: forerun.Engine, prompts: Prompts, count: int) -> Figures:
    """Speculative and plain decoding of the same prompts, in turn; the first of each warms up."""
    fast, slow, reading, lengths = [], [], [], []
    for number, prompt in enumerate([prompts[0], *prompts]):
        runs = {
            decoding: list(engine.rounds(list(prompt), max_new_tokens=count, decoding=decoding))
            for decoding in ("plain", "speculative")
        }
        if number == 0:
            continue
        fast += [each for each in runs["speculative"] if each.phase == "decode"]
        slow += [each for each in runs["plain"] if each.phase == "decode"]
        reading += [each for each in runs["plain"] if each.phase == "prefill"]
    lengths = [len(each.committed) for each in fast]
    round_us, plain_us = _median(fast), _median(slow)
    return Figures(
        round_us=round_us,
        device_us=statistics.median(each.session_us for each in fast),
        loop_us=statistics.median(each.loop_us for each in fast),
        plain_us=plain_us,
        verify_us=_median(reading),
        acceptance_length=statistics.mean(lengths),
        speedup=statistics.mean(lengths) * plain_us / round_us,
    )


def _median(rounds: Sequence[Any]) -> float:
    return statistics.median(each.session_us + each.loop_us for each in rounds)


def _counted(driver: ctypes.CDLL, name: str) -> int:
    driver.counted.restype = ctypes.c_size_t
    return int(driver.counted(name.encode()))


def _free_memory(driver: ctypes.CDLL) -> int:
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    assert driver.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total)) == 0
    return free.value
