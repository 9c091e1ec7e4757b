"""The engines of a recipe: execution libraries, devices, and what each computes in."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

from forerun_compiler.manifest import ComputeType, EngineTarget
from forerun_compiler.recipe_precision import read_precision
from forerun_compiler.recipe_section import Section
from forerun_compiler.schemes import ONNXRUNTIME, TENSORRT, TENSORRT_RTX

DEVICES = {ONNXRUNTIME: ("cpu",), TENSORRT_RTX: ("cuda",), TENSORRT: ("cuda",)}
"""By backend."""
KERNELS = ("forerun", "stock")
COMPUTE_TYPES: tuple[ComputeType, ...] = ("float16", "bfloat16")
"""Of a GPU; the first is the default. TensorRT has no attention in float32 for a chunk of a prompt."""
_COMMON = ("backend", "device")
_KEYS = {
    ONNXRUNTIME: ("kernels", "emulate"),
    TENSORRT_RTX: ("compute_capability", "dtype", "precision"),
    TENSORRT: ("dtype", "precision"),
}


def read_engines(top: Section) -> tuple[tuple[EngineTarget, ...], tuple[tuple[int, ...], ...]]:
    """Return the entries of `engines`, and of each the lines of its overrides; ONNX Runtime on the CPU by default.

    Raises:
        RecipeError: a key that the backend does not know, a value that does not exist, or two equal entries.
    """
    if top.values.get("engines") is None:
        return (EngineTarget(),), ((),)
    engines: list[EngineTarget] = []
    lines: list[tuple[int, ...]] = []
    for section in top.entries("engines", "{backend, device}"):
        section.only(*_COMMON, *dict.fromkeys(key for keys in _KEYS.values() for key in keys))
        engine, overrides = _engine(section)
        if engine in engines or (engine.backend == ONNXRUNTIME and ONNXRUNTIME in {each.backend for each in engines}):
            raise section.error("backend", f"{describe(engine)} is listed twice; remove one")
        engines.append(engine)
        lines.append(overrides)
    if not engines:
        raise top.error("engines", "expected at least one engine, found none; leave the key out for ONNX Runtime")
    return tuple(engines), tuple(lines)


def describe(engine: EngineTarget) -> str:
    """An engine in a few words, for messages."""
    found = f"{engine.backend} on {engine.device}"
    if engine.backend != ONNXRUNTIME:
        found += f" in {engine.dtype}"
    if engine.compute_capability:
        found += f" for {', '.join(engine.compute_capability)}"
    return found + (f" at {engine.precision.target}" if engine.precision is not None else "")


def _engine(section: Section) -> tuple[EngineTarget, tuple[int, ...]]:
    backend = section.choice("backend", DEVICES, ONNXRUNTIME)
    for key in section.values:
        if key not in (*_COMMON, *_KEYS[backend]):
            owners = ", ".join(name for name, keys in _KEYS.items() if key in keys)
            raise section.error(key, f"{backend} has no such key, it is of {owners}; remove it")
    device = section.choice("device", DEVICES[backend], DEVICES[backend][0])
    if backend == ONNXRUNTIME:
        kernels = section.choice("kernels", KERNELS, KERNELS[0])
        return EngineTarget(backend, device, kernels, section.flag("emulate")), ()
    engine = EngineTarget(
        backend,
        device,
        kernels="stock",
        compute_capability=section.texts("compute_capability", '["8.9", "12.0"]') if backend == TENSORRT_RTX else (),
        dtype=cast(ComputeType, section.choice("dtype", COMPUTE_TYPES, COMPUTE_TYPES[0])),
    )
    if section.values.get("precision") is None:
        return engine, ()
    precision, lines = read_precision(section, (engine,))
    return replace(engine, precision=precision), lines
