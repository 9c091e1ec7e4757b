"""The precision section of a recipe, or of one of its engines: a scheme for each part, and overrides by layer."""

from __future__ import annotations

from forerun_compiler.manifest import INT8_CACHE, EngineTarget, Override, Precision
from forerun_compiler.recipe_section import Section
from forerun_compiler.schemes import DENSE, ONNXRUNTIME, SCHEMES

CACHE_FORMATS = (DENSE, INT8_CACHE)


def read_precision(holder: Section, engines: tuple[EngineTarget, ...]) -> tuple[Precision, tuple[int, ...]]:
    """Return `precision` of a section, and the lines of its overrides; one name alone is that of all linear layers.

    Raises:
        RecipeError: a name does not exist, or one of the engines can neither run nor emulate it.
    """
    given = holder.values.get("precision")
    if given is None:
        return Precision(), ()
    if isinstance(given, str):
        scheme = _scheme(holder, "precision", engines)
        return Precision(scheme, scheme, scheme, scheme), ()
    section = holder.section("precision")
    section.only("target", "drafter", "lm_head", "drafter_lm_head", "cache", "overrides")
    target, drafter, lm_head = (_scheme(section, part, engines) for part in ("target", "drafter", "lm_head"))
    drafter_lm_head = _scheme(section, "drafter_lm_head", engines, lm_head)
    cache = section.choice("cache", CACHE_FORMATS, CACHE_FORMATS[0])
    other = next((engine.backend for engine in engines if engine.backend != ONNXRUNTIME), None)
    if cache == INT8_CACHE and other is not None:
        raise section.error(
            "cache",
            f"{cache} runs on {ONNXRUNTIME}; {other} keeps its caches in the dtype of its engine: remove it, or give "
            "that engine a precision of its own",
        )
    overrides = section.entries("overrides", "{layers, scheme}")
    for override in overrides:
        override.only("layers", "scheme")
    chosen = tuple(Override(entry.text("layers"), _scheme(entry, "scheme", engines, None)) for entry in overrides)
    lines = tuple(entry.line("layers") for entry in overrides)
    return Precision(target, drafter, lm_head, drafter_lm_head, cache, chosen), lines


def _scheme(section: Section, key: str, engines: tuple[EngineTarget, ...], default: str | None = DENSE) -> str:
    """A scheme that all these engines can run, or may emulate; without a default it must be there."""
    scheme = SCHEMES[section.choice(key, SCHEMES, default)]
    for engine in engines:
        if engine.backend in scheme.runs_on:
            continue
        if engine.backend not in scheme.emulated_on:
            able = ", ".join(other.name for other in SCHEMES.values() if engine.backend in other.runs_on)
            raise section.error(key, f"{scheme.name} cannot run on {engine.backend}, which runs: {able}")
        if not engine.emulate:
            raise section.error(
                key,
                f"{scheme.name} runs on {', '.join(scheme.runs_on)}; {engine.backend} has no kernels for it and can "
                "only compute the same numbers slowly: add 'emulate: true' to its entry of engines, or choose another",
            )
    return scheme.name
