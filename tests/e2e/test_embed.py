"""The embedding example: compiled by the line in its own comment, it generates what Python generates."""

import subprocess
from pathlib import Path

import pytest

import forerun
from forerun.library import find_library
from installed_core import core_folder
from table_bundle import TableBundle, make_table_bundle
from tiny_pairs import PROMPTS, BuiltPair

SOURCE = Path(__file__).parents[2] / "examples" / "embed.c"
ONNXRUNTIME = find_library(None, None)
SYSTEM = {"linux-vdso", "libc", "libm", "libdl", "libpthread", "ld-linux-x86-64", "ld-linux-aarch64"}


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example, compiled as users are told to, with warnings as errors besides."""
    folder = tmp_path_factory.mktemp("embed")
    source = SOURCE.read_text(encoding="utf-8")
    (folder / SOURCE.name).write_text(source, encoding="utf-8")
    (line,) = [text.strip(" *") for text in source.splitlines() if text.strip(" *").startswith("cc embed.c")]
    shell = f'at="{core_folder()}"; {line} -Wall -Wextra -Werror'
    done = subprocess.run(["sh", "-c", shell], cwd=folder, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return folder / "embed"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> TableBundle:
    return make_table_bundle(tmp_path_factory.mktemp("embed") / "table", ends=True)


def run(program: Path, *arguments: object) -> subprocess.CompletedProcess[bytes]:
    """Runs it without any variable of this environment."""
    return subprocess.run([program, *map(str, arguments)], capture_output=True, check=False, env={}, timeout=120)


@pytest.mark.parametrize("prompt", PROMPTS)
def test_the_text_equals_pythons(program: Path, pair: BuiltPair, engine: forerun.Engine, prompt: str) -> None:
    expected = engine.generate(prompt, max_new_tokens=80)
    done = run(program, pair.bundle, ONNXRUNTIME, 80, *engine.encode(prompt))
    assert done.returncode == 0, done.stderr
    assert done.stdout.decode(errors="replace") == expected.text
    statistics = expected.statistics
    assert f"{statistics.new_tokens - 1} tokens in {statistics.rounds} rounds" in done.stderr.decode()


def test_an_end_token_ends_it(program: Path, bundle: TableBundle) -> None:
    done = run(program, bundle.path, ONNXRUNTIME, 80, *b"xyza")
    assert (done.returncode, done.stdout.decode()) == (0, "bcé-d漢(e)🙂fgh!")


def test_nothing_but_the_c_library_is_needed(program: Path) -> None:
    listed = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    names = {Path(line.split()[0]).name.split(".so")[0] for line in listed.splitlines() if line.strip()}
    assert names <= SYSTEM | {"libforerun"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((0, 1), "max_new_tokens"), ((5, 260), "260"), ((5, *[1] * 200), "200")],
)
def test_a_wrong_request_is_refused(
    program: Path, bundle: TableBundle, arguments: tuple[int, ...], message: str
) -> None:
    done = run(program, bundle.path, ONNXRUNTIME, *arguments)
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.decode().startswith("embed: invalid argument: ")
    assert message in done.stderr.decode()


def test_a_wrong_folder_library_or_command_line_is_refused(program: Path, bundle: TableBundle, tmp_path: Path) -> None:
    for arguments, status, words in (
        ((tmp_path, ONNXRUNTIME, 5, 1), "file error", str(tmp_path)),
        ((bundle.path, "/nonexistent.so", 5, 1), "backend error", "/nonexistent.so"),
    ):
        done = run(program, *arguments)
        assert (done.returncode, done.stdout) == (1, b"")
        assert done.stderr.decode().startswith(f"embed: {status}: ")
        assert words in done.stderr.decode()
    assert run(program).returncode == 2


def test_a_damaged_bundle_is_refused_by_name(program: Path, tmp_path: Path) -> None:
    damaged = make_table_bundle(tmp_path / "table").path
    with (damaged / "weights.bin").open("r+b") as weights:
        weights.seek(1000)
        weights.write(b"\xff\xff")
    done = run(program, damaged, ONNXRUNTIME, 5, 1)
    assert done.returncode == 1
    assert "weights.bin" in done.stderr.decode()
