"""load(device="cuda") from end to end on a fake machine: whole generations equal those of the CPU's graphs."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import forerun
from device_bundle import FOLDER, make_device_bundle
from fake_machine import FakeMachine, build_driver
from forerun.device import find_devices
from table_bundle import TableBundle

PREFILL_CHUNK = 8


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_driver(tmp_path_factory.mktemp("driver"))


@pytest.fixture(scope="module")
def device_bundle(tmp_path_factory: pytest.TempPathFactory) -> TableBundle:
    return make_device_bundle(tmp_path_factory.mktemp("gpu") / "table")


@pytest.fixture
def machine(
    driver: Path, device_bundle: TableBundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[FakeMachine]:
    machine = FakeMachine(driver, device_bundle.path, device_bundle.draft_len, PREFILL_CHUNK)
    machine.install(monkeypatch, tmp_path / "caches")
    yield machine
    assert machine.mistakes == []
    assert machine.driver.fake_cuda_mistake() == b""


def test_the_fake_devices_are_found(machine: FakeMachine) -> None:
    found = find_devices()
    assert found.cuda == (13, 0)
    assert [(gpu.ordinal, gpu.name, gpu.capability) for gpu in found.found] == [(0, "Fake GPU 0", "8.9")]


def test_a_driver_without_devices_says_so(machine: FakeMachine) -> None:
    machine.driver.fake_cuda_reset(13000, 0)
    assert find_devices().reason.endswith("refused: it finds no device (CUDA error 100)")


@pytest.mark.parametrize("decoding", ["speculative", "plain", "padded"])
@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("length", [1, 7, 8, 9, 21])
def test_generations_equal_those_of_the_cpu(
    machine: FakeMachine, device_bundle: TableBundle, decoding: forerun.engine.Decoding, temperature: float, length: int
) -> None:
    prompt = list(b"abcdefghij" * 3)[:length]
    settings = {"max_new_tokens": 40, "temperature": temperature, "seed": 5, "decoding": decoding}
    with forerun.load(device_bundle.path, threads=1) as cpu, forerun.load(device_bundle.path, device="cuda") as gpu:
        expected, found = (engine.generate(prompt, **settings) for engine in (cpu, gpu))  # type: ignore[arg-type]
    assert found.tokens == expected.tokens
    assert found.text == expected.text
    assert found.statistics.acceptance_length == expected.statistics.acceptance_length
    assert machine.driver.fake_cuda_live() == 0


def test_generations_follow_each_other(machine: FakeMachine, device_bundle: TableBundle) -> None:
    with forerun.load(device_bundle.path, device="cuda:0") as engine:
        for prompt in (list(b"abc" * 9), list(b"f"), list(b"gh!")):
            for decoding in ("speculative", "plain", "padded", "speculative"):
                found = engine.generate(prompt, max_new_tokens=40, decoding=decoding)
                assert list(found.tokens) == device_bundle.greedy_tokens(prompt, 40)


@pytest.mark.parametrize("decoding", ["speculative", "plain"])
def test_a_round_is_one_launch_and_one_wait(
    machine: FakeMachine, device_bundle: TableBundle, decoding: forerun.engine.Decoding
) -> None:
    with forerun.load(device_bundle.path, device="cuda") as engine:
        rounds = engine.rounds(list(b"abc"), max_new_tokens=30, decoding=decoding)
        machine.driver.fake_cuda_forget()
        told = len(machine.tensorrt.calls)
        done = sum(1 for _ in rounds)
        assert machine.log() == ["cuGraphLaunch", "cuStreamSynchronize"] * done
        assert len(machine.tensorrt.calls) == told  # TensorRT is not called within a round


def test_the_engine_says_what_it_runs_on(machine: FakeMachine, device_bundle: TableBundle) -> None:
    with forerun.load(device_bundle.path, device="auto") as engine:
        assert (engine.device.device, engine.device.engine) == ("cuda:0", FOLDER)
        assert engine.device.reason == f"Fake GPU 0 (8.9) runs {FOLDER}, TensorRT-RTX 1.7.1.116"
        assert (engine.facts.backend, engine.facts.backend_version) == ("tensorrt-rtx", "1.7.1.116")
        assert repr(engine).endswith("tensorrt-rtx on cuda:0>")


def test_a_second_start_compiles_nothing(machine: FakeMachine, device_bundle: TableBundle) -> None:
    compiled = []
    for _ in range(2):
        machine.tensorrt.calls.clear()
        with forerun.load(device_bundle.path, device="cuda") as engine:
            for decoding in ("speculative", "plain"):
                engine.generate(list(b"abc"), max_new_tokens=8, decoding=decoding)
        compiled.append([call for call in machine.tensorrt.calls if call[0] == "compile"])
    assert [len(calls) for calls in compiled] == [4, 0]


def test_auto_falls_back_to_the_cpu_and_says_why(machine: FakeMachine, device_bundle: TableBundle) -> None:
    machine.driver.fake_cuda_reset(13000, 0)
    with forerun.load(device_bundle.path, device="auto", threads=1) as engine:
        assert (engine.device.device, engine.device.engine) == ("cpu", None)
        assert "it finds no device (CUDA error 100)" in engine.device.reason
        assert engine.facts.backend == "onnxruntime"


def test_a_truncated_engine_is_refused_before_tensorrt_sees_it(machine: FakeMachine, tmp_path: Path) -> None:
    made = make_device_bundle(tmp_path / "cut")
    path = made.path / FOLDER / "round.engine"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(forerun.ForerunError, match=rf"{FOLDER}/round\.engine") as caught:
        forerun.load(made.path, device="cuda")
    assert caught.value.status == "bundle error"
    assert machine.tensorrt.calls == []


@pytest.mark.parametrize("call", ["context", "profile", "shape", "address", "execute"])
def test_what_tensorrt_refuses_is_the_message(machine: FakeMachine, device_bundle: TableBundle, call: str) -> None:
    machine.tensorrt.failing.add(call)
    with pytest.raises(forerun.ForerunError, match=r"TensorRT-RTX 1\.7\.1\.116: .*tensorrt-rtx-sm89") as caught:
        forerun.load(device_bundle.path, device="cuda")
    assert caught.value.status == "backend error"
    assert machine.driver.fake_cuda_live() == 0


def test_any_exception_of_a_callback_is_a_message(machine: FakeMachine, device_bundle: TableBundle) -> None:
    def burst(context: object, stream: int) -> bool:
        raise ValueError("the library\nburst")

    machine.tensorrt.run = burst
    with pytest.raises(forerun.ForerunError, match="the library burst"):
        forerun.load(device_bundle.path, device="cuda")


def test_a_lost_device_is_said(machine: FakeMachine, device_bundle: TableBundle) -> None:
    with forerun.load(device_bundle.path, device="cuda") as engine:
        rounds = engine.rounds(list(b"abc"), max_new_tokens=30)
        next(rounds)
        machine.driver.fake_cuda_fail(b"cuStreamSynchronize", 1, 700, 1)
        with pytest.raises(forerun.ForerunError, match="CUDA_ERROR_ILLEGAL_ADDRESS"):
            next(rounds)
        with pytest.raises(forerun.ForerunError, match="was lost earlier"):
            engine.generate(list(b"abc"))


def test_an_engine_that_is_not_closed_frees_everything(machine: FakeMachine, device_bundle: TableBundle) -> None:
    engine = forerun.load(device_bundle.path, device="cuda")
    engine.generate(list(b"abc"), max_new_tokens=8)
    del engine
    assert machine.driver.fake_cuda_live() == 0


def test_an_engine_may_be_closed_by_another_thread(machine: FakeMachine, device_bundle: TableBundle) -> None:
    engine = forerun.load(device_bundle.path, device="cuda")
    engine.generate(list(b"abc"), max_new_tokens=8)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(engine.close).result()
    engine.close()
    assert machine.driver.fake_cuda_live() == 0
