"""The plain text inside a TensorRT-RTX engine: one program for each profile, as statements over named tensors.

The format is not documented. What is read here was found in engines of the versions `TESTED`, and nothing is guessed
for others.
A program: "NLYM", 4 bytes, the text's length (8 bytes, little-endian), then `header { } descriptors { } main { }`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from mmap import mmap

TESTED = ("1.7.1.116",)
_MARK, _TEXT_AT = b"NLYM", 16
_OPENING = b"header {\n"
_VALUE = r"\b{name} *= *(\S+)"
_TENSOR = re.compile(
    r'^  (?:sub_)?tensor=\{[^\n]*? dims=\{([^}]*)\}[^\n]*? name="([^"]*)"[^\n]*? type=(\w+) \}', re.MULTILINE
)
_REGION = re.compile(r"^  region = \{ ([^}]*) \}", re.MULTILINE)
_STATEMENT = re.compile(r"\n  (?=\w+=\{)")
_LAYER = re.compile(r'\[ONNX Layer: ([^\x1f"\n]*)\]')
# TensorRT appends a number to every tensor of the network, and the profile's to all but the first profile's.
_SUFFIX = re.compile(r"( \[profile \d+\])?\.\d+$")


@dataclass(frozen=True)
class Tensor:
    """A tensor of a program: its type as TensorRT writes it ("half", "fp8_e4m3"), and how many elements it has."""

    type: str
    elements: int


@dataclass(frozen=True)
class Statement:
    """One step of a program: "function" (a kernel), "fully_connected" or "runtime_fusion" (products)."""

    kind: str
    text: str

    @property
    def name(self) -> str:
        """Return the kernel's name without the number that makes it unique."""
        found = re.search(r'name="?([^\s"]+)', self.text)
        return found[1] if found else self.kind

    @property
    def inputs(self) -> tuple[str, ...]:
        """Return the names of what it reads."""
        return _names(self.text, "input_args") or _names(self.text, "input")

    @property
    def outputs(self) -> tuple[str, ...]:
        """Return the names of what it writes."""
        return _names(self.text, "output_args") or _names(self.text, "output")

    @property
    def layers(self) -> tuple[str, ...]:
        """Return the ONNX nodes that it computes."""
        return tuple(_LAYER.findall(self.text))


@dataclass(frozen=True)
class Program:
    """The text of one profile, by its parts."""

    header: str
    descriptors: str
    main: str

    def value(self, name: str) -> str | None:
        """Return a value of the header."""
        found = re.search(_VALUE.format(name=name), self.header)
        return found[1] if found else None

    def names(self, name: str) -> tuple[str, ...]:
        """Return a list of tensors in the header, in the order of the graph's inputs or outputs."""
        return _names(self.header, name)

    @cached_property
    def tensors(self) -> Mapping[str, Tensor]:
        """Return every tensor, by its name in the program."""
        return {
            name: Tensor(kind, math.prod(map(int, dims.split())))
            for dims, name, kind in _TENSOR.findall(self.descriptors)
        }

    @cached_property
    def statements(self) -> tuple[Statement, ...]:
        """Return the steps of a run, in order."""
        return tuple(Statement(text.partition("=")[0], text) for text in _STATEMENT.split(self.main)[1:])

    def device_memory(self) -> int:
        """Return the bytes of device memory that a run needs beside weights, inputs and outputs."""
        regions = [text for text in _REGION.findall(self.header) if " type=user place=accelerator " in text]
        return sum(int(size) for text in regions for size in re.findall(r"\bsize=(\d+)", text))


def programs(data: mmap | bytes) -> Iterator[Program]:
    """Read the programs of an engine, without the small ones of products that are compiled on the device."""
    at = data.find(_MARK)
    while at >= 0:
        start = at + _TEXT_AT
        if data[start : start + len(_OPENING)] == _OPENING:
            size = int.from_bytes(data[start - 8 : start], "little")
            program = _program(data[start : start + size].decode("utf-8", "replace"))
            if program is not None:
                yield program
        at = data.find(_MARK, at + 1)


def graph_name(name: str) -> str:
    """Return what the graph calls a tensor of a program."""
    return _SUFFIX.sub("", name)


def _program(text: str) -> Program | None:
    header, found, rest = text.partition("\ndescriptors {")
    descriptors, main_found, main = rest.partition("\nmain {")
    if not found or not main_found or "stream_capturable=" not in header:
        return None
    return Program(header, descriptors, main.partition("\nshape_main {")[0])


def _names(text: str, name: str) -> tuple[str, ...]:
    found = re.search(rf"\b{name}=\{{([^}}]*)\}}", text)
    return tuple(re.findall(r'"([^"]*)"', found[1])) if found else ()
