"""What of a bundle runs on the device of this machine: facts, printed one a line; see README.md beside this file."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from forerun import _core
from forerun.bundle_engines import EngineEntry, read_engines
from forerun.device import DRIVER, Devices, choose, find_devices
from forerun.errors import ForerunError
from forerun.library import find_library
from forerun.primary_context import PrimaryContext
from forerun.runtime_cache import RuntimeCache, cache_folder
from forerun.tensorrt import TensorRTGraphs
from forerun.tensorrt_package import find_package

PROMPT, TOKENS = b"import os\n", 64


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--library", type=Path, help="libonnxruntime.so of onnxruntime-gpu")
    parser.add_argument("--plugin", type=Path, help="libonnxruntime_providers_nv_tensorrt_rtx.so")
    options = parser.parse_args(arguments)
    bundle, devices = read_engines(options.bundle), find_devices()
    say("devices", lambda: f"{devices.found or devices.reason}, CUDA {devices.cuda}")
    say("choice", lambda: choose(bundle, "auto", devices, find_package).reason)
    for entry in bundle.engines if devices.found else ():
        say(f"{entry.folder} as built", lambda entry=entry: run_engine(options.bundle, entry, devices))  # type: ignore[misc]
    for entry in bundle.engines[-1:]:
        say(f"{entry.folder}, portable", lambda entry=entry: build_portable(options.bundle, entry, devices))  # type: ignore[misc]
    for provider, library in (("cuda", options.library), ("tensorrt", options.library), ("tensorrt-rtx", None)):
        for entry in bundle.engines:
            plugin = str(options.plugin or "") if provider == "tensorrt-rtx" else ""
            say(
                f"ONNX Runtime, {provider}, {entry.folder}",
                lambda provider=provider, library=library, plugin=plugin, entry=entry: generate(  # type: ignore[misc]
                    _core.Engine(
                        str(options.bundle),
                        str(library or find_library(None, None)),
                        0,
                        provider=provider,
                        provider_library=plugin,
                        engine=entry.folder,
                    )
                ),
            )


def say(what: str, ask: Callable[[], str]) -> None:
    """The answer, or the refusal, which is one too."""
    try:
        print(f"{what}: {ask()}", flush=True)
    except (ForerunError, RuntimeError, OSError) as error:
        print(f"{what}: refused: {error}", flush=True)


def run_engine(bundle: Path, entry: EngineEntry, devices: Devices) -> str:
    """Whatever the engine was built for: TensorRT itself is asked."""
    gpu = devices.found[0]
    cache = RuntimeCache(cache_folder(os.environ), entry, gpu.name, devices.cuda)
    context = PrimaryContext(DRIVER, gpu.ordinal)
    graphs = TensorRTGraphs(bundle, entry, cache if entry.backend == "tensorrt-rtx" else None, context)
    core = _core.Engine(
        str(bundle),
        engine=entry.folder,
        library=entry.backend,
        version=entry.library,
        bind=graphs.bind,
        enqueue=graphs.enqueue,
        driver=DRIVER,
        device=gpu.ordinal,
    )
    return generate(core)


def build_portable(bundle: Path, entry: EngineEntry, devices: Devices) -> str:
    """An engine of the round graph for no device in particular; deserialized if there is a device at all."""
    import tensorrt_rtx as trt

    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    path = bundle / entry.folder.rpartition("/")[0] / "round.onnx"
    if not parser.parse_from_file(str(path)):
        raise RuntimeError("; ".join(parser.get_error(at).desc() for at in range(parser.num_errors)))
    config = builder.create_builder_config()
    for width in decode_and_prefill(bundle, entry):
        profile = builder.create_optimization_profile()
        profile.set_shape("tokens", (1, width), (1, width), (1, width))
        config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise RuntimeError("the build gave no engine")
    data = bytes(memoryview(plan))
    built = f"built, {len(data)} bytes, device bits {int.from_bytes(data[32:36], 'little'):#x}"
    if not devices.found:
        return f"{built}; no device to load it on"
    engine = trt.Runtime(logger).deserialize_cuda_engine(data)
    if engine is None:
        return f"{built}; not loaded on {devices.found[0].capability}"
    context = engine.create_execution_context()
    return f"{built}; loaded on {devices.found[0].capability}, a context was {'made' if context else 'refused'}"


def decode_and_prefill(bundle: Path, entry: EngineEntry) -> tuple[int, int]:
    """The widths of the round graph."""
    import json

    facts: Any = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))["model"]
    return facts["draft_len"] + 1, facts["prefill_chunk"]


def generate(core: _core.Engine) -> str:
    """Greedy speculative and plain tokens per second of one short text."""
    rates = {}
    texts = {}
    for decoding in ("speculative", "plain"):
        for _ in range(2):  # the first warms up
            core.start(
                np.frombuffer(PROMPT, np.uint8).astype(np.int64),
                max_new_tokens=TOKENS,
                temperature=0.0,
                seed=0,
                decoding=decoding,
                draft_len=0,
            )
            tokens: list[int] = []
            start = time.monotonic()
            while True:
                done = core.step()
                tokens += done.committed
                if done.finish is not None:
                    break
            rates[decoding], texts[decoding] = len(tokens) / (time.monotonic() - start), tokens
    same = "the same tokens" if texts["speculative"] == texts["plain"] else "OTHER tokens"
    core.close()
    return f"speculative {rates['speculative']:.0f} tokens/s, plain {rates['plain']:.0f} tokens/s, {same}"


if __name__ == "__main__":
    main()
