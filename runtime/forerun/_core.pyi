"""Types of the extension module: the C core behind forerun.h (its comments are the manual)."""

from collections.abc import Callable
from typing import Literal, overload

import numpy as np
import numpy.typing as npt

GraphName = Literal["round", "plain"]

VERSION: str

class Facts:
    """What the open bundle is."""

    @property
    def name(self) -> str: ...
    @property
    def target_architecture(self) -> str: ...
    @property
    def drafter_family(self) -> str: ...
    @property
    def backend(self) -> str: ...
    @property
    def backend_version(self) -> str: ...
    @property
    def vocab_size(self) -> int: ...
    @property
    def draft_len(self) -> int: ...
    @property
    def block_size(self) -> int: ...
    @property
    def capacity(self) -> int: ...
    @property
    def prefill_chunk(self) -> int: ...
    @property
    def verify_widths(self) -> tuple[int, ...]: ...
    @property
    def eos_token_ids(self) -> tuple[int, ...]: ...
    @property
    def bos_token_id(self) -> int | None: ...
    @property
    def n_states(self) -> int: ...
    @property
    def threads(self) -> int: ...
    @property
    def has_costs(self) -> bool: ...
    @property
    def lookup_len(self) -> int: ...
    @property
    def lookup_match(self) -> int: ...

class Round:
    """One run of the fused graph."""

    @property
    def phase(self) -> Literal["prefill", "decode"]: ...
    @property
    def finish(self) -> Literal["stop", "length", "capacity", "cancelled"] | None: ...
    @property
    def committed(self) -> tuple[int, ...]: ...
    @property
    def graph(self) -> GraphName: ...
    @property
    def width(self) -> int: ...
    @property
    def n_drafted(self) -> int: ...
    @property
    def n_accepted(self) -> int: ...
    @property
    def draft_tokens(self) -> tuple[int, ...]: ...
    @property
    def draft_confidence(self) -> tuple[float, ...]: ...
    @property
    def position(self) -> int: ...
    @property
    def looked_up(self) -> bool: ...
    @property
    def session_us(self) -> float: ...
    @property
    def loop_us(self) -> float: ...

class Engine:
    """One forerun_engine; not guarded against concurrent calls (forerun.rounds.Guard does that)."""

    @overload
    def __init__(
        self,
        bundle: str,
        library: str,
        threads: int,
        provider: str = "",
        provider_library: str = "",
        engine: str = "",
        device: int = 0,
    ) -> None: ...
    @overload
    def __init__(
        self,
        bundle: str,
        engine: str,
        library: str,
        version: str,
        bind: Callable[[GraphName, int, str, int], None],
        enqueue: Callable[[GraphName, int, int], None],
        driver: str,
        device: int,
    ) -> None: ...
    @overload
    def __init__(
        self,
        target_logits: npt.NDArray[np.float32],
        draft_logits: npt.NDArray[np.float32],
        draft_len: int,
        capacity: int,
        prefill_chunk: int,
        eos_token_ids: list[int],
        verify_widths: list[int] = ...,
        lookup_len: int = 0,
        lookup_match: int = 0,
    ) -> None: ...
    def close(self) -> None: ...
    def describe(self) -> Facts: ...
    def state(self, index: int) -> tuple[str, int, int, int]: ...
    def token_bytes(self, token: int) -> bytes: ...
    def start(
        self,
        prompt: npt.NDArray[np.int64],
        max_new_tokens: int,
        temperature: float,
        seed: int,
        decoding: str,
        draft_len: int,
        fixed_plan: bool = False,
        drafter_only: bool = False,
    ) -> None: ...
    def set_costs(self, plain: float, rounds: list[float]) -> None: ...
    def step(self) -> Round: ...
