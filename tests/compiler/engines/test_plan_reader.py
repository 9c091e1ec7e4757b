"""Engines read without a GPU: real ones and what they say, damaged and foreign ones, a program written by hand."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

import tensorrt_graphs as hand
from forerun_compiler.engines.plan_reader import Copy, GraphNames, Product, ProfileFacts, read_plan
from forerun_compiler.errors import EngineError

RTX = pytest.mark.skipif(find_spec("tensorrt_rtx") is None, reason="tensorrt-rtx-cu13 is not installed")

# 64 bytes: magic, size at 16, version 1.7.1.116 at 24, capabilities 8.9 and 12.0 at 32.
HEADER = b"vtrt" + bytes(12) + b"SSSSSSSS" + bytes([1, 7, 1, 116]) + b"vtrt" + (0x18).to_bytes(4, "little") + bytes(28)
TEXT = """header {
  version = 5
  n_streams = 2
  region = { name=devmem_topdown_0 size=4096 alignment=128 instance=0 type=user place=accelerator unified=false }
  region = { name=devmem_topdown_1 size=128 alignment=128 instance=0 type=user place=accelerator unified=false }
  region = { name=consts size=640 alignment=128 instance=0 type=system place=accelerator unified=false constant=true }
  region = { name=consts_literal size=256 alignment=128 instance=0 type=system place=host unified=false }
  inputs={ "tokens.1" "__mye7" "cache.1" }
  outputs={ "committed.1" "__mye7" "__mye8" }
  stream_capturable=0
descriptors {
  tensor={ alignment=8 dims={ 1 4 } mem_prop=0 name="tokens.1" offset=0 strides={ 4 1 } type=int64 }
  tensor={ alignment=16 dims={ 1 2 8 4 } mem_prop=0 name="__mye7" offset=0 strides={ 64 32 4 1 } type=half }
  tensor={ alignment=16 dims={ 1 2 8 4 } mem_prop=0 name="cache.1" offset=0 strides={ 64 32 4 1 } type=half }
  tensor={ alignment=16 dims={ 1 2 8 4 } mem_prop=0 name="__mye8" offset=0 strides={ 64 32 4 1 } type=half }
  tensor={ alignment=16 dims={ 1 4 8 4 } mem_prop=0 name="big" offset=0 strides={ 1 } type=half }
  tensor={ alignment=16 dims={ 1 4 } mem_prop=0 name="x8" offset=0 strides={ 1 } type=fp8_e4m3 }
  tensor={ alignment=16 dims={ 4 4 } mem_prop=0 name="w8" offset=0 strides={ 1 } type=fp8_e4m3 }
  tensor={ alignment=16 dims={ 4 4 } mem_prop=0 name="w4" offset=0 strides={ 1 } type=int4 }
  tensor={ alignment=4 dims={ } mem_prop=0 name="alpha" offset=0 strides={ } type=float }
  sub_tensor={ base="big" const_offset=0 dims={ 1 4 } mem_prop=0 name="x^deref" offset=0 strides={ 1 } type=half }
main {
 label bb1:
  function={ name=__myl_Scat fqn=a input_args={ "__mye7" "x^deref" } output_args={ "__mye7" } layers="[ONNX Layer: s]" }
  function={ name=__myl_Move fqn=b input_args={ "cache.1" } output_args={ "__mye8" } layers="" }
  function={ name=__myl_ResRepl fqn=c input_args={ "__mye7" } output_args={ "big" } }
  function={ name=_gemv_mha_v1 fqn=d input_args={ "__mye7" "__mye8" } output_args={ "big" } }
  fully_connected={ name="a.MatMul+b.MatMul" output={"big" } input={"x8" "w8" "alpha" "alpha" } A.B }
  runtime_fusion={ name=__myl_Fc input_args={ "x^deref" "w4" "x^deref" } output_args={ "big" } binary=0 C }
  runtime_fusion={ name=__myl_FcAdd input_args={ "x^deref" "x8" "w8" } output_args={ "big" } D }
shape_main {
 label bb2:
  function={ name=__not_a_kernel fqn=z input_args={ } output_args={ } }
"""
for _mark, _layers in (
    (" A.B ", ("a.MatMul", "b.MatMul")),
    (" C ", ("c.Dequantize", "c.MatMul")),
    (" D ", ("d.MatMul[0]", "d.Add")),
):
    TEXT = TEXT.replace(_mark, ' layers="' + "\x1f".join(f"[ONNX Layer: {name}]" for name in _layers) + '" ')
NAMES = GraphNames(("tokens", "k", "cache"), ("committed", "k.out", "cache.out"), ("k",))


def engine(folder: Path, text: str = TEXT, *, header: bytes = HEADER) -> Path:
    """A file with one program, and the small one of a product after it."""
    small = "header {\n  version = 4\ndescriptors {\nmain {\n"
    blocks = [b"NLYM" + bytes(4) + len(each).to_bytes(8, "little") + each.encode() for each in (text, small)]
    data = header + b"NLYM at random" + bytes(8) + b"".join(blocks)
    path = folder / "round.engine"
    path.write_bytes(data.replace(b"SSSSSSSS", len(data).to_bytes(8, "little")))
    return path


def read(folder: Path, names: GraphNames | None = NAMES) -> ProfileFacts:
    """The only profile of the program written by hand."""
    (profile,) = read_plan(engine(folder), names).profiles or ()
    return profile


def test_a_program_written_by_hand(tmp_path: Path) -> None:
    profile = read(tmp_path)
    assert (profile.inputs, profile.outputs) == (NAMES.inputs, NAMES.outputs)
    assert profile.aliased == ("k",)
    # Attention reads the copy that replaces `cache`: it lies where the engine put it.
    assert profile.attended == ("k", "cache")
    assert profile.copies == (Copy("k", "__myl_ResRepl"),)
    assert (profile.capturable, profile.streams) == (False, 2)
    assert profile.device_memory == 4096 + 128
    assert profile.launches == 7
    assert profile.kernels["product"] == 1
    assert profile.products == (
        Product(("a.MatMul", "b.MatMul"), "fp8", "fp8"),
        Product(("c.MatMul",), "float16", "int4"),
        Product(("d.MatMul[0]",), "fp8", "fp8"),
    )
    assert profile.products_by_operands() == {"fp8": 3, "float16 x int4": 1}


def test_without_names_all_states_count(tmp_path: Path) -> None:
    text = TEXT.replace("__mye7", "k.out.1").replace("__mye8", "cache.out [profile 1].1")
    (profile,) = read_plan(engine(tmp_path, text)).profiles or ()
    assert (profile.inputs, profile.aliased) == (("tokens", "k", "cache"), ("k",))
    assert profile.copies == (Copy("cache", "__myl_Move"), Copy("k", "__myl_ResRepl"))


@pytest.mark.parametrize(
    "other",
    [
        GraphNames((*NAMES.inputs, "more"), NAMES.outputs, ()),
        GraphNames(NAMES.inputs, NAMES.outputs[:2], ()),
        GraphNames(("cache", "k", "tokens"), NAMES.outputs, ()),
    ],
)
def test_the_engine_of_another_graph_is_refused(tmp_path: Path, other: GraphNames) -> None:
    with pytest.raises(EngineError, match=r"expected the engine of a graph with . inputs and . outputs, found 3 and 3"):
        read(tmp_path, other)


def test_sizes_that_follow_the_inputs_are_no_inputs(tmp_path: Path) -> None:
    text = TEXT.replace('"cache.1" }\n  outputs', '"cache.1" "a.Shape_0.1" }\n  outputs')
    (profile,) = read_plan(engine(tmp_path, text), NAMES).profiles or ()
    assert profile.inputs == NAMES.inputs


def test_another_version_is_not_guessed_at(tmp_path: Path) -> None:
    header = HEADER.replace(bytes([1, 7, 1, 116]), bytes([1, 8, 0, 5]))
    facts = read_plan(engine(tmp_path, header=header), NAMES)
    assert facts.profiles is None
    assert facts.library == "1.8.0.5"
    assert facts.capabilities == ("8.9", "12.0")
    assert "TensorRT-RTX 1.8.0.5 is not known here (known: 1.7.1.116)" in facts.unknown


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        (-1, r"expected an engine of \d+ bytes, found \d+: it is cut off; build it again"),
        (100, r"expected an engine of \d+ bytes, found 100: it is cut off"),
        (10, r"expected an engine of TensorRT-RTX, which begins with b'vtrt', found b'vtrt'"),
        (0, r"expected an engine of TensorRT-RTX, .* found b''"),
    ],
)
def test_a_cut_engine_is_refused(tmp_path: Path, keep: int, message: str) -> None:
    path = engine(tmp_path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(EngineError, match=message):
        read_plan(path)


def test_a_foreign_file_is_refused(tmp_path: Path) -> None:
    path = engine(tmp_path, header=HEADER.replace(b"vtrt", b"ftrt"))
    with pytest.raises(EngineError, match=r"begins with b'vtrt', found b'ftrt'; build it again"):
        read_plan(path)


def test_an_engine_without_a_program_is_refused(tmp_path: Path) -> None:
    path = engine(tmp_path, "header {\n  version = 4\n")
    with pytest.raises(EngineError, match=r"expected the program of a TensorRT-RTX engine in it, found none"):
        read_plan(path)


def test_a_missing_engine_is_told(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"none\.engine: the engine cannot be read: No such file"):
        read_plan(tmp_path / "none.engine")


@RTX
def test_a_real_engine_can_be_read_without_its_graph() -> None:
    made = hand.built("float32", "8.9", "12.0")
    facts = made.engines.graphs["round"].facts
    assert read_plan(made.plan) == facts


@RTX
@pytest.mark.parametrize("scheme", ["nvfp4"])
def test_a_cut_real_engine_is_refused(tmp_path: Path, scheme: str) -> None:
    path = tmp_path / "cut.engine"
    path.write_bytes(hand.built(scheme, "12.0").plan.read_bytes()[:-4096])
    with pytest.raises(EngineError, match=r"cut\.engine: .* is cut off"):
        read_plan(path)
