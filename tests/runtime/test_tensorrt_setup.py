"""TensorRT as the core drives it: contexts, profiles, addresses and their order, and every refusal."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fake_tensorrt import DataType, FakePlan, FakeTensor, FakeTensorRT, Severity, TensorIOMode
from forerun.bundle_engines import EngineEntry, Tensor
from forerun.errors import ForerunError
from forerun.primary_context import PrimaryContext
from forerun.runtime_cache import RuntimeCache
from forerun.tensorrt import TensorRTGraphs

STREAM = 0x5EED
INTERFACE = (
    Tensor("tokens", "int64", (1, -1), True),
    Tensor("target.0.k", "float16", (1, 1, 64, 8), True),
    Tensor("committed", "int64", (1, 5), False),
    Tensor("target.0.k.out", "float16", (1, 1, 64, 8), False),
)
TYPES = {"int64": DataType.INT64, "float16": DataType.HALF, "float32": DataType.FLOAT}
ADDRESSES = {"tokens": 0x100, "target.0.k": 0x200, "committed": 0x300, "target.0.k.out": 0x200}
ROUND, PLAIN = b"round's plan", b"plain's plan"


class Context(PrimaryContext):
    """Counts who holds the device."""

    def __init__(self) -> None:
        super().__init__("none", 0)
        self.held = 0

    def hold(self) -> None:
        self.held += 1

    def release(self) -> None:
        self.held = 0


def plan_of(tensors: tuple[Tensor, ...], profiles: list[tuple[int, int, int]], name: str) -> FakePlan:
    modes = {True: TensorIOMode.INPUT, False: TensorIOMode.OUTPUT}
    fakes = [FakeTensor(each.name, TYPES[each.dtype], each.shape, modes[each.is_input]) for each in tensors]
    return FakePlan(fakes, profiles, {"target.0.k.out": "target.0.k"}, name)


@pytest.fixture
def trt(monkeypatch: pytest.MonkeyPatch) -> FakeTensorRT:
    plans = {
        ROUND: plan_of(INTERFACE, [(5, 5, 5), (8, 8, 8)], "round"),
        PLAIN: plan_of(INTERFACE, [(1, 1, 1), (8, 8, 8)], "plain"),
    }
    fake = FakeTensorRT(plans)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", fake)
    monkeypatch.setitem(sys.modules, "tensorrt", fake)
    return fake


@pytest.fixture
def entry(tmp_path: Path) -> EngineEntry:
    folder = tmp_path / "bundle" / "engines" / "one"
    folder.mkdir(parents=True)
    (folder / "round.engine").write_bytes(ROUND)
    (folder / "plain.engine").write_bytes(PLAIN)
    return EngineEntry("tensorrt-rtx", "engines/one", "1.7.1.116", ("8.9",), "0" * 64, INTERFACE, INTERFACE)


def cache_of(tmp_path: Path, entry: EngineEntry, device: str = "NVIDIA L4") -> RuntimeCache:
    return RuntimeCache(tmp_path / "cache", entry, device, (13, 0))


@pytest.fixture
def graphs(tmp_path: Path, trt: FakeTensorRT, entry: EngineEntry) -> TensorRTGraphs:
    return TensorRTGraphs(tmp_path / "bundle", entry, cache_of(tmp_path, entry), Context())


def bind_all(graphs: TensorRTGraphs, graph: Any, width: int, addresses: dict[str, int] = ADDRESSES) -> None:
    for name, address in addresses.items():
        graphs.bind(graph, width, name, address)


def refusal(call: Any, *arguments: Any) -> str:
    with pytest.raises(ForerunError) as caught:
        call(*arguments)
    assert caught.value.status == "backend error"
    assert "\n" not in caught.value.message
    return caught.value.message


def test_profile_then_shape_then_addresses_then_the_run(graphs: TensorRTGraphs, trt: FakeTensorRT) -> None:
    bind_all(graphs, "round", 8)
    graphs.enqueue("round", 8, STREAM)
    assert trt.calls == [
        ("deserialize", len(ROUND)),
        ("context", "round", "EAGER", "DISABLED"),
        ("profile", "round", 1, STREAM),
        ("compile", "round", 8),
        ("shape", "round", "tokens", (1, 8)),
        *(("address", "round", name, address) for name, address in ADDRESSES.items()),
        ("execute", "round", 8, STREAM),
    ]


def test_the_second_run_is_the_enqueue_alone(graphs: TensorRTGraphs, trt: FakeTensorRT) -> None:
    """It is captured: setting anything then would not be."""
    bind_all(graphs, "round", 5)
    graphs.enqueue("round", 5, STREAM)
    done = len(trt.calls)
    graphs.enqueue("round", 5, STREAM)
    assert trt.calls[done:] == [("execute", "round", 5, STREAM)]


def test_widths_have_contexts_of_their_own_over_one_engine(graphs: TensorRTGraphs, trt: FakeTensorRT) -> None:
    for graph, width in (("round", 5), ("round", 8), ("plain", 1)):
        bind_all(graphs, graph, width)
        graphs.enqueue(graph, width, STREAM)  # type: ignore[arg-type]
    assert [call[0] for call in trt.calls].count("deserialize") == 2
    assert [call[1:3] for call in trt.calls if call[0] == "profile"] == [("round", 0), ("round", 1), ("plain", 0)]


def test_the_plain_engine_is_not_loaded_before_it_is_bound(graphs: TensorRTGraphs, trt: FakeTensorRT) -> None:
    bind_all(graphs, "round", 5)
    assert [call for call in trt.calls if call[0] == "deserialize"] == [("deserialize", len(ROUND))]


def test_the_device_is_held_from_the_first_engine_until_closing(
    tmp_path: Path, trt: FakeTensorRT, entry: EngineEntry
) -> None:
    context = Context()
    graphs = TensorRTGraphs(tmp_path / "bundle", entry, None, context)
    assert context.held == 0
    bind_all(graphs, "round", 5)
    bind_all(graphs, "plain", 1)
    assert context.held == 2
    for _ in range(2):
        graphs.close()
        assert context.held == 0


def test_tensorrt_itself_has_no_runtime_cache(tmp_path: Path, trt: FakeTensorRT, entry: EngineEntry) -> None:
    graphs = TensorRTGraphs(tmp_path / "bundle", replace(entry, backend="tensorrt"), None, Context())
    bind_all(graphs, "round", 5)
    graphs.enqueue("round", 5, STREAM)
    assert ("context", "round") in trt.calls
    assert not [call for call in trt.calls if call[0] in ("compile", "cache.deserialize")]


def test_a_second_start_compiles_nothing(tmp_path: Path, trt: FakeTensorRT, entry: EngineEntry) -> None:
    for start in range(2):
        trt.calls.clear()
        graphs = TensorRTGraphs(tmp_path / "bundle", entry, cache_of(tmp_path, entry), Context())
        for graph, width in (("round", 5), ("round", 8), ("plain", 1)):
            bind_all(graphs, graph, width)
            graphs.enqueue(graph, width, STREAM)  # type: ignore[arg-type]
        compiled = [call for call in trt.calls if call[0] == "compile"]
        assert len(compiled) == (0 if start else 3)


def test_the_cache_of_another_device_engine_or_driver_is_not_used(tmp_path: Path, entry: EngineEntry) -> None:
    paths = {
        cache_of(tmp_path, entry).path("round"),
        cache_of(tmp_path, entry).path("plain"),
        cache_of(tmp_path, entry, "NVIDIA RTX 4090").path("round"),
        cache_of(tmp_path, replace(entry, identity="1" * 64)).path("round"),
        cache_of(tmp_path, replace(entry, library="1.8.0.1")).path("round"),
        RuntimeCache(tmp_path / "cache", entry, "NVIDIA L4", (13, 1)).path("round"),
    }
    assert len(paths) == 6


def test_a_cache_that_cannot_be_written_is_not_needed(tmp_path: Path, trt: FakeTensorRT, entry: EngineEntry) -> None:
    (tmp_path / "file").touch()
    cache = RuntimeCache(tmp_path / "file" / "cache", entry, "NVIDIA L4", (13, 0))
    graphs = TensorRTGraphs(tmp_path / "bundle", entry, cache, Context())
    bind_all(graphs, "round", 5)
    graphs.enqueue("round", 5, STREAM)
    assert trt.calls[-1] == ("execute", "round", 5, STREAM)


def test_an_engine_that_the_library_refuses_is_refused_with_its_words(
    tmp_path: Path, graphs: TensorRTGraphs, entry: EngineEntry
) -> None:
    path = tmp_path / "bundle" / entry.folder / "round.engine"
    path.write_bytes(ROUND[:-1])
    assert refusal(graphs.bind, "round", 5, "tokens", 0x100) == (
        f"TensorRT-RTX 1.7.1.116: {path} is refused; build it again, with the version that is installed: "
        "IRuntime::deserializeCudaEngine: magic tag mismatch"
    )


@pytest.mark.parametrize(
    ("failing", "message"),
    [
        ("profile", "engines/one/round.engine refuses its profile 0: out of luck"),
        ("shape", "engines/one/round.engine refuses 5 tokens: out of luck"),
        ("address", "engines/one/round.engine refuses the address of 'tokens': out of luck"),
        ("execute", "engines/one/round.engine cannot run 5 tokens: out of luck"),
    ],
)
def test_a_call_that_fails_gives_the_librarys_words(
    graphs: TensorRTGraphs, trt: FakeTensorRT, failing: str, message: str
) -> None:
    bind_all(graphs, "round", 5)
    trt.loggers[0].log(Severity.ERROR, "out of luck")
    trt.failing.add(failing)
    assert refusal(graphs.enqueue, "round", 5, STREAM) == f"TensorRT-RTX 1.7.1.116: {message}"


def test_no_memory_for_a_context_is_said(graphs: TensorRTGraphs, trt: FakeTensorRT) -> None:
    trt.failing.add("context")
    assert "no context of engines/one/round.engine for 5 tokens" in refusal(graphs.bind, "round", 5, "tokens", 1)


def test_a_width_without_a_profile_is_refused(graphs: TensorRTGraphs) -> None:
    message = refusal(graphs.bind, "round", 6, "tokens", 0x100)
    assert "engines/one/round.engine was built for 5 .. 5, 8 .. 8 tokens, not for 6" in message


def test_the_profile_made_for_a_width_is_preferred(tmp_path: Path, trt: FakeTensorRT, entry: EngineEntry) -> None:
    trt.plans[ROUND].profiles[:] = [(1, 4, 64), (1, 8, 8), (8, 64, 64)]
    graphs = TensorRTGraphs(tmp_path / "bundle", entry, cache_of(tmp_path, entry), Context())
    for width in (5, 8, 64):
        bind_all(graphs, "round", width)
        graphs.enqueue("round", width, STREAM)
    assert [call[2] for call in trt.calls if call[0] == "profile"] == [0, 1, 2]


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (replace(INTERFACE[1], dtype="float32"), r"expected 'target.0.k' to be an input float16 \[1, 1, 64, 8\]"),
        (replace(INTERFACE[1], shape=(1, 1, 65, 8)), "expected 'target.0.k' to be an input float16"),
        (replace(INTERFACE[1], is_input=False), "expected 'target.0.k' to be an input float16"),
        (replace(INTERFACE[1], name="other"), "has a tensor 'other' that the manifest does not list"),
    ],
)
def test_an_engine_of_another_interface_is_refused(
    graphs: TensorRTGraphs, trt: FakeTensorRT, tensor: Tensor, message: str
) -> None:
    trt.plans[ROUND] = plan_of((INTERFACE[0], tensor, *INTERFACE[2:]), [(5, 5, 5)], "round")
    with pytest.raises(ForerunError, match=message):
        graphs.bind("round", 5, "tokens", 0x100)


def test_sizes_that_a_context_knows_first_are_checked_there(graphs: TensorRTGraphs, trt: FakeTensorRT) -> None:
    unknown = replace(INTERFACE[2], shape=(1, -1))
    trt.plans[ROUND] = plan_of((*INTERFACE[:2], unknown, INTERFACE[3]), [(5, 5, 5), (8, 8, 8)], "round")
    trt.plans[ROUND].shapes[("committed", 8)] = (1, 5)
    trt.plans[ROUND].shapes[("committed", 5)] = (1, 6)
    for width in (8, 5):
        bind_all(graphs, "round", width)
    graphs.enqueue("round", 8, STREAM)
    assert "engines/one/round.engine: 'committed' is [1, 6] for 5 tokens" in refusal(graphs.enqueue, "round", 5, STREAM)


def test_an_engine_that_lacks_a_tensor_is_refused(graphs: TensorRTGraphs, trt: FakeTensorRT) -> None:
    trt.plans[ROUND] = plan_of(INTERFACE[:3], [(5, 5, 5)], "round")
    assert "engines/one/round.engine lacks the tensors target.0.k.out" in refusal(graphs.bind, "round", 5, "tokens", 1)


def test_a_tensor_that_the_engine_does_not_have_is_refused(graphs: TensorRTGraphs) -> None:
    assert "engines/one/round.engine has no tensor 'logits'" in refusal(graphs.bind, "round", 5, "logits", 0x100)


def test_a_tensor_that_was_not_bound_is_refused(graphs: TensorRTGraphs) -> None:
    graphs.bind("round", 5, "tokens", 0x100)
    assert "target.0.k, committed, target.0.k.out were not bound" in refusal(graphs.enqueue, "round", 5, STREAM)
    assert "plain was not bound for 1 tokens" in refusal(graphs.enqueue, "plain", 1, STREAM)


def test_a_cache_with_two_addresses_is_refused(graphs: TensorRTGraphs) -> None:
    bind_all(graphs, "round", 5, ADDRESSES | {"target.0.k.out": 0x400})
    assert "'target.0.k.out' must have the address of 'target.0.k'" in refusal(graphs.enqueue, "round", 5, STREAM)


def test_another_version_of_the_module_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, entry: EngineEntry
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", FakeTensorRT({}, "1.8.0.1"))
    message = refusal(TensorRTGraphs, tmp_path, entry, None, Context())
    assert "engines/one was built with TensorRT-RTX 1.7.1.116; the module tensorrt_rtx is 1.8.0.1" in message


def test_a_missing_module_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, entry: EngineEntry) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    message = refusal(TensorRTGraphs, tmp_path, entry, None, Context())
    assert message.startswith("TensorRT-RTX cannot be loaded: ")
    assert message.endswith("pip install 'forerun[tensorrt-rtx]'")


def test_the_real_library_refuses_garbage_in_its_own_words(tmp_path: Path, entry: EngineEntry) -> None:
    trt = pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")
    real = replace(entry, library=trt.__version__)
    (tmp_path / "bundle" / entry.folder / "round.engine").write_bytes(b"garbage" * 1000)
    graphs = TensorRTGraphs(tmp_path / "bundle", real, None, Context())
    assert "engines/one/round.engine is refused" in (message := refusal(graphs.bind, "round", 5, "tokens", 0x100))
    assert "deserializeCudaEngine" in message
    graphs.close()


def test_the_real_library_has_what_is_called_here() -> None:
    """Names and members only: without a device the library runs nothing."""
    trt = pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")
    assert trt.DynamicShapesKernelSpecializationStrategy.EAGER
    assert trt.CudaGraphStrategy.DISABLED
    assert trt.ILogger.Severity.ERROR
    for member in ("INT64", "FLOAT", "HALF", "BF16"):
        assert getattr(trt.DataType, member)
    from fake_tensorrt import FakeContext, FakeEngine, FakeRuntimeCache, FakeRuntimeConfig

    pairs = ((FakeEngine, trt.ICudaEngine), (FakeContext, trt.IExecutionContext))
    for fake, real in (*pairs, (FakeRuntimeConfig, trt.IRuntimeConfig), (FakeRuntimeCache, trt.IRuntimeCache)):
        named = [name for name in vars(fake) if not name.startswith("_")]
        assert named
        assert [name for name in named if not hasattr(real, name)] == []
