"""Readers of DSpark checkpoints: three published layouts become one configuration and one set of float32 tensors.

| layout | told apart by | layer ids | embedding and LM head |
|---|---|---|---|
| DeepSpec | `architectures: [Qwen3DSparkModel]` | 0-based layer outputs | stored |
| speculators | `speculators_model_type: dspark` | `hidden_states` indices, one more | stored |
| SpecForge | `dflash_config.projector_type: dspark` | 0-based layer outputs | the target's |

All three store the same tensor names. `markov_rank: 0` in the DeepSpec layout is its DFlash: no Markov head.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forerun_compiler.drafters.files import read_config, read_tensors
from forerun_compiler.errors import CheckpointError

if TYPE_CHECKING:
    import torch

MARKOV_HEADS = ("vanilla", "gated", "rnn")
BORROWED = ("embed_tokens.weight", "lm_head.weight")
"""Tensors that may be missing: the drafter then uses the target's."""


@dataclass(frozen=True)
class DSparkConfig:
    """Sizes and switches of a DSpark drafter (section numbers are those of the DSpark paper's model section).

    `taps` are 0-based target layer outputs, -1 for the target's embedding; `markov_rank` 0 means no Markov head.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rms_norm_eps: float
    rope_theta: float
    block_size: int
    mask_token_id: int
    taps: tuple[int, ...]
    markov_rank: int
    markov_head: str
    confidence: bool
    confidence_with_markov: bool

    def tensor_shapes(self, tap_size: int) -> dict[str, tuple[int, ...]]:
        """Every tensor of a checkpoint by name; `tap_size` is the target's hidden size."""
        e, i, v, r = self.hidden_size, self.intermediate_size, self.vocab_size, self.markov_rank
        q, kv = self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        shapes: dict[str, tuple[int, ...]] = {
            "embed_tokens.weight": (v, e),
            "lm_head.weight": (v, e),
            "fc.weight": (e, len(self.taps) * tap_size),
            "hidden_norm.weight": (e,),
            "norm.weight": (e,),
        }
        for layer in range(self.num_layers):
            prefix = f"layers.{layer}."
            shapes |= {
                f"{prefix}input_layernorm.weight": (e,),
                f"{prefix}post_attention_layernorm.weight": (e,),
                f"{prefix}self_attn.q_proj.weight": (q, e),
                f"{prefix}self_attn.k_proj.weight": (kv, e),
                f"{prefix}self_attn.v_proj.weight": (kv, e),
                f"{prefix}self_attn.o_proj.weight": (e, q),
                f"{prefix}self_attn.q_norm.weight": (self.head_dim,),
                f"{prefix}self_attn.k_norm.weight": (self.head_dim,),
                f"{prefix}mlp.gate_proj.weight": (i, e),
                f"{prefix}mlp.up_proj.weight": (i, e),
                f"{prefix}mlp.down_proj.weight": (e, i),
            }
        if r:
            shapes |= {"markov_head.markov_w1.weight": (v, r), "markov_head.markov_w2.weight": (v, r)}
        if r and self.markov_head == "gated":
            shapes |= {"markov_head.gate_proj.weight": (r, e + r), "markov_head.gate_proj.bias": (r,)}
        if r and self.markov_head == "rnn":
            shapes |= {"markov_head.joint_proj.weight": (3 * r, 2 * r + e), "markov_head.joint_proj.bias": (3 * r,)}
        if self.confidence:
            width = e + (r if self.confidence_with_markov else 0)
            shapes |= {"confidence_head.proj.weight": (1, width), "confidence_head.proj.bias": (1,)}
        return shapes


@dataclass(frozen=True)
class DSparkCheckpoint:
    """A drafter as it was read: float32 tensors under the DeepSpec names; embedding and LM head may be missing."""

    source: str
    config: DSparkConfig
    tensors: Mapping[str, torch.Tensor]


def is_dspark(config: Mapping[str, Any]) -> bool:
    """Whether a `config.json` is one of the layouts above."""
    return _flatten(config) is not None


def read_checkpoint(folder: Path) -> DSparkCheckpoint:
    """Read the drafter in `folder`: its `config.json` and all its `*.safetensors`.

    Raises:
        CheckpointError: not a DSpark layout, a feature that is not supported, or a file that is missing or damaged.
    """
    config = parse_config(read_config(folder), str(folder))
    return DSparkCheckpoint(str(folder), config, dict(read_tensors(folder)))


def parse_config(raw: Mapping[str, Any], source: str) -> DSparkConfig:
    """Turn a `config.json` of any of the layouts into a DSparkConfig; `source` names it in errors.

    Raises:
        CheckpointError: not a DSpark layout, a field that is missing or of a wrong type, or an unsupported feature.
    """
    flat = _flatten(raw)
    if flat is None:
        raise CheckpointError(
            f"{source}: expected a DSpark drafter (architectures Qwen3DSparkModel, speculators_model_type dspark, or "
            f"dflash_config.projector_type dspark), found architectures {raw.get('architectures')}; "
            "other drafter families are not supported yet"
        )
    fields = _Fields(flat, source)
    heads = fields.integer("num_attention_heads")
    rank = fields.integer("markov_rank", 0, minimum=0)
    head = str(flat.get("markov_head_type") or "vanilla").lower() if rank else ""
    confidence = bool(flat.get("enable_confidence_head", False))
    with_markov = confidence and bool(flat.get("confidence_head_with_markov", False))
    _refuse_unsupported(flat, source, head)
    if with_markov and not rank:
        raise fields.error("confidence_head_with_markov", "is true, but markov_rank is 0: there is no Markov head")
    config = DSparkConfig(
        vocab_size=fields.integer("vocab_size"),
        hidden_size=fields.integer("hidden_size"),
        intermediate_size=fields.integer("intermediate_size"),
        num_layers=fields.integer("num_hidden_layers"),
        num_heads=heads,
        num_kv_heads=fields.integer("num_key_value_heads", heads),
        head_dim=fields.integer("head_dim", fields.integer("hidden_size") // heads),
        rms_norm_eps=float(flat.get("rms_norm_eps", 1e-6)),
        rope_theta=_rope_theta(flat, source),
        block_size=fields.integer("block_size"),
        mask_token_id=fields.integer("mask_token_id", minimum=0),
        taps=_taps(flat, source),
        markov_rank=rank,
        markov_head=head,
        confidence=confidence,
        confidence_with_markov=with_markov,
    )
    if config.mask_token_id >= config.vocab_size:
        raise fields.error("mask_token_id", f"is {config.mask_token_id}, outside the vocabulary of {config.vocab_size}")
    return config


class _Fields:
    """Typed reads of a flat configuration, with the source and the field in every error."""

    def __init__(self, values: Mapping[str, Any], source: str) -> None:
        self.values, self.source = values, source

    def error(self, name: str, problem: str) -> CheckpointError:
        return CheckpointError(f"{self.source}: config.json: {name} {problem}")

    def integer(self, name: str, default: int | None = None, *, minimum: int = 1) -> int:
        value = self.values.get(name)
        value = default if value is None else value
        if not isinstance(value, int) or isinstance(value, bool) or value < minimum:
            raise self.error(name, f"must be a whole number of at least {minimum}; found {value!r}")
        return value


def _flatten(raw: Mapping[str, Any]) -> dict[str, Any] | None:
    """Bring a configuration to the DeepSpec field names, or return None when it is no DSpark drafter."""
    if "speculators_model_type" in raw:
        if raw["speculators_model_type"] != "dspark":
            return None
        flat = {**raw.get("transformer_layer_config", {}), **raw}
        ids = flat.get("aux_hidden_state_layer_ids", flat.get("eagle_aux_hidden_state_layer_ids"))
        # speculators counts hidden_states, whose entry 0 is the embedding; a tap counts layer outputs.
        if isinstance(ids, list) and all(isinstance(i, int) for i in ids):
            flat["target_layer_ids"] = [i - 1 for i in ids]
        return flat
    nested = raw.get("dflash_config")
    if isinstance(nested, dict) and nested.get("projector_type") == "dspark":
        return {**raw, **nested}
    return dict(raw) if raw.get("architectures") == ["Qwen3DSparkModel"] else None


def _taps(flat: Mapping[str, Any], source: str) -> tuple[int, ...]:
    ids = flat.get("target_layer_ids")
    if not isinstance(ids, list) or not ids or not all(isinstance(i, int) and i >= -1 for i in ids):
        raise CheckpointError(
            f"{source}: config.json: target_layer_ids must be a list of layer numbers (-1 is the embedding); "
            f"found {ids!r}"
        )
    if sorted(set(ids)) != ids:
        raise CheckpointError(f"{source}: config.json: target_layer_ids must be strictly increasing; found {ids}")
    return tuple(ids)


def _rope_theta(flat: Mapping[str, Any], source: str) -> float:
    """Read the base of plain rotary positions from either of transformers' two spellings."""
    rope = flat.get("rope_parameters") or flat.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind != "default":
        raise CheckpointError(
            f"{source}: config.json: rotary positions of type {kind!r} are not supported for drafters; "
            "only 'default' (plain rotary positions) is"
        )
    return float(rope.get("rope_theta", flat.get("rope_theta", 10000.0)))


def _refuse_unsupported(flat: Mapping[str, Any], source: str, head: str) -> None:
    """Refuse what would otherwise be computed wrongly in silence."""
    layers = flat.get("layer_types") or []
    draft_vocab = flat.get("draft_vocab_size")
    checks = {
        f"markov_head_type {head!r} (supported: {', '.join(MARKOV_HEADS)})": bool(head) and head not in MARKOV_HEADS,
        f"layer_types {sorted(set(layers))} (supported: full_attention)": bool(set(layers) - {"full_attention"}),
        "attention_bias true": bool(flat.get("attention_bias", False)),
        f"hidden_act {flat.get('hidden_act')!r} (supported: silu)": flat.get("hidden_act", "silu") != "silu",
        "sample_from_anchor false": flat.get("sample_from_anchor", True) is False,
        f"draft_vocab_size {draft_vocab} other than vocab_size": draft_vocab not in (None, flat.get("vocab_size")),
        "final_logit_softcapping": bool(flat.get("final_logit_softcapping")),
        "causal true": bool(flat.get("causal", flat.get("is_causal", False))),
    }
    if found := [text for text, wrong in checks.items() if wrong]:
        raise CheckpointError(f"{source}: config.json: not supported for DSpark drafters: {'; '.join(found)}")
