"""A machine with a GPU, without one: the fake driver of the C tests, and a TensorRT whose engines are ONNX graphs.

`FakeMachine.install` puts both in place for forerun.load. An engine's run is a kernel of the fake driver: it reads what
was bound from the fake device memory, lets ONNX Runtime run the graph that the engine was built from, and writes the
outputs back. So whatever the core copies, captures or launches wrongly shows in the tokens.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from device_bundle import LIBRARY, NAME
from fake_tensorrt import DataType, FakeContext, FakePlan, FakeTensor, FakeTensorRT, TensorIOMode
from forerun import device, loading
from forerun.bundle_engines import read_engines
from forerun.tensorrt_package import Installed

ROOT = Path(__file__).parents[1]
SOURCES = ("fake_cuda.c", "fake_cuda_symbols.c", "fake_cuda_attributes.c")
TYPES = {"int64": DataType.INT64, "float32": DataType.FLOAT, "float16": DataType.HALF}
NUMPY = {DataType.INT64: np.int64, DataType.FLOAT: np.float32, DataType.HALF: np.float16}
KERNEL = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


def build_driver(folder: Path) -> Path:
    """Compile the fake driver; a machine without a C compiler skips."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler for the fake driver")
    library = folder / "libfakecuda.so"
    sources = [ROOT / "tests" / "c" / name for name in SOURCES]
    includes = [f"-I{ROOT / 'runtime' / name}" for name in ("src", "include")]
    command = [compiler, "-std=c11", "-O1", "-shared", "-fPIC", *includes, *sources, "-o", library]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return library


class FakeMachine:
    """The driver library at `path`, and the engines of the bundle in `folder`."""

    def __init__(self, path: Path, folder: Path, draft_len: int, prefill_chunk: int) -> None:
        self.path = path
        self.driver = ctypes.CDLL(str(path))
        self.driver.fake_cuda_log.restype = self.driver.fake_cuda_mistake.restype = ctypes.c_char_p
        self.driver.fake_cuda_memory.restype = ctypes.c_void_p
        self.driver.fake_cuda_memory.argtypes = (ctypes.c_uint64, ctypes.c_size_t)
        self.driver.fake_cuda_kernel.argtypes = (ctypes.c_void_p, KERNEL, ctypes.c_void_p)
        self.driver.fake_cuda_fail.argtypes = (ctypes.c_char_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int)
        self.driver.fake_cuda_live.restype = ctypes.c_size_t
        self.driver.fake_cuda_reset(13000, 1)
        self._kernels: list[Any] = []  # the driver keeps addresses only
        self.mistakes: list[str] = []
        entry = read_engines(folder).engines[0]
        widths = {"round": range(2, draft_len + 2), "plain": (1,)}
        plans = {}
        for name, tensors in (("round", entry.round), ("plain", entry.plain)):
            modes = {True: TensorIOMode.INPUT, False: TensorIOMode.OUTPUT}
            fakes = [FakeTensor(each.name, TYPES[each.dtype], each.shape, modes[each.is_input]) for each in tensors]
            profiles = [(width, width, width) for width in (*widths[name], prefill_chunk)]
            plans[f"{name} of a table".encode()] = FakePlan(fakes, profiles, {}, name)
        self.tensorrt = FakeTensorRT(plans)
        self.tensorrt.run = self._enqueue
        self._sessions = {name: _session(folder / NAME / f"{name}.onnx") for name in widths}

    def install(self, monkeypatch: pytest.MonkeyPatch, caches: Path) -> None:
        """For forerun.load in this test."""
        monkeypatch.setattr(device, "DRIVER", str(self.path))
        monkeypatch.setattr(loading, "find_package", lambda backend: Installed(LIBRARY, 13))
        monkeypatch.setitem(sys.modules, "tensorrt_rtx", self.tensorrt)
        monkeypatch.setenv("XDG_CACHE_HOME", str(caches))

    def log(self) -> list[str]:
        """The driver's calls since the last forget."""
        return str(self.driver.fake_cuda_log().decode()).split()

    def _enqueue(self, context: FakeContext, stream: int) -> bool:
        kernel = KERNEL(lambda _: self._run(context))
        self._kernels.append(kernel)
        self.driver.fake_cuda_kernel(stream, kernel, None)
        return True

    def _memory(self, context: FakeContext, tensor: FakeTensor) -> np.ndarray:
        """The device memory of a tensor, as an array that shares it."""
        shape = tuple(context.width if dim < 0 else dim for dim in tensor.shape)
        kind = np.dtype(NUMPY[tensor.dtype])
        size = int(np.prod(shape)) * kind.itemsize
        address = self.driver.fake_cuda_memory(context.addresses[tensor.name], size)
        assert address is not None, f"{tensor.name}: {size} bytes are not within one allocation"
        return np.frombuffer((ctypes.c_char * size).from_address(address), kind).reshape(shape)

    def _run(self, context: FakeContext) -> None:
        """A kernel may not raise: what it has to say is kept for the test."""
        try:
            tensors = context.plan.tensors
            read = {t.name: self._memory(context, t).copy() for t in tensors if t.mode is TensorIOMode.INPUT}
            written = [tensor for tensor in tensors if tensor.mode is TensorIOMode.OUTPUT]
            results = self._sessions[context.plan.name].run([tensor.name for tensor in written], read)
            for tensor, value in zip(written, results, strict=True):
                self._memory(context, tensor)[...] = value
        except Exception as error:
            self.mistakes.append(repr(error))


def _session(path: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
