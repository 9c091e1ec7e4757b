"""A stand-in for the modules tensorrt_rtx and tensorrt: engines that are described, contexts that record their calls.

Put it in place by `monkeypatch.setitem(sys.modules, "tensorrt_rtx", FakeTensorRT(...))`. `plans` gives, by the bytes of
an engine file, what deserializing them yields; other bytes are refused, as by the library. What the library is told is
in `calls`, in order. `run` is called by execute_async_v3 with the context and the stream: True = done.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from types import ModuleType
from typing import Any

VERSION = "1.7.1.116"


class Severity(Enum):
    INTERNAL_ERROR = 0
    ERROR = 1
    WARNING = 2


class ILogger:
    Severity = Severity


class DataType(Enum):
    FLOAT = 0
    HALF = 1
    BF16 = 2
    INT32 = 3
    INT64 = 4


class TensorIOMode(Enum):
    NONE = 0
    INPUT = 1
    OUTPUT = 2


class Specialization(Enum):
    LAZY = 0
    EAGER = 1


class CudaGraphStrategy(Enum):
    DISABLED = 0
    WHOLE_GRAPH_CAPTURE = 1


@dataclass
class FakeTensor:
    name: str
    dtype: DataType
    shape: tuple[int, ...]
    mode: TensorIOMode


@dataclass
class FakePlan:
    """An engine: its tensors, [(least, best, most)] tokens of its profiles, and the aliases of its outputs.

    `shapes` are what contexts say of a tensor at a width, where the engine itself says something else.
    """

    tensors: list[FakeTensor]
    profiles: list[tuple[int, int, int]]
    aliases: Mapping[str, str] = field(default_factory=dict)
    name: str = "round"
    shapes: dict[tuple[str, int], tuple[int, ...]] = field(default_factory=dict)


class FakeRuntimeCache:
    """Its content is a line for each context that was made with it."""

    def __init__(self, trt: FakeTensorRT) -> None:
        self.trt = trt
        self.content = b""

    def deserialize(self, data: bytes) -> bool:
        self.trt.calls.append(("cache.deserialize", bytes(data)))
        self.content = bytes(data)
        return True

    def serialize(self) -> bytes:
        return self.content


class FakeRuntimeConfig:
    def __init__(self, trt: FakeTensorRT) -> None:
        self.trt = trt
        self.cache: FakeRuntimeCache | None = None
        self.dynamic_shapes_kernel_specialization_strategy = Specialization.LAZY
        self.cuda_graph_strategy = CudaGraphStrategy.WHOLE_GRAPH_CAPTURE

    def create_runtime_cache(self) -> FakeRuntimeCache:
        return FakeRuntimeCache(self.trt)

    def set_runtime_cache(self, cache: FakeRuntimeCache) -> bool:
        self.cache = cache
        return True


class FakeContext:
    def __init__(self, trt: FakeTensorRT, plan: FakePlan, config: FakeRuntimeConfig | None) -> None:
        self.trt = trt
        self.plan = plan
        self.config = config
        self.addresses: dict[str, int] = {}
        self.width = 0

    def _call(self, name: str, *arguments: Any) -> bool:
        self.trt.calls.append((name, *arguments))
        return name not in self.trt.failing

    def set_optimization_profile_async(self, profile: int, stream: int) -> bool:
        return self._call("profile", self.plan.name, profile, stream)

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.width = shape[1]
        if self.config is not None and self.config.cache is not None:  # compiles, unless the cache has it
            line = f"{self.plan.name} {self.width}\n".encode()
            if line not in self.config.cache.content:
                self.trt.calls.append(("compile", self.plan.name, self.width))
                self.config.cache.content += line
        return self._call("shape", self.plan.name, name, shape)

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        tensor = next(tensor for tensor in self.plan.tensors if tensor.name == name)
        known = self.plan.shapes.get((name, self.width), tensor.shape)
        return tuple(self.width if dim < 0 else dim for dim in known)

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return self._call("address", self.plan.name, name, address)

    def execute_async_v3(self, stream: int) -> bool:
        return self._call("execute", self.plan.name, self.width, stream) and self.trt.run(self, stream)


class FakeEngine:
    def __init__(self, trt: FakeTensorRT, plan: FakePlan) -> None:
        self.trt = trt
        self.plan = plan
        self.num_io_tensors = len(plan.tensors)
        self.num_optimization_profiles = len(plan.profiles)

    def _tensor(self, name: str) -> FakeTensor:
        return next(tensor for tensor in self.plan.tensors if tensor.name == name)

    def get_tensor_name(self, index: int) -> str:
        return self.plan.tensors[index].name

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return self._tensor(name).mode

    def get_tensor_dtype(self, name: str) -> DataType:
        return self._tensor(name).dtype

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self._tensor(name).shape

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[tuple[int, ...]]:
        assert self._tensor(name).mode is TensorIOMode.INPUT
        return [(1, tokens) for tokens in self.plan.profiles[profile]]

    def get_aliased_input_tensor(self, name: str) -> str | None:
        return self.plan.aliases.get(name)

    def create_runtime_config(self) -> FakeRuntimeConfig:
        return FakeRuntimeConfig(self.trt)

    def create_execution_context(self, config: FakeRuntimeConfig | None = None) -> FakeContext | None:
        if config is not None:
            strategies = (config.dynamic_shapes_kernel_specialization_strategy, config.cuda_graph_strategy)
            self.trt.calls.append(("context", self.plan.name, *(strategy.name for strategy in strategies)))
        else:
            self.trt.calls.append(("context", self.plan.name))
        return None if "context" in self.trt.failing else FakeContext(self.trt, self.plan, config)


class FakeTensorRT(ModuleType):
    """The module. `failing` are the calls that answer False or None; `log` is what they log, as (severity, line)."""

    ILogger = ILogger
    DataType = DataType
    TensorIOMode = TensorIOMode
    DynamicShapesKernelSpecializationStrategy = Specialization
    CudaGraphStrategy = CudaGraphStrategy

    def __init__(self, plans: Mapping[bytes, FakePlan], version: str = VERSION) -> None:
        super().__init__("tensorrt_rtx")
        self.__version__ = version
        self.plans = dict(plans)
        self.calls: list[tuple[Any, ...]] = []
        self.failing: set[str] = set()
        self.run: Callable[[FakeContext, int], bool] = lambda context, stream: True
        self.loggers: list[Any] = []

    def Runtime(self, logger: Any) -> Any:
        trt = self
        self.loggers.append(logger)

        class Runtime:
            def deserialize_cuda_engine(self, plan: Any) -> FakeEngine | None:
                data = bytes(plan)
                trt.calls.append(("deserialize", len(data)))
                if data not in trt.plans:
                    logger.log(Severity.WARNING, "not for the message")
                    logger.log(Severity.ERROR, "IRuntime::deserializeCudaEngine:\n  magic tag mismatch")
                    return None
                return FakeEngine(trt, trt.plans[data])

        return Runtime()
