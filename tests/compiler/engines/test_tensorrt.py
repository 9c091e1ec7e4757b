"""Real engines, built without a GPU: what they hold, that they are reproducible, and how builds are refused."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import onnx_ir as ir
import pytest

import tensorrt_graphs as hand
from forerun_compiler.engines import tensorrt as builder
from forerun_compiler.engines.tensorrt import EngineRequest, GraphBuild, build_engines, write_for_tensorrt
from forerun_compiler.errors import EngineError, ResourceError
from forerun_compiler.resources import Machine
from forerun_compiler.schemes import TENSORRT, TENSORRT_RTX

pytestmark = pytest.mark.skipif(find_spec("tensorrt_rtx") is None, reason="tensorrt-rtx-cu13 is not installed")

TARGETS = {"float32": ("8.9", "12.0"), "fp8": ("8.9", "12.0"), "int8-static": ("7.5", "8.6"), "nvfp4": ("12.0",)}
PRODUCTS = {"float32": "float16", "fp8": "fp8", "int8-static": "int8", "nvfp4": "fp4"}


@pytest.mark.parametrize("scheme", TARGETS)
def test_an_engine_multiplies_what_the_scheme_says_and_writes_caches_in_place(scheme: str) -> None:
    made = hand.built(scheme, *TARGETS[scheme])
    assert made.engines.library == "1.7.1.116"
    assert not made.engines.unknown
    facts = made.engines.graphs["round"].facts
    assert facts.capabilities == made.engines.compute_capability == TARGETS[scheme]
    assert facts.size == made.plan.stat().st_size
    assert facts.profiles is not None
    (profile,) = facts.profiles
    assert profile.products_by_operands() == {PRODUCTS[scheme]: hand.PRODUCTS}
    assert profile.inputs == ("tokens", "position", *hand.CACHES)
    assert profile.outputs == (*(f"{name}.out" for name in hand.CACHES), "committed", "next_position")
    assert profile.aliased == profile.attended == hand.CACHES
    assert profile.copies == ()
    assert profile.capturable
    assert profile.streams == 1
    assert sum(count for kernel, count in profile.kernels.items() if "mha" in kernel) == 2
    assert profile.device_memory > 0


def test_two_builds_give_the_same_bytes() -> None:
    one, two = hand.built("fp8", "8.9", "12.0"), hand.build(hand.hand_target("fp8"), "8.9", "12.0")
    assert one.folder != two.folder
    for name in ("round.engine", builder.LOG, "round.onnx", "weights.bin"):
        assert (one.folder / name).read_bytes() == (two.folder / name).read_bytes(), name


def test_nothing_but_the_engine_and_its_log_is_left() -> None:
    made = hand.built("float32", "8.9", "12.0")
    assert {path.name for path in made.folder.iterdir()} == {"round.onnx", "weights.bin", "round.engine", builder.LOG}
    log = (made.folder / builder.LOG).read_text()
    assert "tensorrt_rtx 1.7.1.116, for SM89, SM120" in log
    assert str(made.folder) not in log


def test_prefill_is_a_second_profile_which_may_copy_caches() -> None:
    made = hand.build(hand.hand_target(width="T"), "8.9", widths=(hand.WIDTH, 4 * hand.WIDTH))
    profiles = made.engines.graphs["round"].facts.profiles
    assert profiles is not None
    assert [profile.inputs for profile in profiles] == [("tokens", "position", *hand.CACHES)] * 2
    assert [profile.aliased for profile in profiles] == [hand.CACHES] * 2
    assert [{copy.state for copy in profile.copies} for profile in profiles] == [set(), set(hand.CACHES)]
    assert [profile.attended for profile in profiles] == [hand.CACHES, ()]


def test_copied_caches_are_refused() -> None:
    with pytest.raises(
        EngineError, match=r"round: .*caches are copied in each run: k_0 by \S*Repl.* do not go together"
    ):
        hand.build(hand.hand_target(in_place=False), "8.9")


def test_what_the_library_cannot_build_is_told_in_its_words() -> None:
    """A caller that does not ask `check_precision` first."""
    with pytest.raises(EngineError, match=r"round: TensorRT could not build the engine for SM89: .*sm89.*fp4_e2m1"):
        hand.build(hand.hand_target("nvfp4"), "8.9")


def test_what_the_parser_refuses_names_the_node() -> None:
    model = hand.hand_target()
    (node,) = [each for each in model.graph if each.op_type == "ArgMax"]
    node.op_type = "Multinomial"
    node.attributes.clear()
    with pytest.raises(EngineError, match=r"round: TensorRT's parser refused node 'ArgMax_.*Multinomial"):
        hand.build(model, "8.9")


def test_an_input_that_nothing_reads_ends_the_build() -> None:
    model = hand.hand_target()
    model.graph.inputs.append(ir.val("lengths", ir.DataType.INT64, [1]))
    with pytest.raises(EngineError, match=r"builder warned of: Unused Input: lengths.* is not understood"):
        hand.build(model, "8.9")


def _request(folder: Path, backend: str = TENSORRT_RTX, *capabilities: str) -> EngineRequest:
    write_for_tensorrt({"round": hand.hand_target()}, folder)
    return EngineRequest(backend, capabilities, (GraphBuild("round", folder / "round.onnx"),))


def test_too_little_memory_or_disk_is_refused_before_the_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    request = _request(tmp_path, TENSORRT_RTX, "8.9")
    for machine, message in (
        (Machine(1 << 20, 1 << 40), "of memory, 1 MiB"),
        (Machine(1 << 40, 1 << 20), "disk space"),
    ):
        monkeypatch.setattr(builder, "this_machine", lambda _, found=machine: found)
        with pytest.raises(ResourceError, match=message):
            build_engines(request, tmp_path, lambda *_: None)
    assert not list(tmp_path.glob("*.engine"))


def test_an_interrupt_leaves_nothing_behind(tmp_path: Path) -> None:
    def interrupt(stage: str, done: int, total: int) -> None:
        if stage.startswith("build"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_engines(_request(tmp_path, TENSORRT_RTX, "8.9"), tmp_path, interrupt)
    assert {path.name for path in tmp_path.iterdir()} == {"round.onnx", "weights.bin", builder.LOG}


def test_an_unknown_capability_is_refused_first(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"tensorrt-rtx: it cannot build .* capability '9\.9'; it knows 7\.5, 8\.0, "):
        build_engines(_request(tmp_path, TENSORRT_RTX, "9.9"), tmp_path, lambda *_: None)


class _Hidden:
    """A finder in front of all others that has no TensorRT."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name.startswith("tensorrt"):
            raise ModuleNotFoundError(f"No module named {name!r}")


def test_a_missing_package_is_named_with_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "meta_path", [_Hidden(), *sys.meta_path])
    with pytest.raises(EngineError, match=r"'tensorrt_rtx' is not installed; .*pip install 'forerun\[tensorrt-rtx\]'"):
        build_engines(_request(tmp_path, TENSORRT_RTX, "8.9"), tmp_path, lambda *_: None)


# TensorRT itself cannot be had without a GPU; what differs from TensorRT-RTX is left out of this stand-in.
STAND_IN = """
import tensorrt_rtx as _rtx
from tensorrt_rtx import *
from tensorrt_rtx import Builder as _Builder
__version__ = "11.1.0"
del ComputeCapability
class Builder(_Builder):
    def __init__(self, logger):
        {body}
"""
WORKS = "super().__init__(logger)"
NO_DRIVER = (
    'logger.log(ILogger.ERROR, "CUDA initialization failure with error: 35"); raise TypeError("returned nullptr")'
)


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Install a module `tensorrt` for this process and those that it starts."""

    def install(body: str) -> None:
        folder = tmp_path / "packages"
        (folder / "tensorrt-11.1.0.dist-info").mkdir(parents=True)
        (folder / "tensorrt-11.1.0.dist-info" / "METADATA").write_text("Name: tensorrt\nVersion: 11.1.0\n")
        (folder / "tensorrt.py").write_text(STAND_IN.format(body=body))
        monkeypatch.syspath_prepend(str(folder))
        monkeypatch.setenv("PYTHONPATH", str(folder), prepend=":")

    return install


def test_tensorrt_builds_for_the_present_device(tmp_path: Path, stand_in: Callable[[str], None]) -> None:
    stand_in(WORKS)
    made = build_engines(_request(tmp_path, TENSORRT), tmp_path, lambda *_: None)
    assert (made.library, made.compute_capability) == ("11.1.0", ())
    assert (tmp_path / "round.engine").stat().st_size == made.graphs["round"].facts.size > 0
    assert made.graphs["round"].facts.profiles is None
    assert "is not known here, so it is not checked" in made.unknown


def test_tensorrt_without_a_driver_is_told_in_its_words(tmp_path: Path, stand_in: Callable[[str], None]) -> None:
    stand_in(NO_DRIVER)
    message = (
        "tensorrt: the library cannot begin a build here: CUDA initialization failure with error: 35; .*NVIDIA driver"
    )
    with pytest.raises(EngineError, match=message):
        build_engines(_request(tmp_path, TENSORRT), tmp_path, lambda *_: None)
