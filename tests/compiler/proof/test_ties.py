"""Every scheme has a tolerance, and the coarsest of a target counts."""

from __future__ import annotations

from forerun_compiler.proof.ties import TIES, tie_tolerance
from forerun_compiler.schemes import SCHEMES


def test_every_scheme_has_one() -> None:
    assert set(TIES) == set(SCHEMES)
    assert all(TIES[name] >= TIES["float32"] > 0 for name in SCHEMES)


def test_the_coarsest_counts() -> None:
    assert tie_tolerance(()) == 1e-4
    assert tie_tolerance({"int8", "nvfp4", "int4"}) == 1.5
    assert tie_tolerance(frozenset({"nvfp4-weight-only"})) == 1e-4
