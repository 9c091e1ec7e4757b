"""A plain installation, in an environment of its own: no extra, nothing of the toolchain, and it generates."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from table_bundle import make_table_bundle

ROOT = Path(__file__).parents[2]
TOOLCHAIN = ("torch", "transformers", "onnx", "click")
PROGRAM = """
import importlib.util, sys
present = [name for name in {toolchain!r} if importlib.util.find_spec(name)]
assert not present, f"the environment is not plain: {{present}}"
import forerun
with forerun.load({bundle!r}) as engine:
    generation = engine.generate({prompt!r}, max_new_tokens=12)
    print(generation.tokens)
"""


@pytest.mark.slow
def test_a_plain_installation_generates_without_the_toolchain(tmp_path: Path) -> None:
    environment = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    pip = [environment / "bin/python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "--constraint", ROOT / "constraints.txt", ROOT], check=True)
    # The hub client that tokenizers requires brings click along.
    subprocess.run([environment / "bin/python", "-m", "pip", "uninstall", "--quiet", "--yes", "click"], check=True)
    bundle, prompt = make_table_bundle(tmp_path / "bundle"), [97, 98]
    program = PROGRAM.format(toolchain=TOOLCHAIN, bundle=str(bundle.path), prompt=prompt)
    done = subprocess.run([environment / "bin/python", "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == repr(tuple(bundle.greedy_tokens(prompt, 12)))
