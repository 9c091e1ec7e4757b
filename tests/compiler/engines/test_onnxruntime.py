"""The engine's files: equal bytes from two processes, weights once and mappable, no copy of a cache."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from forerun_compiler.engines import onnxruntime as engine
from forerun_compiler.errors import EngineError
from forerun_compiler.pipeline import CompiledGraphs
from hand_graphs import make_model, node
from ort_rounds import GraphRunner, open_session
from tiny_pairs import Pair, pair

ROOT = Path(__file__).parents[3]
FILES = ("round.onnx", "plain.onnx", "weights.bin")
BUILD = """
import sys
from pathlib import Path
from tiny_pairs import recipe
from forerun_compiler.engines import onnxruntime
from forerun_compiler.compilation import compile_recipe
target, drafter, out = map(Path, sys.argv[1:])
onnxruntime.write(compile_recipe(recipe(target, drafter), None, lambda *_: None).graphs, out)
"""


def external(path: Path) -> dict[str, tuple[int, int]]:
    """Offset and length of each weight that a graph file reads from weights.bin."""
    found = {}
    for tensor in onnx.load(path, load_external_data=False).graph.initializer:
        if tensor.external_data:
            entries = {entry.key: entry.value for entry in tensor.external_data}
            assert entries["location"] == "weights.bin"
            found[tensor.name] = (int(entries["offset"]), int(entries["length"]))
    return found


def test_two_processes_write_the_same_bytes(tmp_path: Path) -> None:
    made, builds = pair(), []
    for number in (1, 2):
        out = tmp_path / f"build{number}"
        out.mkdir()
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(str(ROOT / part) for part in ("compiler", "runtime", "tests")),
            # Whatever depends on the order of a set of names would show.
            "PYTHONHASHSEED": str(number),
        }
        command = [sys.executable, "-c", BUILD, str(made.target), str(made.drafter), str(out)]
        subprocess.run(command, check=True, env=environment, cwd=tmp_path, capture_output=True)
        builds.append({name: (out / name).read_bytes() for name in FILES})
    assert builds[0] == builds[1]
    assert builds[0] == {name: (made.engine / name).read_bytes() for name in FILES}
    assert str(made.target).encode() not in b"".join(builds[0].values())


def test_weights_are_stored_once_and_can_be_mapped() -> None:
    made = pair()
    round_places, plain_places = (external(made.engine / name) for name in FILES[:2])
    assert all(offset % engine.ALIGNMENT == 0 for offset, _ in [*round_places.values(), *plain_places.values()])
    # All of the plain graph's weights are also the round's.
    assert set(plain_places.values()) <= set(round_places.values())
    size = (made.engine / "weights.bin").stat().st_size
    assert size < sum(length + engine.ALIGNMENT for _, length in set(round_places.values()))
    # The drafter's embedding and head are copies of the target's, and so is this pair's Markov W2 of the head.
    tensors = onnx.load(made.engine / "round.onnx", load_external_data=False).graph.initializer
    assert sum(sorted(tensor.dims) == [64, 272] for tensor in tensors) == 3


def test_caches_are_not_copied(capfd: pytest.CaptureFixture[str]) -> None:
    """The library writes into the very buffers that it was given, and touches no row outside the run's."""
    made = pair()
    runner = GraphRunner(open_session(made.engine / "round.onnx"))
    before = {name: (state.ctypes.data, state.copy()) for name, state in runner.states.items()}
    runner.run(
        tokens=np.arange(8)[None],
        n_known=np.array([8]),
        n_draft=np.array([0]),
        position=np.array([20]),
        temperature=np.zeros(1, np.float32),
        uniform=np.zeros((1, 16), np.float32),
    )
    for name, state in runner.states.items():
        assert state.ctypes.data == before[name][0]
        if name == "draft_probs":
            np.testing.assert_array_equal(state, before[name][1])
            continue
        changed = np.nonzero((state != before[name][1]).any(axis=(0, 1, 3)))[0]
        assert 20 == changed[0] <= changed[-1] <= 20 + 8 + 7, name
    # TensorScatter warns when it has to copy a cache first.
    assert "in-place optimization not activated" not in capfd.readouterr().err


def test_only_types_that_the_runtime_binds_are_written(tmp_path: Path) -> None:
    made: Pair = pair()
    x = ir.val("x", ir.DataType.BOOL, [2])
    flip = node("Not", [x], ("y", [2]))
    flip.outputs[0].type = ir.TensorType(ir.DataType.BOOL)
    odd = make_model([x], [flip], flip.outputs)
    with pytest.raises(EngineError, match=r"x: graph inputs and outputs must be float32 or int64 .*found BOOL"):
        engine.write(CompiledGraphs(odd, made.graphs.plain, made.graphs.facts), tmp_path)
    assert not list(tmp_path.iterdir())
