"""The checks of `tests/gpu` themselves, on a fake machine: they pass what is right and notice what is wrong."""

import ctypes
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import forerun
import gpu_checks
from device_bundle import make_device_bundle
from fake_machine import FakeMachine, build_driver
from fake_tensorrt import FakeContext
from forerun.device import Device
from forerun_compiler.recipe import load_recipe
from table_bundle import TableBundle

PROMPTS = [list(b"abc"), list(b"fgh!ab"), list(b"zz")]


@pytest.fixture(scope="module")
def counting(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The fake driver, and the counting one before it."""
    folder = tmp_path_factory.mktemp("driver")
    driver = build_driver(folder)
    return driver, gpu_checks.build_counting_driver(driver, folder)


@pytest.fixture
def bundle(tmp_path: Path) -> TableBundle:
    return make_device_bundle(tmp_path / "table")


@pytest.fixture
def machine(
    counting: tuple[Path, Path], bundle: TableBundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[FakeMachine]:
    machine = FakeMachine(counting[0], bundle.path, bundle.draft_len, 8)
    machine.install(monkeypatch, tmp_path / "caches")
    monkeypatch.setattr("forerun.device.DRIVER", str(counting[1]))
    yield machine
    assert machine.mistakes == []


@pytest.fixture
def engine(machine: FakeMachine, bundle: TableBundle) -> Iterator[forerun.Engine]:
    with forerun.load(bundle.path, device="cuda") as engine:
        yield engine


def spoil(machine: FakeMachine, graph: str, change: Callable[[Callable[[str], np.ndarray]], None]) -> None:
    """After each run of a graph, `change` may write to its outputs: it gets a function from name to memory."""
    right = machine._run

    def wrong(context: FakeContext) -> None:
        right(context)
        if context.plan.name == graph:
            tensors = {tensor.name: tensor for tensor in context.plan.tensors}
            change(lambda name: machine._memory(context, tensors[name]))

    machine._run = wrong  # type: ignore[method-assign]


def accept_another_token(output: Callable[[str], np.ndarray]) -> None:
    """A fault that only speculation shows: the first accepted token is not the one that was drafted."""
    if output("n_accepted")[0] > 0:
        output("committed")[0, 0] ^= 1


def commit_other_tokens(output: Callable[[str], np.ndarray]) -> None:
    output("committed")[...] ^= 1


def test_speculation_changes_nothing(engine: forerun.Engine) -> None:
    assert gpu_checks.speculation_changes(engine, PROMPTS, 20) == []


def test_a_change_by_speculation_is_noticed(engine: forerun.Engine, machine: FakeMachine) -> None:
    spoil(machine, "round", accept_another_token)
    assert gpu_checks.speculation_changes(engine, PROMPTS, 20) != []


def test_both_devices_agree(engine: forerun.Engine, bundle: TableBundle) -> None:
    with forerun.load(bundle.path, threads=1) as cpu:
        assert gpu_checks.agreement(engine, cpu, PROMPTS, 6) == 1.0


def test_other_tokens_do_not_agree(engine: forerun.Engine, machine: FakeMachine, bundle: TableBundle) -> None:
    spoil(machine, "plain", commit_other_tokens)
    with forerun.load(bundle.path, threads=1) as cpu:
        assert gpu_checks.agreement(engine, cpu, PROMPTS, 6) == 0.0


def test_sampling_has_one_law(engine: forerun.Engine) -> None:
    assert gpu_checks.homogeneity(engine, list(b"abc"), 300, temperature=1.5) > 1e-3


def test_another_law_is_noticed(engine: forerun.Engine, machine: FakeMachine) -> None:
    spoil(machine, "round", accept_another_token)
    assert gpu_checks.homogeneity(engine, list(b"abc"), 300, temperature=1.5) < 1e-3


@pytest.mark.parametrize("decoding", ["speculative", "plain"])
def test_a_round_is_one_launch_and_one_wait(engine: forerun.Engine, counting: tuple[Path, Path], decoding: str) -> None:
    found = gpu_checks.count_calls(engine, ctypes.CDLL(str(counting[1])), list(b"abc"), 30, decoding)
    assert found.rounds > 5
    assert found == gpu_checks.Calls(found.rounds, found.rounds, found.rounds, 0, 0)


def test_memory_that_is_taken_is_noticed(
    engine: forerun.Engine, counting: tuple[Path, Path], machine: FakeMachine
) -> None:
    address = ctypes.c_ulonglong()
    driver = ctypes.CDLL(str(counting[1]))
    spoil(machine, "round", lambda _: driver.cuMemAlloc_v2(ctypes.byref(address), ctypes.c_size_t(4096)))
    found = gpu_checks.count_calls(engine, driver, list(b"abc"), 30, "speculative")
    assert found.allocations == found.rounds


def test_figures_are_medians_of_rounds(engine: forerun.Engine) -> None:
    found = gpu_checks.measure(engine, PROMPTS, 20)
    assert min(found.round_us, found.device_us, found.plain_us, found.verify_us, found.speedup) > 0
    assert found.acceptance_length > 1


@pytest.mark.parametrize("precision", ["float32", "fp8", "nvfp4"])
@pytest.mark.parametrize("backend", ["tensorrt-rtx", "tensorrt"])
def test_the_recipe_of_the_device_tests_is_one(tmp_path: Path, backend: str, precision: str) -> None:
    path = tmp_path / "recipe.yaml"
    target = gpu_checks.Target(Device(0, "NVIDIA GeForce RTX 5090", "12.0"), backend, precision)
    path.write_text(gpu_checks.recipe_text(target), encoding="utf-8")
    found = load_recipe(path).engines[0]
    assert (found.backend, found.compute_capability) == (backend, ("12.0",) if backend == "tensorrt-rtx" else ())
