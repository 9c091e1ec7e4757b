"""Versions of the libraries, and which warnings are understood."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError

import pytest

from forerun_compiler.engines import tensorrt_library as library
from forerun_compiler.engines.tensorrt_library import UNDERSTOOD, installed_version, reason_to_ignore
from forerun_compiler.errors import EngineError
from forerun_compiler.schemes import TENSORRT, TENSORRT_RTX


def _install(monkeypatch: pytest.MonkeyPatch, versions: dict[str, str]) -> None:
    def version(name: str) -> str:
        if name not in versions:
            raise PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(library, "version", version)
    monkeypatch.setattr(library, "find_spec", lambda _: object())


def test_the_first_distribution_that_is_there_gives_the_version(monkeypatch: pytest.MonkeyPatch) -> None:
    _install(monkeypatch, {"tensorrt_rtx_cu12": "1.10.0", "tensorrt_rtx": "1.4.0"})
    assert installed_version(TENSORRT_RTX) == "1.10.0"


@pytest.mark.parametrize(
    ("versions", "message"),
    [
        (
            {"tensorrt": "10.9.0.34"},
            r"tensorrt: expected tensorrt 10\.15 or newer, found 10\.9\.0\.34; .*'forerun\[tensorrt\]'",
        ),
        ({}, r"the module 'tensorrt' belongs to none of the packages tensorrt_cu13, tensorrt_cu12, tensorrt"),
    ],
)
def test_old_and_unknown_packages_are_refused(
    versions: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _install(monkeypatch, versions)
    with pytest.raises(EngineError, match=message):
        installed_version(TENSORRT)


def test_a_package_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "find_spec", lambda _: None)
    with pytest.raises(
        EngineError, match=r"'tensorrt' is not installed; install it with: pip install 'forerun\[tensorrt\]'"
    ):
        installed_version(TENSORRT)


def test_only_listed_warnings_are_understood() -> None:
    assert reason_to_ignore("ModelImporter.cpp:1071: Make sure input tokens has Int64 binding.")
    assert reason_to_ignore("ModelImporter.cpp:1303: Make sure output n_accepted has Int64 binding.")
    for message in (
        "Unused Input: n_known",
        "[RemoveDeadLayers] Input Tensor n_known is unused",
        "overflow is possible",
    ):
        assert reason_to_ignore(message) is None
    assert not any("nused" in each.pattern.pattern for each in UNDERSTOOD)
    assert all(each.reason for each in UNDERSTOOD)
