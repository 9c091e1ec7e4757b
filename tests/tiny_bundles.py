"""Small bundles of made-up files, for tests of everything that only carries them."""

from __future__ import annotations

from pathlib import Path

from forerun_compiler.bundle import (
    EngineTarget,
    GraphInterface,
    Manifest,
    ModelFacts,
    Precision,
    Source,
    StateInterface,
    TensorInterface,
)

FACTS = ModelFacts(
    name="tiny",
    target_architecture="Qwen3ForCausalLM",
    drafter_family="dspark",
    vocab_size=300,
    hidden_size=32,
    draft_len=4,
    lookup_len=0,
    lookup_match=0,
    block_size=7,
    capacity=64,
    cache_rows=76,
    prefill_chunk=16,
    verify_widths=(2, 5),
    taps=(0, 2),
    eos_token_ids=(256,),
    bos_token_id=None,
    mask_token_id=257,
)


def interface(file: str) -> GraphInterface:
    return GraphInterface(
        file=file,
        inputs=(TensorInterface("tokens", "int64", (1, "T")),),
        outputs=(TensorInterface("committed", "int64", (1, 5)),),
        states=(StateInterface("target.0.k", "target.0.k.out", "float32", (1, 2, 76, 8)),),
    )


def write_files(folder: Path, mark: bytes = b"") -> None:
    """Graphs and weights that are none; `mark` tells two builds apart."""
    (folder / "round.onnx").write_bytes(b"round" * 100 + mark)
    (folder / "plain.onnx").write_bytes(b"plain" * 100 + mark)
    (folder / "weights.bin").write_bytes(bytes(range(256)) * 40 + mark)


def manifest(created: str = "2026-01-01T00:00:00+00:00") -> Manifest:
    return Manifest(
        format=5,
        forerun="0.1.0",
        created=created,
        files={},
        model=FACTS,
        graphs={"round": interface("round.onnx"), "plain": interface("plain.onnx")},
        precision=Precision(),
        engines=(EngineTarget(),),
        recipe='name: tiny\n# "quotes", \\ and é\n',
        source=Source("../target", "deepseek-ai/dspark_qwen3_4b_block7"),
        cost=(),
        proof=None,
    )
