"""The runtime stands alone: no toolchain library is imported, or needed, to load a bundle and generate."""

import subprocess
import sys
from pathlib import Path

from table_bundle import TableBundle

FOREIGN = (
    "torch",
    "transformers",
    "onnx",
    "onnxscript",
    "onnx_ir",
    "click",
    "rich",
    "pydantic",
    "jinja2",
    "forerun_compiler",
)

BLOCKER = """
import sys

foreign = set(sys.argv[1].split(","))

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in foreign:
            raise ModuleNotFoundError(f"{name} is not installed here", name=name)

sys.meta_path.insert(0, Blocker())
for name in foreign:
    try:
        __import__(name)
    except ModuleNotFoundError:
        continue
    raise SystemExit(f"the blocker let {name} through")
"""


def run(code: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", BLOCKER + code, ",".join(FOREIGN), *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import_needs_no_toolchain() -> None:
    code = "import forerun; print(sorted(foreign & {name.partition('.')[0] for name in sys.modules}))"
    assert run(code) == "[]\n"


def test_import_alone_brings_in_nothing_heavy() -> None:
    """Not even what the runtime may use: the tokenizer and the library's Python package come when they are needed."""
    code = "import forerun; print(sorted({'onnxruntime', 'tokenizers', 'asyncio', 'http'} & set(sys.modules)))"
    assert run(code) == "[]\n"


def test_generating_needs_no_toolchain(bundle: TableBundle) -> None:
    code = """
import forerun
with forerun.load(sys.argv[2]) as engine:
    print(engine.generate("xyza", max_new_tokens=9).text)
assert "onnxruntime" not in sys.modules
assert not foreign & set(sys.modules)
"""
    assert run(code, str(bundle.path)) == "bcé-d漢\n"


def test_chat_without_jinja2_says_what_to_install(bundle: TableBundle) -> None:
    code = """
import forerun
try:
    forerun.load(sys.argv[2]).generate([{"role": "user", "content": "a"}])
except forerun.ForerunError as error:
    print(error)
"""
    assert "pip install forerun[chat]" in run(code, str(bundle.path))


def test_the_package_ships_its_types() -> None:
    import forerun

    folder = Path(forerun.__file__).parent
    assert (folder / "py.typed").is_file()
    assert (folder / "_core.pyi").is_file()
