"""Models of our operators in sessions of others, and where such a session holds a weight."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto

import forerun

MAPPED = """
import sys
import numpy as np
import onnxruntime as ort
import forerun

def kilobytes(key, inside=None):
    total, counting = 0, inside is None
    for line in open("/proc/self/smaps"):
        if "-" in line.split()[0]:
            counting = inside is None or inside in line
        elif counting and line.startswith(key + ":"):
            total += int(line.split()[1])
    return total

def session(path):
    options = ort.SessionOptions()
    options.register_custom_ops_library(str(forerun.kernel_library()))
    return ort.InferenceSession(path, options)

before = kilobytes("Anonymous")
opened = [session(sys.argv[1]), session(sys.argv[1])]
for each in opened:
    each.run(None, {"x": np.ones((1, 8, 4096), np.float32)})
print(kilobytes("Rss", "weights.bin"), kilobytes("Anonymous") - before)
"""


def open_session(model: onnx.ModelProto | Path, threads: int = 2) -> ort.InferenceSession:
    """Open a model with our operators in the library's own session."""
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 4
    options.register_custom_ops_library(str(forerun.kernel_library()))
    source = str(model) if isinstance(model, Path) else model.SerializeToString()
    return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def run(session: ort.InferenceSession, x: np.ndarray) -> np.ndarray:
    """Return y of a model with the input x alone."""
    (y,) = session.run(None, {"x": x})
    assert isinstance(y, np.ndarray)
    return y


def assert_mapped(model: onnx.ModelProto, packed: np.ndarray, folder: Path) -> None:
    """Assert that two sessions read the 16 MB of `packed`, the model's first initializer, from one mapped file."""
    (folder / "weights.bin").write_bytes(packed.tobytes())
    weight = model.graph.initializer[0]
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    for key, value in (("location", "weights.bin"), ("offset", "0"), ("length", str(packed.nbytes))):
        weight.external_data.add(key=key, value=value)
    onnx.save(model, folder / "model.onnx")
    command = [sys.executable, "-c", MAPPED, str(folder / "model.onnx")]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    mapped, anonymous = int(found[0]) / 1024, int(found[1]) / 1024
    assert mapped >= 32, f"expected both sessions to read the 16 MB from the file, found {mapped} MB of it resident"
    assert anonymous < 12, f"expected no copy of the 16 MB, found {anonymous} MB more memory"
