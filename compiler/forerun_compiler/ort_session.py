"""The one way to an ONNX Runtime session from Python: with the options and operators that the C core uses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from forerun_compiler.errors import EngineError


def open_session(file: Path, threads: int, graph: bytes | None = None) -> Any:
    """Open the graph in `file` on the CPU; `threads` 0 lets the library choose.

    With `graph`, those bytes are opened in the place of the file's; the weights still come from the file's folder.

    Raises:
        EngineError: ONNX Runtime is not installed or refuses the graph.
    """
    import forerun

    try:
        import onnxruntime
    except ModuleNotFoundError:
        raise EngineError(
            f"{file}: opening it needs onnxruntime, which is not installed; pip install onnxruntime"
        ) from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.add_session_config_entry("session.force_spinning_stop", "1")  # or its threads slow down other sessions
    options.add_session_config_entry(
        "session.model_external_initializers_file_folder_path", str(file.parent.absolute())
    )
    try:
        # A bundle may use the project's own operators.
        options.register_custom_ops_library(str(forerun.kernel_library()))
        source = str(file) if graph is None else graph
        return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its own exception classes are private
        raise EngineError(f"{file}: ONNX Runtime refuses the graph: {error}") from None
