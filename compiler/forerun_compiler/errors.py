"""The error tree of the toolchain, and the exit code that the command line gives to each class.

A message says what failed, where, what was expected, what was found, and what to do about it.
"""

from __future__ import annotations


class ForerunError(Exception):
    """Any failure that is the input's or the machine's, not ours: shown to users without a traceback."""

    exit_code = 1


class RecipeError(ForerunError):
    """A recipe that cannot be read or asks for something that does not exist."""

    exit_code = 3


class CheckpointError(ForerunError):
    """A target or drafter checkpoint that is missing, incomplete, or of an unknown layout."""

    exit_code = 4


class TraceError(ForerunError):
    """A model that cannot be traced; names the model, the feature and the reason."""

    exit_code = 5


class PassError(ForerunError):
    """A graph pass that had to fire and did not, or found a graph that it cannot rewrite."""

    exit_code = 6


class EngineError(ForerunError):
    """An execution library that is missing, too old, or refused the graph."""

    exit_code = 7


class BundleError(ForerunError):
    """A bundle that is damaged, incomplete, of another version, or cannot be written."""

    exit_code = 8


class ResourceError(ForerunError):
    """A build that this machine cannot hold: memory or disk."""

    exit_code = 9


class ProofError(ForerunError):
    """A bundle whose speculative output differs from plain decoding."""

    exit_code = 10


class CalibrationError(ForerunError):
    """Calibration text that does not suffice, or an activation that is not finite."""

    exit_code = 12
