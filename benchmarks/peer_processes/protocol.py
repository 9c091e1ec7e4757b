"""A peer's process: one JSON request a line on standard input, one JSON answer a line on standard output.

Runs in the peer's own environment, so it needs the standard library and numpy only. Each peer is one file beside this
one that calls `serve` with a function that opens its model.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Generated:
    """One generation. Seconds count from the call; `first_tokens` came at `first_seconds`, all others later.

    `rounds` are runs of the target after those that read the prompt, `draft_passes` runs of a drafter or small draft
    model, `looked_up` rounds that verified what the text itself says comes next; None where the peer does not tell.
    """

    tokens: list[int]
    seconds: float
    first_seconds: float
    first_tokens: int = 1
    rounds: int | None = None
    draft_passes: int | None = None
    looked_up: int | None = None


@dataclass(frozen=True)
class Weights:
    """Bytes and number of the weights that one step of the target reads, LM head included; bytes of a draft step.

    `is_planned` says whether forerun chooses by stored costs how many drafts a round verifies; None for the others.
    """

    linear_bytes: int
    linear_parameters: int
    draft_bytes: int = 0
    is_planned: bool | None = None


class Model(Protocol):
    """What a peer's file opens."""

    def versions(self) -> dict[str, str]: ...

    def weights(self) -> Weights: ...

    def generate(self, way: str, prompt: Sequence[int], new_tokens: int) -> Generated: ...

    def logits(self, text: Sequence[int]) -> Any:
        """Float32 [len(text), V], the logits after each token."""


def serve(open_model: Callable[[dict[str, Any]], Model]) -> None:
    """Answer requests until standard input ends. The first one opens the model; a failed one answers with its error."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print must not get between the answers
    die_with_parent()
    model: Model | None = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if model is None:
                model = open_model(request["options"])
                answer: dict[str, Any] = {"versions": model.versions()}
            else:
                answer = _answer(model, request)
        except Exception as error:
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def die_with_parent() -> None:
    """End with the process that started this one, also while stopped."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _answer(model: Model, request: dict[str, Any]) -> dict[str, Any]:
    if request["do"] == "generate":
        return asdict(model.generate(request["way"], request["prompt"], request["new_tokens"]))
    if request["do"] == "weights":
        return asdict(model.weights())
    if request["do"] == "logits":
        import numpy as np

        np.save(request["file"], np.asarray(model.logits(request["text"]), np.float32))
        return {}
    raise ValueError(f"expected generate, weights or logits, got {request['do']!r}")
