"""Finding libonnxruntime.so: argument, then variable, then the installed package, else a message that helps."""

import subprocess
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from forerun import library
from forerun.errors import ForerunError
from forerun.library import find_library


def test_the_argument_wins_over_the_variable(tmp_path: Path) -> None:
    first, second = tmp_path / "first.so", tmp_path / "second.so"
    first.touch()
    second.touch()
    assert find_library(first, str(second)) == first
    assert find_library(None, str(second)) == second


def test_the_installed_package_is_found_without_importing_it() -> None:
    code = (
        "import sys; from forerun.library import find_library; found = find_library(None, None); "
        "assert found.is_file() and found.name.startswith('libonnxruntime'), found; "
        "assert 'onnxruntime' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("argument", "variable", "message"),
    [
        ("/nowhere/lib.so", None, "the argument `library` names /nowhere/lib.so, which is not a file"),
        (None, "/nowhere/lib.so", "the environment variable FORERUN_ONNXRUNTIME names /nowhere/lib.so"),
    ],
)
def test_a_named_library_must_exist(argument: str | None, variable: str | None, message: str) -> None:
    with pytest.raises(ForerunError, match=message) as caught:
        find_library(argument, variable)
    assert caught.value.status == "backend error"


def test_without_onnxruntime_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ForerunError, match=r"onnxruntime is not installed .* `pip install onnxruntime`"):
        find_library(None, None)


def test_an_old_wheel_without_the_library_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    spec = ModuleSpec("onnxruntime", None, is_package=True)
    spec.submodule_search_locations = [str(tmp_path)]
    monkeypatch.setattr(library.importlib.util, "find_spec", lambda name: spec)
    with pytest.raises(ForerunError, match=f"no libonnxruntime.so in {tmp_path}/capi"):
        find_library(None, None)
