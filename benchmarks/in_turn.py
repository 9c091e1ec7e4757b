"""Timing several things in one run: they take turns in blocks, so that what else the machine does hits all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from forerun_compiler.manifest import GraphInterface, ModelFacts, TensorInterface
from forerun_compiler.on_progress import OnProgress

Arrays = dict[str, Any]
PAUSE_S = 0.01
"""Before a block: the threads of the session that ran last spin on for a while, and would take this one's cores."""


@dataclass(frozen=True)
class Blocks:
    """`count` blocks of `runs` timed runs each, after `warm` runs that load the weights into the caches again."""

    count: int = 15
    runs: int = 8
    warm: int = 3


def time_in_turn(
    calls: Mapping[Any, Callable[[], None]], blocks: Blocks, on_progress: OnProgress
) -> dict[Any, list[float]]:
    """Microseconds of every counted run of each of `calls`."""
    times: dict[Any, list[float]] = {key: [] for key in calls}
    for block in range(blocks.count):
        on_progress("time in turn", block, blocks.count)
        for key, call in calls.items():
            time.sleep(PAUSE_S)
            for run in range(blocks.warm + blocks.runs):
                start = time.perf_counter_ns()
                call()
                if run >= blocks.warm:
                    times[key].append((time.perf_counter_ns() - start) / 1e3)
    on_progress("time in turn", blocks.count, blocks.count)
    return times


def feed_widths(facts: ModelFacts, widths: Sequence[int]) -> dict[int, tuple[int, int]]:
    """(n_known, n_draft) of a round by its token rows: as many drafts as there can be, the other rows known tokens.

    A round of more rows than anchor and draft is one that reads known tokens besides, as after a stretch of plain
    decoding. Widths whose known tokens do not fit a chunk of prompt are left out.
    """
    feeds = {}
    for width in widths:
        n_draft = min(width - 1, facts.verify_len)
        if width - n_draft <= facts.prefill_chunk:
            feeds[width] = (width - n_draft, n_draft)
    return feeds


def cached_tokens(facts: ModelFacts) -> int:
    """Tokens in the cache of a timed run."""
    return min(facts.capacity // 2, 256)


def make_states(graph: GraphInterface) -> Arrays:
    """Empty states, each one buffer for input and output."""
    import onnxruntime

    return {
        state.name: onnxruntime.OrtValue.ortvalue_from_numpy(np.zeros(state.shape, state.dtype))
        for state in graph.states
    }


def bind_graph(
    session: Any, graph: GraphInterface, facts: ModelFacts, states: Arrays, feed: tuple[int, int]
) -> Callable[[], None]:
    """One greedy run over `feed` = (n_known, n_draft) tokens, everything bound, states in place."""
    import onnxruntime

    rows, binding = sum(feed), session.io_binding()
    counts = {"n_known": feed[0], "n_draft": feed[1], "position": cached_tokens(facts), "uniform": 0.5}
    counts["looked_up"] = feed[1] > facts.draft_len
    for tensor in graph.inputs:
        array = _zeros(tensor, rows)
        array += np.arange(5, 5 + rows).astype(array.dtype) if tensor.name == "tokens" else counts.get(tensor.name, 0)
        binding.bind_ortvalue_input(tensor.name, onnxruntime.OrtValue.ortvalue_from_numpy(array))
    for state in graph.states:
        binding.bind_ortvalue_input(state.name, states[state.name])
        binding.bind_ortvalue_output(state.output, states[state.name])
    for tensor in graph.outputs:
        binding.bind_ortvalue_output(tensor.name, onnxruntime.OrtValue.ortvalue_from_numpy(_zeros(tensor, rows)))
    return lambda: session.run_with_iobinding(binding)


def _zeros(tensor: TensorInterface, rows: int) -> Any:
    """The only dimension with a name is T."""
    return np.zeros([rows if isinstance(size, str) else size for size in tensor.shape], tensor.dtype)
