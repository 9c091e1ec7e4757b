"""The embedding example: one cc line against the installed header and library, and no Python in the process."""

import shutil
import subprocess
from pathlib import Path

import pytest

from forerun.library import find_library
from installed_core import core_folder
from table_bundle import SCRIPT, TableBundle, make_table_bundle

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> TableBundle:
    return make_table_bundle(tmp_path_factory.mktemp("embed") / "table", chat=False)


@pytest.fixture(scope="module")
def embed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    program = tmp_path_factory.mktemp("embed") / "embed"
    compiler = shutil.which("cc") or shutil.which("gcc")
    assert compiler, "the tests need a C compiler"
    include, lib = core_folder() / "include", core_folder() / "lib"
    command = [compiler, str(ROOT / "examples" / "embed.c"), f"-I{include}", f"-L{lib}", "-lforerun"]
    subprocess.run([*command, f"-Wl,-rpath,{lib}", "-Wall", "-Werror", "-o", str(program)], check=True)
    return program


def run(program: Path, *arguments: object) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([program, *map(str, arguments)], capture_output=True, check=False, timeout=120)


def test_it_writes_the_text_of_the_bundle(embed: Path, bundle: TableBundle) -> None:
    done = run(embed, bundle.path, find_library(None, None), 60, *b"ab")
    assert done.returncode == 0, done.stderr
    assert done.stdout == bytes(bundle.greedy_tokens(list(b"ab"), 60))
    assert done.stdout.startswith(SCRIPT.encode()[2:])
    assert b"a round" in done.stderr


def test_it_says_what_is_wrong(embed: Path, bundle: TableBundle, tmp_path: Path) -> None:
    done = run(embed, tmp_path, find_library(None, None), 60, 97)
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"file error" in done.stderr
    assert str(tmp_path).encode() in done.stderr
    done = run(embed, bundle.path, "/nonexistent.so", 60, 97)
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"backend error: ONNX Runtime cannot be loaded" in done.stderr
    assert run(embed).returncode == 2


def test_the_library_stands_alone(embed: Path) -> None:
    """Neither the program nor the library needs anything but the C library until a bundle is opened."""
    listed = subprocess.run(["ldd", embed], capture_output=True, check=True, text=True).stdout
    names = {line.split()[0].split("/")[-1].split(".so")[0] for line in listed.splitlines() if line.strip()}
    assert names <= {
        "linux-vdso",
        "libforerun",
        "libc",
        "libm",
        "libdl",
        "libpthread",
        "ld-linux-x86-64",
        "ld-linux-aarch64",
    }
