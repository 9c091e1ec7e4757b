"""The ONNX Runtime backend of the C core, on graphs made by hand: states in place, and graphs that are wrong."""

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import forerun
from forerun import _core
from forerun.library import find_library
from table_bundle import TableBundle, edit_manifest, make_table_bundle, reseal

STATES = ["target.0.k", "target.0.v", "drafter.0.k", "drafter.0.v", "draft_probs"]


@pytest.fixture
def fresh(tmp_path: Path) -> TableBundle:
    return make_table_bundle(tmp_path / "table", chat=False)


def open_core(folder: Path) -> _core.Engine:
    return _core.Engine(str(folder), str(find_library(None, None)), 1)


def generate(core: _core.Engine, prompt: list[int], decoding: str = "speculative", count: int = 30) -> list[int]:
    core.start(
        np.array(prompt, np.int64), max_new_tokens=count, temperature=0.0, seed=0, decoding=decoding, draft_len=0
    )
    tokens: list[int] = []
    finish = None
    while finish is None:
        one = core.step()
        tokens += one.committed
        finish = one.finish
    return tokens


def test_every_state_is_bound_to_one_buffer_for_good(fresh: TableBundle) -> None:
    core = open_core(fresh.path)
    before = [core.state(i) for i in range(core.describe().n_states)]
    assert [name for name, *_ in before] == STATES
    rows = fresh.capacity + fresh.draft_len + 1
    assert [size for *_, size in before] == [4 * rows] * 4 + [4 * fresh.draft_len * 260]
    assert all(entry == out and entry % 64 == 0 for _, entry, out, _ in before)
    assert len({entry for _, entry, _, _ in before}) == len(STATES)
    for decoding in ("speculative", "plain", "padded"):
        generate(core, [97, 98], decoding)
    assert [core.state(i) for i in range(len(before))] == before


@pytest.mark.parametrize("decoding", ["speculative", "plain", "padded"])
def test_the_graph_writes_into_the_bound_buffer(fresh: TableBundle, decoding: str) -> None:
    """The hand-made cache holds the tokens themselves, so the buffer must read as prompt and answer."""
    core = open_core(fresh.path)
    prompt = list(b"abc" * 7)
    tokens = generate(core, prompt, decoding)
    _, address, _, size = core.state(0)
    cache = np.frombuffer(ctypes.string_at(address, size), np.float32)
    written = [*prompt, *tokens[:-1]]  # the last token's row is written by the round that never came
    assert cache[: len(written)].astype(int).tolist() == written


def resident_bytes() -> int:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmRSS")


def test_rounds_do_not_copy_their_states(tmp_path: Path) -> None:
    """A copy would touch every page of a state; in place only the few written rows become resident."""
    core = open_core(make_table_bundle(tmp_path / "large", capacity=8_000_000, chat=False).path)
    state_bytes = core.state(0)[3]
    assert state_bytes > 30_000_000
    generate(core, [97, 98], count=1)  # the first run takes the execution library's own working memory
    before = resident_bytes()
    generate(core, [97, 98], count=100)
    assert resident_bytes() - before < state_bytes / 4


def test_the_plain_graph_is_loaded_when_it_is_asked_for(fresh: TableBundle) -> None:
    (fresh.path / "plain.onnx").write_bytes(b"no graph at all")
    reseal(fresh.path)
    core = open_core(fresh.path)
    expected = fresh.greedy_tokens([97, 98], 30)
    assert generate(core, [97, 98]) == expected
    with pytest.raises(forerun.ForerunError, match=r"ONNX Runtime .*plain\.onnx: .*rotobuf") as caught:
        generate(core, [97, 98], "plain")
    assert caught.value.status == "backend error"
    assert generate(core, [97, 98]) == expected


@pytest.mark.parametrize("damage", [b"", b"no graph at all"])
def test_a_round_graph_that_is_none_is_refused_in_the_librarys_words(fresh: TableBundle, damage: bytes) -> None:
    (fresh.path / "round.onnx").write_bytes(damage)
    reseal(fresh.path)
    with pytest.raises(forerun.ForerunError, match=r"ONNX Runtime .*round\.onnx: ") as caught:
        open_core(fresh.path)
    assert caught.value.status == "backend error"


def test_weights_that_are_cut_short_are_refused_in_the_librarys_words(fresh: TableBundle) -> None:
    weights = (fresh.path / "weights.bin").read_bytes()
    (fresh.path / "weights.bin").write_bytes(weights[: len(weights) // 2])
    reseal(fresh.path)
    with pytest.raises(forerun.ForerunError, match=r"ONNX Runtime .*round\.onnx: .*out of bounds") as caught:
        open_core(fresh.path)
    assert caught.value.status == "backend error"


def _other_uniform(manifest: Any) -> None:
    manifest["graphs"]["round"]["inputs"][-1]["shape"] = [1, 7]


def _other_type(manifest: Any) -> None:
    manifest["graphs"]["round"]["outputs"][0]["dtype"] = "float32"


def _missing_input(manifest: Any) -> None:
    del manifest["graphs"]["round"]["inputs"][0]


def _unknown_input(manifest: Any) -> None:
    manifest["graphs"]["round"]["inputs"].append({"name": "mask", "dtype": "float32", "shape": [1, "T"]})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_other_uniform, r'round\.onnx: expected the input "uniform" as float32 \[1, 10\]'),
        (_other_type, r'round\.onnx: expected the output "n_accepted" as int64 \[1\]'),
        (_missing_input, r'round\.onnx: expected the input "tokens" as int64 \[1, T\]'),
        (_unknown_input, r"round\.onnx: expected 10 inputs and outputs beside its states, found 11"),
    ],
)
def test_another_interface_is_refused(fresh: TableBundle, change: Callable[[Any], None], message: str) -> None:
    edit_manifest(fresh.path, change)
    with pytest.raises(forerun.ForerunError, match=message) as caught:
        open_core(fresh.path)
    assert caught.value.status == "bundle error"


def test_a_plain_graph_with_a_state_of_its_own_is_refused(fresh: TableBundle) -> None:
    def change(manifest: Any) -> None:
        manifest["graphs"]["plain"]["states"][0]["name"] = "target.9.k"

    edit_manifest(fresh.path, change)
    core = open_core(fresh.path)
    with pytest.raises(forerun.ForerunError, match=r'plain\.onnx: expected the state "target\.9\.k"') as caught:
        generate(core, [97, 98], "plain")
    assert caught.value.status == "bundle error"


def test_states_that_contradict_the_graph_are_refused_by_the_library(fresh: TableBundle) -> None:
    """The manifest promises one row more than the graph has; nothing is written beyond either."""

    def change(manifest: Any) -> None:
        for graph in manifest["graphs"].values():
            for state in graph["states"][:4]:
                state["shape"][2] = state["shape"][2] + 1

    edit_manifest(fresh.path, change)
    core = open_core(fresh.path)
    with pytest.raises(forerun.ForerunError, match=r"ONNX Runtime .*dimension") as caught:
        generate(core, [97, 98])
    assert caught.value.status == "backend error"


@pytest.mark.parametrize("length", [200, 201, 500])
def test_a_prompt_that_leaves_no_room_is_refused(fresh: TableBundle, length: int) -> None:
    with pytest.raises(forerun.ForerunError, match=f"{length} tokens; this bundle has room for 200") as caught:
        generate(open_core(fresh.path), [97] * length)
    assert caught.value.status == "invalid argument"


@pytest.mark.parametrize("length", [1, 7, 8, 9, 16, 17, 199])
def test_every_length_of_prompt_is_prefilled(fresh: TableBundle, length: int) -> None:
    """Chunks of 8: a rest, a full chunk, and both; widths change from one generation to the next."""
    core = open_core(fresh.path)
    for prompt in ([97] * length, list(b"bc")):
        for decoding in ("speculative", "plain", "padded"):
            count = min(20, fresh.capacity - len(prompt))
            assert generate(core, prompt, decoding, count) == fresh.greedy_tokens(prompt, count)


def test_a_drafter_without_confidences_is_certain(fresh: TableBundle) -> None:
    def change(manifest: Any) -> None:
        outputs = manifest["graphs"]["round"]["outputs"]
        manifest["graphs"]["round"]["outputs"] = [entry for entry in outputs if entry["name"] != "draft_confidence"]

    edit_manifest(fresh.path, change)
    core = open_core(fresh.path)
    assert generate(core, [97, 98]) == fresh.greedy_tokens([97, 98], 30)
    core.start(np.array([97], np.int64), max_new_tokens=9, temperature=0.0, seed=0, decoding="speculative", draft_len=0)
    assert core.step().draft_confidence == (1.0,) * fresh.draft_len
