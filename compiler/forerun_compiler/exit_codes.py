"""What the command line ends with: a number, and for errors a line that says why."""

from __future__ import annotations

import sys

from forerun_compiler.errors import BundleError, EngineError, ForerunError

RUNTIME_ERROR, INTERRUPTED, TERMINATED = 11, 130, 143
TABLE = """\b
Exit codes:
  0  done                            7  the execution library failed
  1  unexpected error (--debug)      8  bundle damaged or not writable
  2  wrong use of the command line   9  memory or disk does not suffice
  3  recipe                         10  verify: the bundle is not lossless
  4  checkpoint                     11  run, verify, bench: the runtime refused
  5  model cannot be traced         12  calibration
  6  graph pass                    130  interrupted; 143  terminated
"""


def explain(error: Exception) -> tuple[str, int]:
    """The line and the exit code of an error, of the toolchain, of the runtime, or of nobody's intention."""
    if isinstance(error, ForerunError):
        return str(error), error.exit_code
    runtime = sys.modules.get("forerun.errors")  # not imported here: a command that needs no runtime must not load it
    if runtime is not None and isinstance(error, runtime.ForerunError):
        kinds = {"bundle error": BundleError, "file error": BundleError, "backend error": EngineError}
        kind = kinds.get(error.status)
        return str(error), RUNTIME_ERROR if kind is None else kind.exit_code
    return f"unexpected {type(error).__name__}: {error}; for the traceback: build-engine --debug ...", 1
