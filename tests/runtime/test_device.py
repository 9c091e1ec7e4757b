"""Which device runs a bundle: what the driver says, what is chosen, and what a refusal says."""

from pathlib import Path

import pytest

from forerun.bundle_engines import BundleEngines, EngineEntry
from forerun.device import Device, Devices, Gpu, choose, find_devices, parse_device
from forerun.errors import ForerunError
from forerun.tensorrt_package import Installed

RTX = "1.7.1.116"
ADA, BLACKWELL = Device(0, "NVIDIA L4", "8.9"), Device(1, "NVIDIA GeForce RTX 5090", "12.0")
HOPPER = Device(0, "NVIDIA H200", "9.0")


def entry(target: str, *capabilities: str, library: str = RTX, backend: str = "tensorrt-rtx") -> EngineEntry:
    return EngineEntry(backend, f"engines/{backend}-{target}", library, capabilities, "0" * 64, (), ())


NVFP4, FP8 = entry("sm120-nvfp4", "12.0"), entry("sm89-sm120-fp8", "8.9", "12.0")
BOTH = BundleEngines(Path("artifacts/demo"), True, (NVFP4, FP8))


def machine(*found: Device, cuda: tuple[int, int] = (13, 0)) -> Devices:
    return Devices(found, cuda)


NO_GPU = Devices((), (0, 0), "NVIDIA's driver is not installed (libcuda.so.1: cannot open shared object file)")


def rtx(backend: str) -> Installed | None:
    return Installed(RTX, 13) if backend == "tensorrt-rtx" else None


def refusal(bundle: BundleEngines, device: str, devices: Devices, installed: object = rtx) -> str:
    with pytest.raises(ForerunError) as caught:
        choose(bundle, device, devices, installed)  # type: ignore[arg-type]
    assert caught.value.status == "backend error"
    assert "\n" not in caught.value.message
    return caught.value.message


@pytest.mark.parametrize("device", ["cpu", "auto", "cuda", "cuda:0", "cuda:17"])
def test_devices_are_written_so(device: str) -> None:
    assert parse_device(device) == device


@pytest.mark.parametrize("device", ["", "gpu", "cpu:0", "auto:1", "cuda:", "cuda:-1", "cuda:01", "cuda:x", None, 0])
def test_other_devices_are_refused(device: str) -> None:
    with pytest.raises(ForerunError, match="device: expected 'cpu', 'cuda', 'cuda:N' or 'auto', got ") as caught:
        parse_device(device)
    assert caught.value.status == "invalid argument"


def test_the_cpu_needs_no_driver() -> None:
    assert choose(BOTH, "cpu", NO_GPU, rtx).device == "cpu"


def test_the_recipes_first_engine_that_fits_is_taken() -> None:
    choice = choose(BOTH, "cuda", machine(BLACKWELL), rtx)
    assert (choice.device, choice.gpu) == ("cuda:1", Gpu(BLACKWELL, NVFP4))
    assert choice.reason == (
        "NVIDIA GeForce RTX 5090 (12.0) runs engines/tensorrt-rtx-sm120-nvfp4, TensorRT-RTX 1.7.1.116"
    )
    assert choose(BOTH, "cuda", machine(ADA), rtx).gpu == Gpu(ADA, FP8)


def test_a_device_of_another_number_can_be_asked_for() -> None:
    assert choose(BOTH, "cuda", machine(ADA, BLACKWELL), rtx).gpu == Gpu(ADA, FP8)
    assert choose(BOTH, "cuda:1", machine(ADA, BLACKWELL), rtx).gpu == Gpu(BLACKWELL, NVFP4)


def test_a_device_that_no_engine_fits_is_passed_over() -> None:
    assert choose(BOTH, "cuda", machine(HOPPER, BLACKWELL), rtx).gpu == Gpu(BLACKWELL, NVFP4)


def test_an_engine_for_another_capability_says_how_to_build_one() -> None:
    bundle = BundleEngines(Path("artifacts/demo"), True, (NVFP4,))
    assert refusal(bundle, "cuda", machine(ADA)) == (
        "device 'cuda': engines/tensorrt-rtx-sm120-nvfp4 is built for 12.0 with TensorRT-RTX 1.7.1.116; this device is "
        "8.9 (NVIDIA L4); build for it: build-engine build --only engines -o artifacts/demo --target 8.9. "
        "On the CPU: device 'cpu'."
    )


def test_a_device_that_rtx_cannot_build_for_needs_tensorrt() -> None:
    message = refusal(BOTH, "cuda", machine(HOPPER))
    assert "this device is 9.0 (NVIDIA H200)" in message
    assert "TensorRT-RTX builds for 7.5, 8.0, 8.6, 8.9, 12.0, 12.1 only, so build on this machine: " in message
    assert "build-engine build --only engines -o artifacts/demo --target tensorrt. On the CPU: " in message


def test_another_version_of_the_library_is_refused() -> None:
    assert "and TensorRT-RTX 1.8.0.1 is installed: install 1.7.1.116, or build it again" in refusal(
        BOTH, "cuda", machine(ADA), lambda backend: Installed("1.8.0.1", 13)
    )


def test_a_missing_library_is_refused() -> None:
    message = refusal(BOTH, "cuda", machine(ADA), lambda backend: None)
    assert "with TensorRT-RTX 1.7.1.116, which is not installed: pip install 'forerun[tensorrt-rtx]'" in message


def test_a_driver_for_an_older_cuda_is_refused() -> None:
    message = refusal(BOTH, "cuda", machine(ADA, cuda=(12, 8)))
    assert "needs a driver for CUDA 13; this one is for CUDA 12.8: update it" in message


def test_no_driver_is_refused_with_the_linkers_words() -> None:
    message = refusal(BOTH, "cuda", NO_GPU)
    assert message == f"device 'cuda': {NO_GPU.reason}. On the CPU: device 'cpu'."


def test_a_number_that_no_device_has_is_refused() -> None:
    message = refusal(BOTH, "cuda:7", machine(ADA, BLACKWELL))
    assert "there is no such device; this machine has cuda:0, cuda:1" in message


def test_a_bundle_for_the_cpu_alone_says_what_to_add() -> None:
    message = refusal(BundleEngines(Path("artifacts/demo"), True, ()), "cuda", machine(ADA))
    assert (
        "artifacts/demo holds no engine of a GPU; add - backend: tensorrt-rtx, with its compute_capability" in message
    )


def test_auto_takes_the_gpu_if_one_fits() -> None:
    assert choose(BOTH, "auto", machine(ADA), rtx).device == "cuda:0"


def test_auto_takes_the_cpu_and_says_why() -> None:
    choice = choose(BOTH, "auto", NO_GPU, rtx)
    assert (choice.device, choice.gpu) == ("cpu", None)
    assert choice.reason == f"no GPU fits: {NO_GPU.reason}"


def test_auto_without_graphs_for_the_cpu_is_refused() -> None:
    message = refusal(BundleEngines(Path("artifacts/demo"), False, (FP8,)), "auto", NO_GPU)
    assert message.endswith("The bundle has no graphs for the CPU either.")


def test_a_missing_driver_library_is_no_error() -> None:
    found = find_devices("libno-such-driver.so.9")
    assert found.found == ()
    assert found.reason.startswith("NVIDIA's driver is not installed (libno-such-driver.so.9")


def test_a_library_that_is_no_driver_is_named() -> None:
    found = find_devices("libm.so.6")
    assert found.found == ()
    assert found.reason.startswith("NVIDIA's driver libm.so.6 refused: ")
