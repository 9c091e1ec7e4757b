"""Memory and disk of engine builds."""

from __future__ import annotations

from pathlib import Path

import pytest

from forerun_compiler.engines.tensorrt_resources import EngineNeeds, check_engines_fit, estimate_engines
from forerun_compiler.errors import ResourceError
from forerun_compiler.resources import GIB, Machine

MACHINE = Machine(ram=8 * GIB, disk=4 * GIB)


def test_memory_follows_the_largest_graph_and_disk_all_of_them() -> None:
    nothing, one = estimate_engines([]), estimate_engines([GIB])
    both = estimate_engines([GIB, GIB // 2])
    assert both.ram == one.ram > nothing.ram + GIB
    assert both.disk > one.disk > GIB
    assert nothing.disk == 0


def test_what_fits_passes() -> None:
    check_engines_fit(EngineNeeds(8 * GIB, 4 * GIB), MACHINE, Path("here"))


@pytest.mark.parametrize(
    ("needs", "message"),
    [
        (
            EngineNeeds(9 * GIB, 1),
            r"building the engines needs about 9\.0 GiB of memory, 8\.0 GiB are available; .*preci",
        ),
        (
            EngineNeeds(1, 5 * GIB),
            r"here: the engines need about 5\.0 GiB of disk space, 4\.0 GiB are free there; free",
        ),
    ],
)
def test_what_does_not_fit_is_refused(needs: EngineNeeds, message: str) -> None:
    with pytest.raises(ResourceError, match=message):
        check_engines_fit(needs, MACHINE, Path("here"))
