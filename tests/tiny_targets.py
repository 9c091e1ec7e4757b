"""Bundles of a tiny pair without tokenizer and prompts: enough for everything that only runs graphs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import tiny_bundles
import tiny_pairs
from forerun_compiler import pipeline
from forerun_compiler.engines import onnxruntime as engine
from forerun_compiler.manifest import FILE_NAME, EngineTarget, Precision
from forerun_compiler.manifest_text import render
from forerun_compiler.passes.link_round import Parts
from forerun_compiler.target import load_target, trace_target

DENSE, ONNXRUNTIME = Precision(), EngineTarget()


def write_bundle(
    folder: Path,
    linked: pipeline.LinkedGraphs,
    precision: Precision = DENSE,
    target: EngineTarget = ONNXRUNTIME,
) -> Path:
    """Lower linked graphs and write them with a manifest into the new folder `folder`."""
    folder.mkdir()
    graphs = pipeline.lower_linked(linked, precision, target, lambda _: None)
    interfaces = engine.write(graphs, folder)
    manifest = replace(tiny_bundles.manifest(), model=graphs.facts, graphs=interfaces, precision=precision)
    (folder / FILE_NAME).write_bytes(render(manifest))
    return folder


def link_other_target(made: tiny_pairs.Pair, target: Path) -> pipeline.LinkedGraphs:
    """The pair with another target in its place, of the same sizes."""
    facts = made.graphs.facts
    traced = trace_target(load_target(target), facts.taps, facts.cache_rows)
    parts = Parts(traced, made.parts.drafter, facts.draft_len, facts.lookup_len)
    return pipeline.link_parts(parts, facts, lambda _: None)
