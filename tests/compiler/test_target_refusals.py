"""What is not supported is refused by the model, the feature and the reason; what is broken, by what is broken."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import tiny_models
from forerun_compiler import target
from forerun_compiler.errors import CheckpointError, TraceError

CACHE = 48


def as_target(architecture: str, **overrides: object) -> target.Target:
    return target.Target(tiny_models.make_model(architecture, **overrides), Path("nowhere"), "tiny")


MLA = {"q_lora_rank": None, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 12,
       "num_key_value_heads": 4, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1,
       "first_k_dense_replace": 3, "moe_intermediate_size": 16, "n_shared_experts": 1}  # fmt: skip


@pytest.mark.parametrize(
    ("architecture", "overrides", "message"),
    [
        ("gpt_oss", {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 16, "sliding_window": 6},
         r"tiny \(gpt_oss\): the attention of layer 0 with s_aux cannot be traced: attention sinks are not"),
        ("deepseek_v3", MLA,
         r"tiny \(deepseek_v3\): the attention of layer 0 cannot be traced: keys 1x4x2x16 and values 1x4x2x12 differ"),
        ("mamba", {"state_size": 4},
         r"tiny \(mamba\): 3 of 3 layers cannot be traced: layers 0, 1, 2 do not call the attention interface"),
        ("bloom", {"n_head": 4, "n_layer": 3},
         r"tiny \(bloom\): its attention mask cannot be traced: the model computes with it instead"),
        ("gpt2", {"max_position_embeddings": 40, "n_inner": 96},
         r"tiny \(gpt2\): a cache of 48 rows cannot be traced: the model failed: IndexError"),
        ("llama4_text", {"head_dim": 16, "attention_chunk_size": 8, "num_local_experts": 2, "moe_layers": [],
                         "intermediate_size_mlp": 96, "layer_types": ["chunked_attention"] * 3},
         r"llama4_text: its attention mask cannot be traced: it is not a window of 8 keys \(chunks, prefixes"),
        ("llama", {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4},
                   "max_position_embeddings": 32},
         "llama: its dynamic rotary embedding over 48 cache rows cannot be traced: its frequencies change once a text "
         "passes 32 tokens; choose a capacity that needs at most 32 rows"),
    ],
)  # fmt: skip
def test_unsupported_models_are_named(architecture: str, overrides: dict[str, object], message: str) -> None:
    with pytest.raises(TraceError, match=message):
        target.trace_target(as_target(architecture, **overrides), (0,), CACHE)


@pytest.mark.parametrize("taps", [(3,), (0, -1)])
def test_taps_must_be_layers(taps: tuple[int, ...]) -> None:
    with pytest.raises(TraceError, match=r"taps \[.*\] are not layers of the model; it has the layers 0\.\.2"):
        target.trace_target(as_target("qwen3"), taps, CACHE)


def write_config(folder: Path, **values: object) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(values))
    return folder


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model_type": "t5"}, r"\(t5\): an encoder-decoder model cannot be traced"),
        ({"model_type": "gemma3"}, r"\(gemma3\): a multimodal model cannot be traced: use the checkpoint of its"),
        ({"model_type": "qwen3", "quantization_config": {"quant_method": "gptq", "bits": 4}},
         r"\(qwen3\): a checkpoint quantized with gptq cannot be traced: forerun quantizes itself"),
        ({"model_type": "qwen3_next"}, r"\(qwen3_next\): layers of type linear_attention cannot be traced: only"),
    ],
)  # fmt: skip
def test_configurations_are_refused_before_weights_are_read(tmp_path: Path, values, message: str) -> None:
    with pytest.raises(TraceError, match=message):
        target.load_target(write_config(tmp_path / "model", **values))


def test_missing_checkpoints(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such folder, and not a name on the hub"):
        target.load_target(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"the folder has no config\.json; is it a Hugging Face checkpoint\?"):
        target.load_target(tmp_path / "empty")
    with pytest.raises(CheckpointError, match=r"cannot load the checkpoint: .*no file named model\.safetensors"):
        target.load_target(write_config(tmp_path / "config_only", model_type="qwen3"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda weights: weights.pop("model.layers.1.mlp.up_proj.weight"),
         r"1 missing keys, first model\.layers\.1\.mlp\.up_proj\.weight; is the checkpoint complete"),
        (lambda weights: weights.update({"model.layers.0.self_attn.sinks": torch.zeros(4)}),
         r"1 unexpected keys, first model\.layers\.0\.self_attn\.sinks"),
        (lambda weights: weights.update({"model.norm.weight": torch.zeros(4)}), "cannot load|1 mismatched keys"),
    ],
)  # fmt: skip
def test_weights_must_be_exactly_the_models(tmp_path: Path, change, message: str) -> None:
    from safetensors.torch import load_file, save_file

    file = tiny_models.save_target(tmp_path / "model", "llama") / "model.safetensors"
    weights = load_file(file)
    change(weights)
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=message):
        target.load_target(tmp_path / "model")


def test_damaged_weights_are_named(tmp_path: Path) -> None:
    file = tiny_models.save_target(tmp_path / "model", "llama") / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="model: cannot load the checkpoint: SafetensorError"):
        target.load_target(tmp_path / "model")
