"""The table of passes: what must fire does, and nothing of the dialect is left."""

from __future__ import annotations

import onnx_ir as ir
import pytest

from forerun_compiler import dialect
from forerun_compiler.errors import PassError
from forerun_compiler.manifest import EngineTarget
from forerun_compiler.passes.lower_ort import PASSES, lower_ort, passes_for
from forerun_compiler.passes.ordered_passes import Pass
from hand_graphs import FLOAT, make_model, node


def negation() -> ir.Model:
    x = ir.val("x", FLOAT, [2])
    made = node("Neg", [x], ("y", [2]))
    return make_model([x], [made], made.outputs)


def test_a_pass_that_must_fire_and_does_not_is_an_error() -> None:
    with pytest.raises(PassError, match=r"pass 'lower attention and caches' found nothing to rewrite in 'hand'"):
        lower_ort(negation())


def test_a_pass_that_need_not_fire_may_not() -> None:
    assert lower_ort(negation(), (Pass("nothing", lambda _: 0, must_fire=False),)) == {"nothing": 0}


def test_what_a_table_leaves_of_the_dialect_is_named() -> None:
    cache, position = ir.val("c", FLOAT, [1, 1, 4, 8]), ir.val("p", ir.DataType.INT64, [1])
    rows = ir.val("k", FLOAT, [1, 1, 1, 8])
    written = node(
        "CacheWrite",
        [rows, rows, cache, cache, position],
        ("a", [1, 1, 4, 8]),
        ("b", [1, 1, 4, 8]),
        domain=dialect.DOMAIN,
    )
    model = make_model([cache, position, rows], [written], written.outputs)
    with pytest.raises(PassError, match="left CacheWrite of the dialect"):
        lower_ort(model, (Pass("nothing", lambda _: 1, must_fire=True),))


def test_only_our_own_operators_take_in_what_stands_between_products() -> None:
    own, stock = ([step.name for step in passes_for(EngineTarget(kernels=kernels))] for kernels in ("forerun", "stock"))
    fusions = [name for name in own if name.startswith("fuse ")]
    into = ["fuse norms into products", "fuse gates into products", "fuse addends into products"]
    assert fusions == [*into, "fuse recurrences", "fuse walks", "fuse layers"]
    assert own[-1] == "fuse layers"
    assert [name for name in own if name not in fusions] == stock
    assert own.index(fusions[0]) == own.index("quantize int4") + 1


def test_the_table_names_every_pass_once() -> None:
    assert len({step.name for step in PASSES}) == len(PASSES)
