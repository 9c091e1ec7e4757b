"""TensorRT for the C core: engines, one context for each graph and width, and the call that enqueues it.

The core owns memory, stream and rounds; it calls `bind` and `enqueue` while a generation starts and never within a
round (`forerun_open_graphs` in forerun.h). Works with tensorrt_rtx and tensorrt, which share this part of their API.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from forerun.bundle_engines import EngineEntry, Tensor
from forerun.errors import ForerunError
from forerun.primary_context import PrimaryContext
from forerun.runtime_cache import RuntimeCache
from forerun.tensorrt_package import LIBRARY_NAMES, MODULES

GraphName = Literal["round", "plain"]
_WIDTH = "tokens"  # the one input whose shape depends on the width, as [1, T]
_DTYPES = {"int64": "INT64", "float32": "FLOAT", "float16": "HALF", "bfloat16": "BF16"}
_KEPT_MESSAGES = 8


@dataclass
class _Engine:
    """A deserialized engine, and what TensorRT-RTX makes its contexts with: settings, and a cache of kernels."""

    file: str
    handle: Any
    config: Any = None
    kernels: Any = None


@dataclass
class _Context:
    """One width of a graph; `ready` once profile, shape and addresses were handed to the library."""

    engine: _Engine
    handle: Any
    profile: int
    addresses: dict[str, int] = field(default_factory=dict)
    ready: bool = False


class TensorRTGraphs:
    """The graphs of one engine. Its methods are called by the core, on a thread where the device is current.

    `bundle` is the bundle's folder, whose files the core has checked before the first call. `cache` keeps what
    TensorRT-RTX compiles for the device; None for TensorRT, which compiles nothing when it runs. `context` is the
    device's, in which the library makes everything.
    """

    def __init__(self, bundle: Path, entry: EngineEntry, cache: RuntimeCache | None, context: PrimaryContext) -> None:
        self._bundle = bundle
        self._entry = entry
        self._cache = cache
        self._context = context
        self._trt = _import_library(entry)
        self._logger = _make_logger(self._trt)
        self._runtime = self._trt.Runtime(self._logger)
        self._engines: dict[GraphName, _Engine] = {}
        self._contexts: dict[tuple[GraphName, int], _Context] = {}

    def bind(self, graph: GraphName, width: int, tensor: str, address: int) -> None:
        """`tensor` of the graph stands at the device address `address` whenever this width runs.

        Raises ForerunError ("backend error"): the engine is refused, has no such tensor or no profile of this width.
        """
        context = self._contexts.get((graph, width)) or self._make_context(graph, width)
        if tensor not in self._names(context.engine):
            raise self._refused(f"{context.engine.file} has no tensor {tensor!r}; build the bundle again")
        context.addresses[tensor] = address

    def enqueue(self, graph: GraphName, width: int, stream: int) -> None:
        """Enqueue one run on the CUDA stream; the first of a width may compile and allocate, the others do neither.

        Raises ForerunError ("backend error") with what TensorRT logged.
        """
        context = self._contexts.get((graph, width))
        if context is None:
            raise self._refused(f"{graph} was not bound for {width} tokens")
        if not context.ready:
            self._make_ready(context, graph, width, stream)
        if not context.handle.execute_async_v3(stream):
            raise self._refused(f"{context.engine.file} cannot run {width} tokens")
        if not context.ready:
            context.ready = True
            if self._cache is not None:  # all kernels of this width were compiled by now
                self._cache.save(graph, context.engine.kernels)

    def close(self) -> None:
        """Free contexts before engines before the runtime, as the library wants it; again is fine.

        Only once the core is closed, whose captured graphs use them.
        """
        with self._context.current():
            self._contexts.clear()
            self._engines.clear()
            self._runtime = None
        self._context.release()

    def __del__(self) -> None:
        with suppress(Exception):  # an engine that was refused, or an interpreter that ends
            self.close()

    def _make_context(self, graph: GraphName, width: int) -> _Context:
        engine = self._engines.get(graph) or self._load(graph)
        profile = self._profile_for(engine, width)
        arguments = () if engine.config is None else (engine.config,)
        handle = engine.handle.create_execution_context(*arguments)
        if handle is None:
            raise self._refused(f"no context of {engine.file} for {width} tokens")
        context = self._contexts[graph, width] = _Context(engine, handle, profile)
        return context

    def _load(self, graph: GraphName) -> _Engine:
        self._context.hold()
        path = self._bundle / self._entry.folder / f"{graph}.engine"
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as plan:
            handle = self._runtime.deserialize_cuda_engine(plan)
        if handle is None:
            raise self._refused(f"{path} is refused; build it again, with the version that is installed")
        engine = _Engine(f"{self._entry.folder}/{graph}.engine", handle)
        self._check_interface(engine, self._entry.round if graph == "round" else self._entry.plain)
        if self._cache is not None:
            self._configure(engine, self._cache.load(graph))
        self._engines[graph] = engine
        return engine

    def _configure(self, engine: _Engine, stored: bytes | None) -> None:
        """Compile every kernel when a context is made, none within a round, and leave capturing to the core."""
        config = engine.config = engine.handle.create_runtime_config()
        kernels = engine.kernels = config.create_runtime_cache()
        if stored is not None:
            kernels.deserialize(stored)  # False if it belongs to another driver: then everything is compiled again
        if not config.set_runtime_cache(kernels):
            raise self._refused("its runtime cache is refused")
        config.dynamic_shapes_kernel_specialization_strategy = self._trt.DynamicShapesKernelSpecializationStrategy.EAGER
        config.cuda_graph_strategy = self._trt.CudaGraphStrategy.DISABLED

    def _check_interface(self, engine: _Engine, tensors: tuple[Tensor, ...]) -> None:
        """The core takes memory as the manifest says: an engine that reads or writes more would leave its buffers."""
        expected = {tensor.name: (tensor.is_input, tensor.dtype, tensor.shape) for tensor in tensors}
        for name in self._names(engine):
            if name not in expected:
                raise self._refused(f"{engine.file} has a tensor {name!r} that the manifest does not list")
            is_input, dtype, shape = expected.pop(name)
            found = (
                engine.handle.get_tensor_mode(name) == self._trt.TensorIOMode.INPUT,
                engine.handle.get_tensor_dtype(name) == getattr(self._trt.DataType, _DTYPES[dtype]),
                _is_shape(engine.handle.get_tensor_shape(name), shape),
            )
            if found != (is_input, True, True):
                kind = "input" if is_input else "output"
                raise self._refused(f"{engine.file}: expected {name!r} to be an {kind} {dtype} {list(shape)}")
        if expected:
            raise self._refused(f"{engine.file} lacks the tensors {', '.join(expected)}")

    def _profile_for(self, engine: _Engine, width: int) -> int:
        """The profile made for this width, else one that holds it."""
        ranges = [
            [shape[1] for shape in engine.handle.get_tensor_profile_shape(_WIDTH, profile)]
            for profile in range(engine.handle.num_optimization_profiles)
        ]
        holding = [at for at, (least, _, most) in enumerate(ranges) if least <= width <= most]
        if not holding:
            known = ", ".join(f"{least} .. {most}" for least, _, most in ranges)
            raise self._refused(f"{engine.file} was built for {known} tokens, not for {width}; build the bundle again")
        return min(holding, key=lambda at: (abs(ranges[at][1] - width), at))

    def _make_ready(self, context: _Context, graph: GraphName, width: int, stream: int) -> None:
        """Profile before shape before addresses: a profile forgets what was set before it."""
        unbound = [name for name in self._names(context.engine) if name not in context.addresses]
        if unbound:
            raise self._refused(f"{context.engine.file}: {', '.join(unbound)} were not bound")
        self._check_aliases(context)
        if not context.handle.set_optimization_profile_async(context.profile, stream):
            raise self._refused(f"{context.engine.file} refuses its profile {context.profile}")
        if not context.handle.set_input_shape(_WIDTH, (1, width)):
            raise self._refused(f"{context.engine.file} refuses {width} tokens")
        for tensor in self._entry.round if graph == "round" else self._entry.plain:
            found = tuple(context.handle.get_tensor_shape(tensor.name))
            if not _is_shape(found, tuple(width if dim < 0 else dim for dim in tensor.shape)):
                raise self._refused(f"{context.engine.file}: {tensor.name!r} is {list(found)} for {width} tokens")
        for name, address in context.addresses.items():
            if not context.handle.set_tensor_address(name, address):
                raise self._refused(f"{context.engine.file} refuses the address of {name!r}")

    def _check_aliases(self, context: _Context) -> None:
        """A cache that the engine updates in place must be bound to one address, or its rows go astray."""
        for name, address in context.addresses.items():
            source = context.engine.handle.get_aliased_input_tensor(name)
            if source and context.addresses[source] != address:
                raise self._refused(f"{context.engine.file}: {name!r} must have the address of {source!r}")

    def _names(self, engine: _Engine) -> list[str]:
        return [engine.handle.get_tensor_name(index) for index in range(engine.handle.num_io_tensors)]

    def _refused(self, what: str) -> ForerunError:
        said = "; ".join(self._logger.take())
        name = f"{LIBRARY_NAMES[self._entry.backend]} {self._entry.library}"
        return ForerunError("backend error", f"{name}: {what}{f': {said}' if said else ''}")


def _is_shape(found: Iterable[int], expected: tuple[int, ...]) -> bool:
    """Whether the sizes are those; -1 is one that the library does not know yet."""
    sizes = tuple(found)
    return len(sizes) == len(expected) and all(a in (b, -1) for a, b in zip(sizes, expected, strict=True))


def _import_library(entry: EngineEntry) -> Any:
    """The module, which must be the version that built the engine."""
    name = LIBRARY_NAMES[entry.backend]
    try:
        trt = import_module(MODULES[entry.backend])
    except (ImportError, OSError) as error:
        raise ForerunError(
            "backend error", f"{name} cannot be loaded: {error}; pip install 'forerun[{entry.backend}]'"
        ) from error
    if trt.__version__ != entry.library:
        raise ForerunError(
            "backend error",
            f"{entry.folder} was built with {name} {entry.library}; the module {MODULES[entry.backend]} is "
            f"{trt.__version__}: install {entry.library}, or build the engine again",
        )
    return trt


def _make_logger(trt: Any) -> Any:
    """A logger of the library that keeps its last errors and warnings for the message of a refusal."""

    class Logger(trt.ILogger):  # type: ignore[misc]  # the base class exists only where the library is
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self._lines: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.INTERNAL_ERROR, trt.ILogger.Severity.ERROR):
                self._lines = [*self._lines, " ".join(message.split())][-_KEPT_MESSAGES:]

        def take(self) -> list[str]:
            lines, self._lines = self._lines, []
            return lines

    return Logger()
