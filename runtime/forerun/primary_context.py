"""The context of a device that all CUDA libraries of a process share, held as long as a library has something in it."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

from forerun.errors import ForerunError


class PrimaryContext:
    """Device `ordinal` through the driver library `driver`.

    The core holds this context too, but frees it when it closes, before what TensorRT made in it can be freed.
    """

    def __init__(self, driver: str, ordinal: int) -> None:
        self._path = driver
        self._ordinal = ordinal
        self._driver: ctypes.CDLL | None = None
        self._device = ctypes.c_int()
        self._context = ctypes.c_void_p()

    def hold(self) -> None:
        """Keep the context alive until `release`; again is fine. Raises ForerunError ("backend error")."""
        if self._driver is not None:
            return
        driver = ctypes.CDLL(self._path)
        self._call(driver, "cuDeviceGet", ctypes.byref(self._device), self._ordinal)
        self._call(driver, "cuDevicePrimaryCtxRetain", ctypes.byref(self._context), self._device)
        self._driver = driver

    @contextmanager
    def current(self) -> Iterator[None]:
        """Current on this thread, whichever it is, for freeing; not where it is not held, or was lost."""
        pushed = self._driver is not None and not self._driver.cuCtxPushCurrent_v2(self._context)
        try:
            yield
        finally:
            if self._driver is not None and pushed:
                self._driver.cuCtxPopCurrent_v2(ctypes.byref(ctypes.c_void_p()))

    def release(self) -> None:
        """Give it up; again is fine. A device that was lost refuses even this, and nobody can do anything about it."""
        driver, self._driver = self._driver, None
        if driver is not None:
            driver.cuDevicePrimaryCtxRelease_v2(self._device)

    def _call(self, driver: ctypes.CDLL, name: str, *arguments: object) -> None:
        result = int(getattr(driver, name)(*arguments))
        if result:
            raise ForerunError("backend error", f"device {self._ordinal}: {name} failed with CUDA error {result}")
