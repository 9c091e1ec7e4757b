"""What is compared: peers, the weights each of them runs with, and the ways it decodes.

The small draft model of the peers is the demo's target with noise, as good as the drafter (`noised_draft_model.py`).
Without the noise it computes the inflated targets' function and is right nearly always, which no real draft model is:
that has rows of its own, as the most that the method could give.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from inflate import CAPACITY
from peers_models import DEMO_TARGET, NOISED, Checkpoints, Converter

from forerun_compiler.bundle import read_manifest

PLAIN, SPECULATIVE, LOOKUP, COMPILED, DSPARK = "plain", "speculative", "prompt lookup", "compiled", "DSpark"
DRAFTER_ALONE = "speculative, drafter alone"
"""Of bundles with prompt lookup, whose speculative decoding has both."""
IDEAL = "ideal draft model (accepts everything)"
_DRAFT_WAYS = {NOISED: "draft model", DEMO_TARGET: IDEAL}
PEERS = ("forerun", "transformers", "llama.cpp", "openvino", "onnxruntime-genai")
PROCESSES = {
    "forerun": "forerun_process.py",
    "transformers": "transformers_process.py",
    "llama.cpp": "llama_process.py",
    "openvino": "openvino_process.py",
    "onnxruntime-genai": "genai_process.py",
}
DRAFT_TOKENS = 7
"""Tokens a round of a small draft model, as many as forerun's drafter. Tried on the pair of 120 M, llama.cpp, OpenVINO
and ONNX Runtime GenAI are as fast with 4 (within 2 %); beside a larger target a draft costs less."""
_LLAMA_NGRAM = ("--spec-type", "ngram-simple", "--spec-ngram-simple-size-n", "3")
"""An n-gram as short as the other peers'; other settings are llama.cpp's own."""
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


def left_in(wishes: Sequence[Wish], leave_out: Sequence[str]) -> list[Wish]:
    """The wishes whose names have none of the texts; ValueError where that takes every bundle away."""
    kept = [wish for wish in wishes if not any(text in wish.name for text in leave_out)]
    bundles = [wish.name for wish in wishes if wish.peer == "forerun"]
    if bundles and not any(wish.peer == "forerun" for wish in kept):
        raise ValueError(
            "--leave-out: expected to keep a bundle of forerun's, which peers are compared with; got "
            f"{' '.join(map(repr, leave_out))}, which takes away {', '.join(bundles)}; write more of a name, as "
            "'llama.cpp/q8_0/plain'"
        )
    return kept


@dataclass(frozen=True)
class Drafting:
    """A small draft model by its name, and how many tokens it drafts a round."""

    model: str
    tokens: int

    @property
    def way(self) -> str:
        return f"{_DRAFT_WAYS[self.model]}, {self.tokens} a round"


@dataclass(frozen=True)
class Plan:
    """Makes the wishes of each peer. `name` is the pair's, `eos` the target's end-of-text token,
    `draft_tokens` how many a small draft model drafts a round: a row for each.
    """

    name: str
    checkpoints: Checkpoints
    converter: Converter
    environments: Path
    eos: int
    draft_tokens: Sequence[int]

    def wishes(self, peers: Sequence[str], bundles: Sequence[tuple[str, Path]]) -> list[Wish]:
        """forerun's first: the first bundle is what all others are compared with."""
        made = [Wish("forerun", name, bundle_ways(folder), _bundle(folder)) for name, folder in bundles]
        for peer, wish in (
            ("transformers", self._transformers),
            ("llama.cpp", self._llama),
            ("openvino", self._openvino),
            ("onnxruntime-genai", self._genai),
        ):
            made += wish() if peer in peers else []
        return made

    def _draftings(self, *models: str) -> list[Drafting]:
        return [Drafting(model, tokens) for model in models for tokens in self.draft_tokens]

    def _small(self, model: str) -> Path:
        return self.converter.noised() if model == NOISED else self.checkpoints.small

    def _transformers(self) -> list[Wish]:
        def checkpoint(dtype: str, ways: Sequence[str | Drafting]) -> Wish:
            drafts = [way for way in ways if isinstance(way, Drafting)]
            return Wish("transformers", dtype, tuple(map(_way, ways)), lambda: {
                "model": str(self.checkpoints.target), "dtype": dtype, "compile": COMPILED in ways,
                "capacity": CAPACITY,
                "drafts": {one.way: {"model": str(self._small(one.model)), "tokens": one.tokens} for one in drafts},
            })  # fmt: skip

        return [
            checkpoint("float32", [PLAIN]),
            checkpoint("float32", [*self._draftings(NOISED), LOOKUP]),
            checkpoint("bfloat16", [PLAIN, *self._draftings(NOISED, DEMO_TARGET), LOOKUP]),
            checkpoint("bfloat16", [COMPILED]),
        ]

    def _llama(self) -> list[Wish]:
        real, ideal = (self._draftings(model) for model in (NOISED, DEMO_TARGET))
        rows: list[tuple[str, list[str | Drafting]]] = [
            ("q4_0", [PLAIN, *real, *ideal, LOOKUP]), ("q4_K_M", [PLAIN]), ("q8_0", [PLAIN, *real, LOOKUP]),
            ("q4_0", [DSPARK]),
        ]  # fmt: skip
        return [
            Wish("llama.cpp", kind, (_way(way),), self._llama_file(kind, way)) for kind, ways in rows for way in ways
        ]

    def _llama_file(self, kind: str, way: str | Drafting) -> Callable[[], dict[str, Any]]:
        def make() -> dict[str, Any]:
            model, draft, more = self.converter.gguf(self.name, self.checkpoints.target, kind), None, []
            if isinstance(way, Drafting):
                draft = self.converter.gguf(way.model, self._small(way.model), "q8_0")
                more = ["--spec-type", "draft-simple", "--spec-draft-n-max", str(way.tokens)]
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
        def folder(kind: str, way: str | Drafting) -> Callable[[], dict[str, Any]]:
            def make() -> dict[str, Any]:
                model, draft = self.converter.openvino(self.name, self.checkpoints.target, kind), None
                if isinstance(way, Drafting):
                    small = self.converter.openvino(way.model, self._small(way.model), "int8")
                    draft = {"model": str(small), "tokens": way.tokens}
                return {"model": str(model), "draft": draft, "is_lookup": way == LOOKUP, "eos": self.eos}

            return make

        real, ideal = (self._draftings(model) for model in (NOISED, DEMO_TARGET))
        rows: list[tuple[str, list[str | Drafting]]] = [
            ("bf16", [PLAIN]), ("int8", [PLAIN, *real, LOOKUP]), ("int4-default", [PLAIN]),
            ("int4-g128-sym", [PLAIN, *real, *ideal, LOOKUP]),
        ]  # fmt: skip
        return [Wish("openvino", kind, (_way(way),), folder(kind, way)) for kind, ways in rows for way in ways]

    def _genai(self) -> list[Wish]:
        def folder(kind: str) -> Callable[[], dict[str, Any]]:
            return lambda: {"model": str(self.converter.onnx(self.name, self.checkpoints.target, kind)), "draft": None}

        def drafted(kind: str, drafting: Drafting) -> Callable[[], dict[str, Any]]:
            def make() -> dict[str, Any]:
                small = self.converter.onnx(drafting.model, self._small(drafting.model), "int8-b32")
                model = self.converter.onnx_with_draft(self.name, self.checkpoints.target, kind, small)
                return {"model": str(model), "draft": {"model": "draft/model.onnx", "tokens": drafting.tokens}}

            return make

        def dspark() -> dict[str, Any]:
            return {"model": str(self.converter.onnx_dspark(self.name, self.checkpoints)), "draft": None}

        return [
            Wish("onnxruntime-genai", "int4-b32", (PLAIN, LOOKUP), folder("int4-b32")),
            Wish("onnxruntime-genai", "int4-b128", (PLAIN, LOOKUP), folder("int4-b128")),
            *(
                Wish("onnxruntime-genai", "int4-b128", (drafting.way,), drafted("int4-b128", drafting))
                for drafting in self._draftings(NOISED)
            ),
            Wish("onnxruntime-genai", "int4-b32", (DSPARK,), dspark),
        ]


def _way(way: str | Drafting) -> str:
    return way.way if isinstance(way, Drafting) else way


def bundle_ways(folder: Path) -> tuple[str, ...]:
    """How a bundle decodes: plainly, with all that it has, and without prompt lookup where it has that."""
    both = (PLAIN, SPECULATIVE)
    return (*both, DRAFTER_ALONE) if read_manifest(folder).model.lookup_len else both


def _bundle(folder: Path) -> Callable[[], dict[str, Any]]:
    return lambda: {"model": str(folder)}
