"""ONNX Runtime's execution providers: what is refused and in which words, and a GPU's graphs as they run on the CPU.

No provider of a GPU runs here. What is particular to them is the library's own refusal; states in memory that the
library allocates, inputs bound for each run, caches of float16 are the same code on the CPU.
"""

import ctypes
import re
from pathlib import Path

import numpy as np
import pytest

import forerun
from device_bundle import FOLDER, make_device_bundle
from forerun import _core
from forerun.library import find_library
from table_bundle import TableBundle

LIBRARY = str(find_library(None, None))
HEADER = Path(__file__).parents[2] / "runtime" / "src" / "ort_api.h"


@pytest.fixture(scope="module")
def device_bundle(tmp_path_factory: pytest.TempPathFactory) -> TableBundle:
    return make_device_bundle(tmp_path_factory.mktemp("providers") / "table")


def open_core(folder: Path, **options: object) -> _core.Engine:
    return _core.Engine(str(folder), LIBRARY, 1, **options)  # type: ignore[call-overload,no-any-return]


def generate(core: _core.Engine, prompt: list[int], decoding: str, temperature: float = 0.0) -> list[int]:
    core.start(
        np.array(prompt, np.int64), max_new_tokens=40, temperature=temperature, seed=5, decoding=decoding, draft_len=0
    )
    tokens: list[int] = []
    finish = None
    while finish is None:
        one = core.step()
        tokens += one.committed
        finish = one.finish
    return tokens


def refusal(folder: Path, **options: object) -> forerun.ForerunError:
    with pytest.raises(forerun.ForerunError) as caught:
        open_core(folder, **options)
    assert "\n" not in caught.value.message
    return caught.value


@pytest.mark.parametrize("decoding", ["speculative", "plain", "padded"])
@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("length", [1, 7, 8, 9, 21])
def test_a_gpus_graphs_generate_what_the_cpus_do(
    device_bundle: TableBundle, decoding: str, temperature: float, length: int
) -> None:
    prompt = list(b"abcdefghij" * 3)[:length]
    own = generate(open_core(device_bundle.path), prompt, decoding, temperature)
    gpu = generate(open_core(device_bundle.path, engine=FOLDER), prompt, decoding, temperature)
    assert gpu == own
    if temperature == 0.0:
        assert gpu == device_bundle.greedy_tokens(prompt, 40)


def test_generations_follow_each_other_in_one_engine(device_bundle: TableBundle) -> None:
    core = open_core(device_bundle.path, engine=FOLDER)
    for prompt in (list(b"abc" * 9), list(b"f"), list(b"gh!")):
        for decoding in ("speculative", "plain", "padded", "speculative"):
            assert generate(core, prompt, decoding) == device_bundle.greedy_tokens(prompt, 40)


def test_states_have_the_graphs_types_and_are_cleared(device_bundle: TableBundle) -> None:
    core = open_core(device_bundle.path, engine=FOLDER)
    rows = device_bundle.capacity + device_bundle.draft_len + 1
    states = [core.state(index) for index in range(core.describe().n_states)]
    assert [size for *_, size in states] == [2 * rows] * 4 + [4 * device_bundle.draft_len * 260]
    assert all(entry == out for _, entry, out, _ in states)
    cache = np.frombuffer(ctypes.string_at(states[0][1], states[0][3]), np.float16)
    assert not cache[device_bundle.draft_len + 1 :].any()  # the first rows are those of the round that cleared it


def test_the_graph_writes_into_the_bound_buffer(device_bundle: TableBundle) -> None:
    core = open_core(device_bundle.path, engine=FOLDER)
    prompt = list(b"abc" * 7)
    tokens = generate(core, prompt, "speculative")
    _, address, _, size = core.state(0)
    written = [*prompt, *tokens[:-1]]
    cache = np.frombuffer(ctypes.string_at(address, size), np.float16)
    assert cache[: len(written)].astype(int).tolist() == written


@pytest.mark.parametrize(
    ("provider", "name"), [("cuda", "CUDAExecutionProvider"), ("tensorrt", "TensorrtExecutionProvider")]
)
def test_a_provider_that_the_library_lacks_is_named(device_bundle: TableBundle, provider: str, name: str) -> None:
    error = refusal(device_bundle.path, provider=provider)
    assert error.status == "backend error"
    assert re.match(rf'The provider "{provider}" is not in this ONNX Runtime [\d.]+, which has ', error.message)
    assert f"CPUExecutionProvider. Give the path of a libonnxruntime.so that has {name}: " in error.message
    assert "onnxruntime-gpu" in error.message


def test_an_unknown_provider_is_refused(device_bundle: TableBundle) -> None:
    error = refusal(device_bundle.path, provider="rocm")
    assert error.status == "invalid argument"
    assert error.message == 'provider must be "cpu", "cuda", "tensorrt" or "tensorrt-rtx", found "rocm".'


def test_a_plugin_needs_its_path(device_bundle: TableBundle) -> None:
    error = refusal(device_bundle.path, provider="tensorrt-rtx")
    assert error.status == "invalid argument"
    assert "is a plugin: give its path in provider_library; the wheel onnxruntime-ep-nv-tensorrt-rtx" in error.message


def test_a_plugin_that_is_not_there_is_refused_in_the_librarys_words(device_bundle: TableBundle) -> None:
    error = refusal(device_bundle.path, provider="tensorrt-rtx", provider_library="/nowhere/plugin.so")
    assert error.status == "backend error"
    assert 'provider "tensorrt-rtx" on device 0: ' in error.message
    assert "/nowhere/plugin.so: cannot open shared object file" in error.message


def test_a_library_that_is_no_plugin_is_refused(device_bundle: TableBundle) -> None:
    error = refusal(device_bundle.path, provider="tensorrt-rtx", provider_library=str(forerun.kernel_library()))
    assert error.status == "backend error"
    assert "CreateEpFactories" in error.message


def test_a_bundle_without_an_engine_has_nothing_for_a_gpu(bundle: TableBundle) -> None:
    error = refusal(bundle.path, provider="cuda")
    assert error.status == "bundle error"
    assert 'holds no engine of a GPU, whose graphs a provider of a GPU runs. Add "- backend: tensorrt-rtx"' in str(
        error
    )


def test_an_unknown_engine_is_refused(device_bundle: TableBundle) -> None:
    error = refusal(device_bundle.path, engine="engines/other")
    assert error.status == "bundle error"
    assert 'holds no engine "engines/other"' in error.message


def test_a_bundle_for_gpus_alone_is_refused_on_the_cpu(tmp_path: Path) -> None:
    made = make_device_bundle(tmp_path / "gpus", cpu=False)
    assert "holds no graphs for ONNX Runtime on the CPU" in refusal(made.path).message
    assert generate(open_core(made.path, engine=FOLDER), [97], "plain") == made.greedy_tokens([97], 40)


class _Base(ctypes.Structure):
    _fields_ = (("GetApi", ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_uint32)), ("GetVersionString", ctypes.c_void_p))


class _Table:
    """The library's table, called at the slots that our header gives."""

    def __init__(self) -> None:
        library = ctypes.CDLL(LIBRARY)
        library.OrtGetApiBase.restype = ctypes.POINTER(_Base)
        address = library.OrtGetApiBase().contents.GetApi(18)
        self._slots = (ctypes.c_void_p * 375).from_address(address)
        text = HEADER.read_text(encoding="utf-8")
        self._numbers = {name: int(slot) for slot, name in re.findall(r"X\((\d+), [^,]*?(?:\*|int|void), (\w+),", text)}

    def call(self, name: str, *arguments: object, result: object = ctypes.c_void_p) -> object:
        kinds = [
            type(argument) if isinstance(argument, ctypes._SimpleCData) else ctypes.c_void_p for argument in arguments
        ]
        return ctypes.CFUNCTYPE(result, *kinds)(self._slots[self._numbers[name]])(*arguments)

    def said(self, name: str, *arguments: object) -> str | None:
        """The message of a call that gives a status; None for success."""
        status = self.call(name, *arguments)
        if status is None:
            return None
        message = self.call("GetErrorMessage", ctypes.c_void_p(status), result=ctypes.c_char_p)
        assert isinstance(message, bytes)
        self.call("ReleaseStatus", ctypes.c_void_p(status), result=None)
        return message.decode()


def test_every_slot_is_the_function_that_we_mean() -> None:
    """A slot that is off by one is undefined behaviour: each function is recognized by what it answers here."""
    table = _Table()
    size, pointer, null = ctypes.c_size_t, ctypes.c_void_p, ctypes.c_void_p(None)
    env, options, out = pointer(), pointer(), pointer()
    assert table.said("CreateEnv", ctypes.c_int(4), ctypes.c_char_p(b"slots"), ctypes.byref(env)) is None
    assert table.said("CreateSessionOptions", ctypes.byref(options)) is None
    for kind, name in (("Cuda", "CUDA"), ("TensorRt", "TensorRT")):
        disabled = f"{name} execution provider is not enabled in this build."
        assert table.said(f"Create{kind}Options", ctypes.byref(out)) == disabled
        assert table.said(f"Update{kind}Options", null, null, null, size(0)) == disabled
        zeros = ctypes.create_string_buffer(65536)
        refused = table.said(f"Append{kind}", options, ctypes.byref(zeros))
        assert refused == f"OrtSessionOptionsAppendExecutionProvider_{name.replace('CUDA', 'Cuda')}: " + (
            "Failed to load shared library"
        )
        table.call(f"Release{kind}Options", null, result=None)
    memory = pointer()
    arguments = (ctypes.c_int(0), ctypes.c_int(0), ctypes.c_int(0), ctypes.byref(memory))
    assert table.said("CreateMemoryInfo", ctypes.c_char_p(b"Cuda"), *arguments) is None
    assert "Try CreateMemoryInfo_V2" in str(table.said("CreateMemoryInfo", ctypes.c_char_p(b"Nonsense"), *arguments))
    names, count = ctypes.POINTER(ctypes.c_char_p)(), ctypes.c_int()
    assert table.said("GetAvailableProviders", ctypes.byref(names), ctypes.byref(count)) is None
    assert b"CPUExecutionProvider" in [names[at] for at in range(count.value)]
    assert table.said("ReleaseAvailableProviders", names, count) is None
    check_plugin_slots(table, env, options)


def check_plugin_slots(table: _Table, env: ctypes.c_void_p, options: ctypes.c_void_p) -> None:
    null, size = ctypes.c_void_p(None), ctypes.c_size_t
    path = ctypes.c_char_p(b"/nowhere/plugin.so")
    assert "Failed to load library /nowhere/plugin.so" in str(
        table.said("RegisterProviderLibrary", env, ctypes.c_char_p(b"slots"), path)
    )
    devices, count = ctypes.POINTER(ctypes.c_void_p)(), size()
    assert table.said("GetEpDevices", env, ctypes.byref(devices), ctypes.byref(count)) is None
    assert count.value >= 1
    cpu = ctypes.c_void_p(devices[0])
    assert table.call("EpDevice_EpName", cpu, result=ctypes.c_char_p) == b"CPUExecutionProvider"
    hardware = ctypes.c_void_p(table.call("EpDevice_Device", cpu))
    assert table.call("HardwareDevice_Type", hardware, result=ctypes.c_int) == 0
    assert table.call("EpDevice_MemoryInfo", cpu, ctypes.c_int(0)) is None  # the CPU has no memory of its own
    none = "Must provide one or more OrtEpDevice instances."
    assert table.said("AppendProvider", options, env, null, size(0), null, null, size(0)) == none
    assert table.said("AppendProvider", options, env, devices, size(1), null, null, size(0)) is None
