"""The time of one run of a bundle's graphs by the number of rows that it verifies, on ONNX Runtime itself."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forerun_compiler.manifest import GraphInterface, ModelFacts
from forerun_compiler.ort_session import open_session

if TYPE_CHECKING:
    import numpy.typing as npt

    Arrays = dict[str, npt.NDArray[Any]]

WARM_UP, RUNS = 3, 21


def verify_widths(draft_len: int) -> tuple[int, ...]:
    """1, 2, 4, 8, ... rows up to the widest round, which verifies the anchor and `draft_len` tokens."""
    widest = draft_len + 1
    return (*(1 << power for power in range(widest.bit_length()) if 1 << power < widest), widest)


def measure_costs(
    folder: Path, graph: GraphInterface, facts: ModelFacts, widths: Sequence[int], threads: int
) -> Iterator[float]:
    """Median microseconds of one run for each of `widths` token rows: one known token, the others drafts.

    The session is set up as the C core does it, and its states are bound in and out to one buffer, as there.

    Raises:
        EngineError: ONNX Runtime is not installed or refuses the graph.
    """
    session = open_session(folder / graph.file, threads)
    states = {state.name: _zeros(state.dtype, state.shape, 0) for state in graph.states}
    for rows in widths:
        run = _bind(session, graph, states, _input_values(graph, facts, rows))
        times = []
        for _ in range(WARM_UP + RUNS):
            start = time.perf_counter_ns()
            run()
            times.append((time.perf_counter_ns() - start) / 1e3)
        yield statistics.median(times[WARM_UP:])


def _bind(session: Any, graph: GraphInterface, states: Arrays, inputs: Arrays) -> Callable[[], None]:
    import onnxruntime

    binding = session.io_binding()
    for name, array in inputs.items():
        binding.bind_ortvalue_input(name, onnxruntime.OrtValue.ortvalue_from_numpy(array))
    for state in graph.states:
        value = onnxruntime.OrtValue.ortvalue_from_numpy(states[state.name])
        binding.bind_ortvalue_input(state.name, value)
        binding.bind_ortvalue_output(state.output, value)
    for output in graph.outputs:
        binding.bind_output(output.name, "cpu")
    return lambda: session.run_with_iobinding(binding)


def _input_values(graph: GraphInterface, facts: ModelFacts, rows: int) -> Arrays:
    """Zeros, but for the counts: a round in the middle of the context."""
    import numpy as np

    counts = {"n_known": 1, "n_draft": rows - 1, "position": min(facts.capacity // 2, 256)}
    values = {tensor.name: _zeros(tensor.dtype, tensor.shape, rows) for tensor in graph.inputs}
    return {name: np.full_like(array, counts.get(name, 0)) for name, array in values.items()}


def _zeros(dtype: str, shape: tuple[int | str, ...], rows: int) -> npt.NDArray[Any]:
    """The only dimension with a name is T."""
    import numpy as np

    return np.zeros([rows if isinstance(size, str) else size for size in shape], dtype)
