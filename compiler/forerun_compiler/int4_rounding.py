"""Round the int4 layers of a round so that their errors make up for each other on the calibration text."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor

import onnx_ir as ir

from forerun_compiler.dialect import Linear
from forerun_compiler.graph import Array, constant_array
from forerun_compiler.manifest import ModelFacts, Precision
from forerun_compiler.number_formats.error_compensation import encode_compensated
from forerun_compiler.on_progress import OnProgress
from forerun_compiler.passes.assign_precision import assign_precision
from forerun_compiler.passes.name_products import products
from forerun_compiler.passes.quantize_int4 import RoundedLayer
from forerun_compiler.schemes import INT4_GROUPS
from forerun_compiler.second_moments import second_moments
from forerun_compiler.sensitivity import output_error

STAGE = "round int4 weights"
MOMENT_TOKENS = 16_384
"""Read for second moments, of a recipe that does not ask for more: on the demo 15,000 tokens in place of 4,096 take 6 %
off the target's divergence."""


def int4_layers(model: ir.Model, precision: Precision) -> set[tuple[str, str]]:
    """Return the layers of the linked round to which a precision gives an int4 scheme, as scheme and layer."""
    choices = assign_precision(model.clone(), precision)
    return {(choice.scheme, choice.layer) for choice in choices if choice.scheme in INT4_GROUPS}


def round_layers(
    model: ir.Model,
    facts: ModelFacts,
    texts: Sequence[Sequence[int]],
    wanted: Collection[tuple[str, str]],
    on_progress: OnProgress,
) -> dict[tuple[str, str], RoundedLayer]:
    """Return the layers of `wanted`, int4 schemes and layers, that text can be read of: not those inside branches.

    `model` is the linked round with its float32 weights. A weight that several layers read is rounded for the first of
    them in the graph, the target before the drafter, so that it is stored once.

    Raises:
        CalibrationError: an activation is not finite.
        EngineError: ONNX Runtime is missing or refuses the graph.
    """
    read = {Linear.from_node(node).layer: node.inputs[1] for node in products(model)}
    owners: dict[ir.Value | None, str] = {}
    for layer, weight in read.items():
        owners.setdefault(weight, layer)
    seen = {Linear.from_node(node).layer for node in products(model) if node.graph is model.graph}
    needed = {(scheme, owners[read[layer]]) for scheme, layer in wanted if owners[read[layer]] in seen}
    if not needed:
        return {}
    found: dict[tuple[str, str], RoundedLayer] = {}
    for moments in second_moments(model, facts, texts, {owner for _, owner in needed}, on_progress):
        here = [(scheme, owner) for owner in moments for scheme in INT4_GROUPS if (scheme, owner) in needed]
        jobs = [(owner, read[owner], moments[owner], INT4_GROUPS[scheme]) for scheme, owner in here]
        # Two layers at once on every machine: steps that cannot be spread over threads fill each other's gaps.
        with ThreadPoolExecutor(max_workers=2) as pool:
            for done, (key, rounded) in enumerate(zip(here, pool.map(_round, *zip(*jobs, strict=True)), strict=True)):
                on_progress(STAGE, done, len(here))
                found[key] = rounded
        del moments, jobs  # before the next are read
    by_layer = {(scheme, layer): found.get((scheme, owners[read[layer]])) for scheme, layer in wanted}
    return {key: rounded for key, rounded in by_layer.items() if rounded is not None}


def _round(layer: str, weight: ir.Value | None, moment: Array, group: int) -> RoundedLayer:
    array = constant_array(weight)
    assert array is not None  # products have constant weights: `name_products` sees to it
    encoded = encode_compensated(array, moment, group, f"layer {layer}")
    return RoundedLayer(encoded, output_error(array, encoded.decode(), moment))
