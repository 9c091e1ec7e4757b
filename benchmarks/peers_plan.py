"""What is compared: peers, the weights each of them runs with, and the ways it decodes.

The small draft model of the peers is the demo's own target. It computes the same function as the inflated targets, so
nearly all of its drafts are accepted: the best draft model there can be, which is generous to the peers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from inflate import CAPACITY
from peers_models import Checkpoints, Converter

PLAIN, SPECULATIVE, DRAFT, LOOKUP, COMPILED, DSPARK = (
    "plain", "speculative", "draft model", "prompt lookup", "compiled", "DSpark"
)  # fmt: skip
PEERS = ("forerun", "transformers", "llama.cpp", "openvino", "onnxruntime-genai")
PROCESSES = {
    "forerun": "forerun_process.py",
    "transformers": "transformers_process.py",
    "llama.cpp": "llama_process.py",
    "openvino": "openvino_process.py",
    "onnxruntime-genai": "genai_process.py",
}
_LLAMA_DRAFTED, _LLAMA_NGRAM = "8", ("--spec-type", "ngram-simple", "--spec-ngram-simple-size-n", "3")
"""Tokens of the small model a round, and an n-gram as short as the other peers'; other settings are llama.cpp's own."""
REFERENCE = "transformers/float32"
"""Agreement and divergence are counted from these weights."""


@dataclass(frozen=True)
class Host:
    """One process that holds one model; `options` is what its peer's file opens it with."""

    peer: str
    weights: str
    ways: tuple[str, ...]
    options: dict[str, Any]

    @property
    def name(self) -> str:
        return f"{self.peer}/{self.weights}"

    @property
    def rows(self) -> tuple[str, ...]:
        return tuple(f"{self.name}/{way}" for way in self.ways)

    @property
    def key(self) -> str:
        return f"{self.name}/{'+'.join(self.ways)}"


@dataclass(frozen=True)
class Wish:
    """A host that may prove impossible: `make` converts its model and gives its options, or raises PeerError."""

    peer: str
    weights: str
    ways: tuple[str, ...]
    make: Callable[[], dict[str, Any]] = field(repr=False)

    @property
    def name(self) -> str:
        return f"{self.peer}/{self.weights}/{'+'.join(self.ways)}"


@dataclass(frozen=True)
class Plan:
    """Makes the wishes of each peer. `name` is the pair's, `eos` the target's end-of-text token."""

    name: str
    checkpoints: Checkpoints
    converter: Converter
    environments: Path
    eos: int

    def wishes(self, peers: Sequence[str], bundles: Sequence[tuple[str, Path]]) -> list[Wish]:
        """forerun's first: the first bundle is what all others are compared with."""
        made = [Wish("forerun", name, (PLAIN, SPECULATIVE), _bundle(folder)) for name, folder in bundles]
        for peer, wish in (
            ("transformers", self._transformers),
            ("llama.cpp", self._llama),
            ("openvino", self._openvino),
            ("onnxruntime-genai", self._genai),
        ):
            made += wish() if peer in peers else []
        return made

    def _transformers(self) -> list[Wish]:
        target, small = str(self.checkpoints.target), str(self.checkpoints.small)

        def checkpoint(dtype: str, draft: str | None, is_compiled: bool) -> Callable[[], dict[str, Any]]:
            return lambda: {
                "model": target, "dtype": dtype, "draft": draft, "compile": is_compiled, "capacity": CAPACITY
            }  # fmt: skip

        ways = (PLAIN, DRAFT, LOOKUP)
        return [
            Wish("transformers", "float32", ways, checkpoint("float32", small, False)),
            Wish("transformers", "bfloat16", ways, checkpoint("bfloat16", small, False)),
            Wish("transformers", "bfloat16", (COMPILED,), checkpoint("bfloat16", None, True)),
        ]

    def _llama(self) -> list[Wish]:
        made = []
        for kind, ways in (("q4_0", (PLAIN, DRAFT, LOOKUP)), ("q4_K_M", (PLAIN,)), ("q8_0", (PLAIN, DRAFT, LOOKUP))):
            made += [Wish("llama.cpp", kind, (way,), self._llama_file(kind, way)) for way in ways]
        return [*made, Wish("llama.cpp", "q4_0", (DSPARK,), self._llama_file("q4_0", DSPARK))]

    def _llama_file(self, kind: str, way: str) -> Callable[[], dict[str, Any]]:
        def make() -> dict[str, Any]:
            model, draft, more = self.converter.gguf(self.name, self.checkpoints.target, kind), None, []
            if way == DRAFT:
                draft = self.converter.gguf("demo", self.checkpoints.small, "q8_0")
                more = ["--spec-type", "draft-simple", "--spec-draft-n-max", _LLAMA_DRAFTED]
            elif way == DSPARK:
                draft, more = self.converter.gguf_drafter(self.name, self.checkpoints), ["--spec-type", "draft-dspark"]
            elif way == LOOKUP:
                more = list(_LLAMA_NGRAM)
            if draft is not None:
                more += ["--spec-draft-model", str(draft)]
            return {
                "model": str(model), "draft": str(draft) if draft else None, "arguments": more,
                "build": str(self.environments.absolute() / "llama.cpp/build"),
                "source": str(self.environments.absolute() / "llama.cpp/source"), "capacity": CAPACITY,
            }  # fmt: skip

        return make

    def _openvino(self) -> list[Wish]:
        def folder(kind: str, way: str) -> Callable[[], dict[str, Any]]:
            def make() -> dict[str, Any]:
                model = self.converter.openvino(self.name, self.checkpoints.target, kind)
                draft = self.converter.openvino("demo", self.checkpoints.small, "int8") if way == DRAFT else None
                return {"model": str(model), "draft": str(draft) if draft else None, "way": way, "eos": self.eos}

            return make

        rows = [(kind, PLAIN) for kind in ("bf16", "int8", "int4-default", "int4-g128-sym")]
        rows += [(kind, way) for kind in ("int8", "int4-g128-sym") for way in (DRAFT, LOOKUP)]
        return [Wish("openvino", kind, (way,), folder(kind, way)) for kind, way in rows]

    def _genai(self) -> list[Wish]:
        def folder(kind: str) -> Callable[[], dict[str, Any]]:
            return lambda: {"model": str(self.converter.onnx(self.name, self.checkpoints.target, kind)), "draft": None}

        def drafted(kind: str) -> dict[str, Any]:
            model = self.converter.onnx_with_draft(self.name, self.checkpoints, kind)
            return {"model": str(model), "draft": "draft/model.onnx"}

        def dspark() -> dict[str, Any]:
            return {"model": str(self.converter.onnx_dspark(self.name, self.checkpoints)), "draft": None}

        return [
            Wish("onnxruntime-genai", "int4-b32", (PLAIN, LOOKUP), folder("int4-b32")),
            Wish("onnxruntime-genai", "int4-b128", (PLAIN, LOOKUP), folder("int4-b128")),
            Wish("onnxruntime-genai", "int4-b128", (DRAFT,), lambda: drafted("int4-b128")),
            Wish("onnxruntime-genai", "int4-b32", (DSPARK,), dspark),
        ]


def _bundle(folder: Path) -> Callable[[], dict[str, Any]]:
    return lambda: {"model": str(folder)}
