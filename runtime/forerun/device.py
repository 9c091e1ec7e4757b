"""The devices of this machine, asked through NVIDIA's driver, and the choice of what runs a bundle on them."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from forerun.bundle_engines import BundleEngines, EngineEntry
from forerun.errors import ForerunError, refuse_argument
from forerun.tensorrt_package import AHEAD_OF_TIME, LIBRARY_NAMES, Installed

DRIVER = "libcuda.so.1"
_NAME_BYTES = 128
_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_*
_NO_DEVICE = 100


@dataclass(frozen=True, slots=True)
class Device:
    """A GPU as CUDA numbers those that this process sees; `capability` is "8.9"."""

    ordinal: int
    name: str
    capability: str


@dataclass(frozen=True, slots=True)
class Devices:
    """What the driver says: the GPUs, the newest CUDA (major, minor) that it supports, or why there are none."""

    found: tuple[Device, ...]
    cuda: tuple[int, int]
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Gpu:
    """A device, and the engine of the bundle that was built for it."""

    device: Device
    engine: EngineEntry


@dataclass(frozen=True, slots=True)
class Choice:
    """What runs a bundle: `device` is "cpu" or "cuda:0"; `gpu` says what a GPU runs.

    `reason` is why, in words; empty for a CPU that was asked for.
    """

    device: str
    reason: str
    gpu: Gpu | None = None

    @property
    def engine(self) -> str | None:
        """The engine's folder in the bundle; None on the CPU."""
        return None if self.gpu is None else self.gpu.engine.folder


def find_devices(driver: str | None = None) -> Devices:
    """Ask the driver (default: DRIVER). No device is initialized, and a machine without a driver is no error."""
    driver = driver or DRIVER
    try:
        library = ctypes.CDLL(driver)
    except OSError as error:
        return Devices((), (0, 0), f"NVIDIA's driver is not installed ({error})")
    try:
        return _ask(library)
    except (AttributeError, _DriverError) as error:
        return Devices((), (0, 0), f"NVIDIA's driver {driver} refused: {error}")


class _DriverError(Exception):
    pass


def _ask(library: ctypes.CDLL) -> Devices:
    def call(name: str, *arguments: object) -> None:
        result = int(getattr(library, name)(*arguments))
        if result:
            raise _DriverError("it finds no device (CUDA error 100)" if result == _NO_DEVICE else f"{name}: {result}")

    call("cuInit", 0)
    version, count = ctypes.c_int(), ctypes.c_int()
    call("cuDriverGetVersion", ctypes.byref(version))
    call("cuDeviceGetCount", ctypes.byref(count))
    found = []
    for ordinal in range(count.value):
        handle, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
        name = ctypes.create_string_buffer(_NAME_BYTES)
        call("cuDeviceGet", ctypes.byref(handle), ordinal)
        call("cuDeviceGetName", name, _NAME_BYTES, handle)
        call("cuDeviceGetAttribute", ctypes.byref(major), _MAJOR, handle)
        call("cuDeviceGetAttribute", ctypes.byref(minor), _MINOR, handle)
        found.append(Device(ordinal, name.value.decode(errors="replace"), f"{major.value}.{minor.value}"))
    reason = "" if found else "NVIDIA's driver finds no device"
    return Devices(tuple(found), (version.value // 1000, version.value % 1000 // 10), reason)


def parse_device(device: str) -> str:
    """The device as asked for: "cpu", "auto", "cuda" or "cuda:N"; anything else is refused."""
    kind, colon, number = device.partition(":") if isinstance(device, str) else ("", "", "")
    if kind in ("cpu", "auto", "cuda") and not colon:
        return device
    if kind == "cuda" and number.isdecimal() and number == str(int(number)):
        return device
    raise refuse_argument(f"device: expected 'cpu', 'cuda', 'cuda:N' or 'auto', got {device!r}")


def choose(
    bundle: BundleEngines, device: str, devices: Devices, installed: Callable[[str], Installed | None]
) -> Choice:
    """Choose for a device as parse_device gives it; `installed` knows the TensorRT package of a backend.

    "cuda": the bundle's first engine that fits the first device which has one. "auto": that, or the CPU if the bundle
    has graphs for it, with the reason. Raises ForerunError ("backend error"), in one message all that is missing.
    """
    if device == "cpu":
        return Choice("cpu", "")
    refusal = _refusal_of_all(bundle, device, devices)
    if refusal is None:
        asked = _asked(device, devices)
        for gpu in asked:
            for engine in bundle.engines:
                if _unfit(engine, gpu, devices, installed(engine.backend)) is None:
                    reason = f"{gpu.name} ({gpu.capability}) runs {engine.folder}, {_library(engine)}"
                    return Choice(f"cuda:{gpu.ordinal}", reason, Gpu(gpu, engine))
        refusal = _refusal_of_each(bundle, asked, devices, installed)
    if device == "auto" and bundle.cpu:
        return Choice("cpu", f"no GPU fits: {refusal}")
    rest = ". On the CPU: device 'cpu'" if bundle.cpu else ". The bundle has no graphs for the CPU either"
    raise ForerunError("backend error", f"device {device!r}: {refusal}{rest}.")


def _asked(device: str, devices: Devices) -> tuple[Device, ...]:
    ordinal = device.partition(":")[2]
    return devices.found if not ordinal else tuple(gpu for gpu in devices.found if gpu.ordinal == int(ordinal))


def _refusal_of_all(bundle: BundleEngines, device: str, devices: Devices) -> str | None:
    """Why no engine needs to be looked at."""
    if not bundle.engines:
        return (
            f"{bundle.path} holds no engine of a GPU; add - backend: tensorrt-rtx, with its compute_capability, to the "
            f"engines of its recipe and build it again"
        )
    if not devices.found:
        return devices.reason
    if not _asked(device, devices):
        return f"there is no such device; this machine has {_list(f'cuda:{gpu.ordinal}' for gpu in devices.found)}"
    return None


def _refusal_of_each(
    bundle: BundleEngines, asked: Sequence[Device], devices: Devices, installed: Callable[[str], Installed | None]
) -> str:
    """Every engine and why it does not fit, device by device, and how to build one that does."""
    parts = []
    for gpu in asked:
        unfit = [
            f"{engine.folder} is {_unfit(engine, gpu, devices, installed(engine.backend))}" for engine in bundle.engines
        ]
        parts.append(f"{'; '.join(unfit)}; this device is {gpu.capability} ({gpu.name})")
        if not any(gpu.capability in engine.capabilities for engine in bundle.engines):
            parts.append(_how_to_build(bundle, gpu))
    return "; ".join(dict.fromkeys(parts))


def _unfit(engine: EngineEntry, gpu: Device, devices: Devices, package: Installed | None) -> str | None:
    """What is wrong with running this engine there; None if nothing is."""
    built = f"built for {_list(engine.capabilities)} with {_library(engine)}"
    name = LIBRARY_NAMES[engine.backend]
    if gpu.capability not in engine.capabilities:
        return built
    if package is None:
        return f"{built}, which is not installed: pip install 'forerun[{engine.backend}]' in that version"
    if package.version != engine.library:
        return f"{built}, and {name} {package.version} is installed: install {engine.library}, or build it again"
    if devices.cuda < (package.cuda, 0):
        found = ".".join(map(str, devices.cuda))
        return f"{built}, which needs a driver for CUDA {package.cuda}; this one is for CUDA {found}: update it"
    return None


def _how_to_build(bundle: BundleEngines, gpu: Device) -> str:
    command = f"build-engine build --only engines -o {bundle.path} --target"
    if gpu.capability in AHEAD_OF_TIME:
        return f"build for it: {command} {gpu.capability}"
    return f"TensorRT-RTX builds for {_list(AHEAD_OF_TIME)} only, so build on this machine: {command} tensorrt"


def _library(engine: EngineEntry) -> str:
    return f"{LIBRARY_NAMES[engine.backend]} {engine.library}"


def _list(names: Iterable[str]) -> str:
    return ", ".join(names)
