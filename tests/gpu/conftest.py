"""A device, and bundles built for it; without one every test here is skipped, and says what is missing."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator

import pytest

import forerun
import gpu_checks
from forerun.device import DRIVER, Device, find_devices
from forerun.tensorrt_package import AHEAD_OF_TIME, find_package
from forerun_compiler import build
from forerun_compiler.engines.capability import check_precision
from forerun_compiler.errors import EngineError
from forerun_compiler.prompts import read_prompts
from forerun_compiler.recipe import load_recipe
from gpu_checks import Opened, Target, recipe_text

N_PROMPTS, PROMPT_TOKENS = 8, 64


@pytest.fixture(scope="session")
def device() -> Device:
    found = find_devices()
    if not found.found:
        pytest.skip(f"no GPU: {found.reason}")
    return found.found[0]


@pytest.fixture(scope="session", params=["float32", "fp8", "nvfp4"], ids=["fp16", "fp8", "nvfp4"])
def target(device: Device, request: pytest.FixtureRequest) -> Target:
    rtx, tensorrt = find_package("tensorrt-rtx"), find_package("tensorrt")
    if device.capability in AHEAD_OF_TIME and rtx is not None:
        backend = "tensorrt-rtx"
    elif tensorrt is not None:
        backend = "tensorrt"
    else:
        builds = f"TensorRT-RTX (installed: {rtx is not None}) builds for {', '.join(AHEAD_OF_TIME)}"
        pytest.skip(f"{device.name} is {device.capability}: {builds}; TensorRT, which builds for any, is not installed")
    try:
        check_precision(backend, [device.capability], "float16", [request.param])
    except EngineError as error:
        pytest.skip(str(error))
    return Target(device, backend, request.param)


@pytest.fixture(scope="session")
def opened(target: Target, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Opened]:
    folder = tmp_path_factory.mktemp(target.precision)
    recipe = folder / "recipe.yaml"
    recipe.write_text(recipe_text(target), encoding="utf-8")
    bundle = folder / "bundle"
    build.build(load_recipe(recipe), bundle, lambda stage, done, total: None)
    driver = gpu_checks.build_counting_driver(gpu_checks.driver_path(DRIVER), folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("forerun.device.DRIVER", str(driver))
        with forerun.load(bundle, device="cuda") as gpu, forerun.load(bundle) as cpu:
            texts = read_prompts(bundle / "prompts.jsonl", EngineError)[:N_PROMPTS]
            prompts = [cpu.encode(each)[:PROMPT_TOKENS] for each in texts]
            yield Opened(target, bundle, gpu, cpu, prompts, ctypes.CDLL(str(driver)))
