"""Tiny random drafters in the layouts that are published, for tests that need a checkpoint and not a good one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

HEADS = ("vanilla", "gated", "rnn")


def dspark_tensors(config: Mapping[str, object], target_hidden: int, *, seed: int) -> dict[str, torch.Tensor]:
    """All tensors of a DSpark drafter in the DeepSpec layout, random with scales that keep activations near 1."""
    generator = torch.Generator().manual_seed(seed)
    e, i, v = (int(config[key]) for key in ("hidden_size", "intermediate_size", "vocab_size"))
    d, r = int(config["head_dim"]), int(config["markov_rank"])
    q, kv = int(config["num_attention_heads"]) * d, int(config["num_key_value_heads"]) * d
    shapes: dict[str, tuple[int, ...]] = {
        "embed_tokens.weight": (v, e),
        "lm_head.weight": (v, e),
        "fc.weight": (e, len(config["target_layer_ids"]) * target_hidden),
        "hidden_norm.weight": (e,),
        "norm.weight": (e,),
    }
    for j in range(int(config["num_hidden_layers"])):
        shapes |= {
            f"layers.{j}.input_layernorm.weight": (e,),
            f"layers.{j}.post_attention_layernorm.weight": (e,),
            f"layers.{j}.self_attn.q_proj.weight": (q, e),
            f"layers.{j}.self_attn.k_proj.weight": (kv, e),
            f"layers.{j}.self_attn.v_proj.weight": (kv, e),
            f"layers.{j}.self_attn.o_proj.weight": (e, q),
            f"layers.{j}.self_attn.q_norm.weight": (d,),
            f"layers.{j}.self_attn.k_norm.weight": (d,),
            f"layers.{j}.mlp.gate_proj.weight": (i, e),
            f"layers.{j}.mlp.up_proj.weight": (i, e),
            f"layers.{j}.mlp.down_proj.weight": (e, i),
        }
    if r:
        shapes |= {"markov_head.markov_w1.weight": (v, r), "markov_head.markov_w2.weight": (v, r)}
        if config["markov_head_type"] == "gated":
            shapes |= {"markov_head.gate_proj.weight": (r, e + r), "markov_head.gate_proj.bias": (r,)}
        if config["markov_head_type"] == "rnn":
            shapes |= {"markov_head.joint_proj.weight": (3 * r, 2 * r + e), "markov_head.joint_proj.bias": (3 * r,)}
    if config["enable_confidence_head"]:
        width = e + (r if config["confidence_head_with_markov"] else 0)
        shapes |= {"confidence_head.proj.weight": (1, width), "confidence_head.proj.bias": (1,)}
    tensors = {}
    for name, shape in shapes.items():
        noise = torch.randn(shape, generator=generator)
        if "norm" in name:
            tensors[name] = 1.0 + 0.1 * noise
        elif "markov_w1" in name or "embed" in name:
            tensors[name] = noise
        else:
            tensors[name] = noise * (2.0 / shape[-1] ** 0.5)
    return tensors


def save_dspark(
    folder: Path,
    target_folder: Path,
    *,
    block_size: int = 7,
    layers: int = 2,
    taps: tuple[int, ...] = (0, 1),
    markov_rank: int = 8,
    head: str = "vanilla",
    confidence: bool = True,
    seed: int = 0,
    copy_target: bool = True,
) -> Path:
    """Write a random DSpark drafter for the target in `target_folder`; returns `folder`.

    The layout is DeepSpec's: a copy of the target's config.json with the drafter's fields, tensors at the top level,
    embedding and LM head stored (copies of the target's if `copy_target`, else others).
    """
    target = json.loads((target_folder / "config.json").read_text())
    hidden = int(target["hidden_size"])
    config = target | {
        "architectures": ["Qwen3DSparkModel"],
        "num_target_layers": target["num_hidden_layers"],
        "num_hidden_layers": layers,
        "layer_types": ["full_attention"] * layers,
        "head_dim": target.get("head_dim") or hidden // int(target["num_attention_heads"]),
        "num_key_value_heads": target.get("num_key_value_heads") or target["num_attention_heads"],
        "tie_word_embeddings": False,
        "block_size": block_size,
        "mask_token_id": int(target["vocab_size"]) - 1,
        "target_layer_ids": list(taps),
        "num_anchors": 512,
        "enable_confidence_head": confidence,
        "confidence_head_with_markov": bool(markov_rank),
        "markov_rank": markov_rank,
        "markov_head_type": head,
    }
    tensors = dspark_tensors(config, hidden, seed=seed)
    if copy_target:
        weights: dict[str, torch.Tensor] = {}
        for file in sorted(target_folder.glob("*.safetensors")):
            weights |= load_file(file)
        embedding = weights["model.embed_tokens.weight"].float()
        tensors["embed_tokens.weight"] = embedding.clone()
        tensors["lm_head.weight"] = weights.get("lm_head.weight", embedding).float().clone()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True))
    save_file(tensors, folder / "model.safetensors")
    return folder


def make_agree(folder: Path, target_folder: Path, *, noise: float = 0.15, seed: int = 0) -> Path:
    """Turn a saved drafter into one that often drafts what its target would say; returns `folder`.

    With small layers a target is nearly a table of bigrams, logits = LM head of the normed embedding of the last
    token. The Markov head can hold that table: its rank must be the target's hidden size. `noise` on top of it decides
    how often the two disagree.
    """
    weights: dict[str, torch.Tensor] = {}
    for file in sorted(target_folder.glob("*.safetensors")):
        weights |= load_file(file)
    tensors = load_file(folder / "model.safetensors")
    embedding = weights["model.embed_tokens.weight"].float()
    if tensors["markov_head.markov_w1.weight"].shape != embedding.shape:
        raise ValueError("make_agree: the drafter's markov_rank must be the target's hidden size")
    normed = embedding * embedding.square().mean(-1, keepdim=True).add(1e-6).rsqrt()
    generator = torch.Generator().manual_seed(seed)
    wrong = noise * torch.randn(embedding.shape, generator=generator)
    tensors["markov_head.markov_w1.weight"] = normed * weights["model.norm.weight"].float() + wrong
    tensors["markov_head.markov_w2.weight"] = weights.get("lm_head.weight", embedding).float().clone()
    # The block's own logits only disturb, a little.
    tensors["norm.weight"] = tensors["norm.weight"] * 0.05
    save_file(tensors, folder / "model.safetensors")
    return folder
