"""The one error class of the runtime, and the statuses that Python itself gives."""

from __future__ import annotations


class ForerunError(Exception):
    """Any refusal of the runtime: a bundle, a library, an argument or a call that it cannot serve.

    `status` is the short stable name of the cause as the C core gives it (`forerun_status_name`): programs branch on
    it, people read the message.
    """

    def __init__(self, status: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message

    def __reduce__(self) -> tuple[type[ForerunError], tuple[str, str]]:
        return type(self), (self.status, self.message)


def refuse_argument(message: str) -> ForerunError:
    """The error of an argument that is out of its range; the caller raises it."""
    return ForerunError("invalid argument", message)


def refuse_state(message: str) -> ForerunError:
    """The error of a call that does not fit the engine's state; the caller raises it."""
    return ForerunError("invalid state", message)
