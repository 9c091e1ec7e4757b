"""The engines of a bundle as text: devices, library, precision, and what is in the files that were built."""

from __future__ import annotations

from forerun_compiler.manifest import BuiltEngine, EngineTarget, Manifest, Precision
from forerun_compiler.schemes import DENSE, ONNXRUNTIME


def engines_text(manifest: Manifest) -> list[str]:
    """Lines for `inspect`, in the order in which the runtime prefers the engines."""
    lines = []
    for engine in manifest.engines:
        lines.append(f"  {_title(engine, manifest.precision)}")
        if engine.backend == ONNXRUNTIME:
            continue
        if not engine.built:
            lines.append("    not built yet: run build --only engines on the device")
        for built in engine.built:
            lines += [f"    {line}" for line in _built(built, manifest)]
    return lines


def _title(engine: EngineTarget, default: Precision) -> str:
    found = f"{engine.backend} on {engine.device}"
    if engine.backend == ONNXRUNTIME:
        return f"{found}, {engine.kernels} kernels" + (", emulating" if engine.emulate else "")
    return f"{found}, {engine.dtype}, {precision_text(engine.precision or default)}"


def precision_text(precision: Precision) -> str:
    """The schemes of the parts, in as few words as say them all."""
    parts = {name: getattr(precision, name) for name in ("target", "drafter", "lm_head", "drafter_lm_head")}
    schemes = set(parts.values())
    found = f"all layers {schemes.pop()}" if len(schemes) == 1 else ", ".join(f"{k} {v}" for k, v in parts.items())
    found = found.replace(f"all layers {DENSE}", "no quantization")
    return found + (f", {len(precision.overrides)} overrides" if precision.overrides else "")


def _built(built: BuiltEngine, manifest: Manifest) -> list[str]:
    lines = [f"{built.folder}: for {', '.join(built.compute_capability)}, built by version {built.library}"]
    for name, plan in built.plans.items():
        size = manifest.files[f"{built.folder}/{name}.engine"].size
        products = ", ".join(f"{count} {kind}" for kind, count in plan.products.items()) or "none"
        graph = "" if plan.capturable else "; a CUDA graph cannot hold it"
        lines.append(
            f"  {name}: {size:,} bytes, {plan.kernels} kernels, products: {products}; "
            f"{plan.device_memory:,} bytes of scratch{graph}"
        )
    return lines
