"""Tiny random Hugging Face models, as checkpoints on disk: small enough for tests, with every feature switched on.

Weights are drawn so that logits spread over several units: greedy choices are then far from ties, and errors show.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

VOCAB = 272
"""256 bytes, then the special tokens; the rest of the ids are unused, as in real checkpoints."""

SPECIAL_TOKENS = ("<eos>", "<bos>", "<mask>")
EOS, BOS, MASK = 256, 257, 258

_SIZES: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "eos_token_id": EOS,
    "bos_token_id": BOS,
    "pad_token_id": None,
}
_MIXED = ["sliding_attention", "full_attention", "sliding_attention"]

ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": {"attention_bias": True},
    "qwen2": {"use_sliding_window": True, "sliding_window": 6, "layer_types": _MIXED, "tie_word_embeddings": True},
    "qwen3": {"head_dim": 16, "tie_word_embeddings": True},
    "mistral": {"sliding_window": 7, "head_dim": 24},
    "gemma2": {"head_dim": 16, "sliding_window": 5, "layer_types": _MIXED, "attn_logit_softcapping": 5.0,
               "final_logit_softcapping": 8.0, "query_pre_attn_scalar": 24},
    "gemma3_text": {"head_dim": 16, "sliding_window": 5, "layer_types": _MIXED, "query_pre_attn_scalar": 24},
    "phi3": {"sliding_window": 9, "partial_rotary_factor": 0.5},
    "smollm3": {"num_hidden_layers": 4, "no_rope_layer_interval": 2, "use_sliding_window": False},
    "olmo2": {},
    "granite": {"embedding_multiplier": 3.0, "residual_multiplier": 0.5, "attention_multiplier": 0.2,
                "logits_scaling": 2.0},
    "gpt_neox": {"rotary_pct": 0.25, "use_parallel_residual": True, "tie_word_embeddings": False},
    "qwen3_moe": {"head_dim": 16, "num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 48,
                  "norm_topk_prob": True, "decoder_sparse_step": 1, "mlp_only_layers": [1]},
}  # fmt: skip
"""Model type -> what its tiny configuration sets beyond the common sizes."""


def make_model(architecture: str = "qwen3", seed: int = 0, **overrides: Any) -> Any:
    """Return a tiny random causal language model in float32 and eval mode."""
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = {**_SIZES, **ARCHITECTURES.get(architecture, {}), **overrides}
    if architecture == "gpt_neox":
        sizes.pop("num_key_value_heads")
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(architecture, **sizes)).to(torch.float32).eval()
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if parameter.ndim == 1:  # norm weights (around 1, or 0 for Gemma) and biases
            parameter.data += 0.1 * noise
        else:
            parameter.data = noise * (0.4 if parameter.shape[0] == VOCAB else parameter.shape[-1] ** -0.5)
    return model


def save_target(folder: Path, architecture: str = "qwen3", seed: int = 0, **overrides: Any) -> Path:
    """Write a tiny random target with a byte-level tokenizer as a Hugging Face checkpoint; returns the folder.

    Args:
        folder: made if missing.
        architecture: a model type of transformers; those in ARCHITECTURES have their features switched on.
        seed: of the weights.
        overrides: configuration values, for example `num_hidden_layers=2`.
    """
    make_model(architecture, seed, **overrides).save_pretrained(folder)
    save_tokenizer(folder)
    return folder


def save_tokenizer(folder: Path) -> Path:
    """Write a tokenizer of single bytes (id = byte, in the byte-level alphabet's order) and SPECIAL_TOKENS."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={symbol: index for index, symbol in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL_TOKENS])
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", bos_token="<bos>").save_pretrained(folder)
    return folder
