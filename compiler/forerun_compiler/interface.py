"""Our attention and experts, behind the interfaces that `transformers` offers to replacements of its own.

A model calls `AttentionInterface` with rotated queries and keys; our function emits one CachedAttention for it. The
caches come to it through the model's keyword arguments. The mask comes through `AttentionMaskInterface`: instead of a
tensor we return the rule that the mask follows, and the model hands it to the attention unread.

Whatever arrives and is not known here is refused: an argument that is ignored would change the model.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NoReturn

import torch

from forerun_compiler import dialect, tracing
from forerun_compiler.errors import TraceError

Tensor = torch.Tensor

NAME = "forerun"
"""The name under which our functions are registered with transformers."""

CACHES = "forerun_caches"
"""The keyword argument that carries `LayerCaches` through a model."""

# What models pass along that does not change attention once its result and its mask are as they are.
_WITHOUT_EFFECT = frozenset({"position_ids", "use_cache", "cache_position", "past_key_values", "position_embeddings"})

_WHY_NOT = {
    "s_aux": "attention sinks are not in the dialect yet",
    "position_bias": "a bias on the scores is not in the dialect",
    "head_mask": "a mask of heads is not in the dialect",
    "cu_seq_lens_q": "packed sequences are not in the dialect",
}


def refuse(model: str, feature: str, reason: str) -> NoReturn:
    """Raise the TraceError of an unsupported model: which model, which feature, and why."""
    raise TraceError(f"{model}: {feature} cannot be traced: {reason}")


@dataclass(frozen=True)
class MaskRule:
    """The mask of a layer as a rule: causal, and within `window` keys unless that is 0."""

    window: int


@dataclass
class LayerCaches:
    """The caches of one forward call, by layer: those given, and those that the attention wrote.

    With nothing given (a probe) a layer gets zeros of the shape that its keys ask for, and nothing is computed.
    """

    model: str
    position: Tensor
    rows: int
    given: tuple[tuple[Tensor, Tensor], ...] = ()
    written: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    attributes: dict[int, dialect.CachedAttention] = field(default_factory=dict)

    def of(self, layer: int, key: Tensor) -> tuple[Tensor, Tensor]:
        """Return the caches [1,G,C,D] of a layer whose keys are [1,G,T,D]."""
        if self.given:
            return self.given[layer]
        shape = (1, key.shape[1], self.rows, key.shape[3])
        return torch.zeros(()).expand(shape), torch.zeros(()).expand(shape)  # a single number each in memory


def attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: object,
    scaling: float | None = None,
    dropout: float = 0.0,
    *,
    sliding_window: int | None = None,
    softcap: float | None = None,
    is_causal: bool | None = None,
    forerun_caches: LayerCaches | None = None,
    **others: object,
) -> tuple[Tensor, None]:
    """Stand in for a model's attention: query [1,H,T,D], key and value [1,G,T,D] -> [1,T,H,D]."""
    if forerun_caches is None:
        refuse(type(module).__name__, "its attention", "the model does not hand its keyword arguments to the attention")
    caches, layer = forerun_caches, getattr(module, "layer_idx", None)
    if not isinstance(layer, int):
        refuse(caches.model, f"the attention {type(module).__name__}", "it has no layer_idx, so its cache is unknown")
    where = f"the attention of layer {layer}"
    if layer in caches.written:
        refuse(caches.model, where, "it is called more than once, or two layers share one cache")
    if is_causal is False or getattr(module, "is_causal", True) is False:
        refuse(caches.model, where, "it is not causal (is_causal is False)")
    if dropout:
        refuse(caches.model, where, f"dropout is {dropout}; the model must be in eval mode")
    for name, argument in others.items():
        if argument is not None and argument is not False and name not in _WITHOUT_EFFECT:
            refuse(caches.model, f"{where} with {name}", _WHY_NOT.get(name, "forerun does not know this argument"))
    if value.shape != key.shape:
        refuse(
            caches.model, where, f"keys {_sizes(key)} and values {_sizes(value)} differ in shape; the cache needs one"
        )
    op = dialect.CachedAttention(
        scale=query.shape[-1] ** -0.5 if scaling is None else float(scaling),
        window=_window(caches.model, where, attention_mask, sliding_window),
        softcap=float(softcap or 0.0),
    )
    given = caches.of(layer, key)
    if caches.given:
        out, *written = tracing.cached_attention(
            query, key, value, *given, caches.position, scale=op.scale, window=op.window, softcap=op.softcap
        )
    else:  # a probe: nothing reads its numbers, and the reference of a long cache takes longer than the model
        out, written = torch.zeros_like(query), list(given)
    caches.written[layer], caches.attributes[layer] = (written[0], written[1]), op
    # Contiguous, as transformers' own attention returns it: some models view it without asking.
    return out.transpose(1, 2).contiguous(), None


def _window(model: str, where: str, mask: object, sliding_window: int | None) -> int:
    """Return the window of the mask that the model asked for; the argument of the interface must agree with it."""
    if not isinstance(mask, MaskRule):
        kind = "no mask" if mask is None else f"a mask of type {type(mask).__name__}"
        refuse(model, where, f"it got {kind}, so the model does not make its mask through the mask interface")
    if sliding_window is not None and mask.window != sliding_window:
        refuse(model, where, f"its sliding window is {sliding_window}, but its mask has {mask.window or 'none'}")
    return mask.window


def _sizes(tensor: Tensor) -> str:
    return "x".join(str(size) for size in tensor.shape)


def mask_rule(
    *, mask_function: Callable[..., Tensor], config: Any, local_size: int | None = None, **_: object
) -> MaskRule:
    """Stand in for a mask: return the rule that `mask_function` follows, checked on real positions in a probe.

    The keyword arguments are those of transformers' mask functions; `local_size` is a window or a chunk.
    """
    window = local_size or 0
    # While exporting, tensors hold no values; the same masks were checked in the probe that goes before.
    if not torch.compiler.is_exporting() and not _follows(mask_function, window):
        rule = f"a window of {window} keys" if window else "causal"
        refuse(
            config.model_type, "its attention mask", f"it is not {rule} (chunks, prefixes and blocks are not supported)"
        )
    return MaskRule(window)


def _follows(mask_function: Callable[..., Tensor], window: int) -> bool:
    """Compare the mask with the rule, around every multiple of the window that can tell a window from a chunk."""
    step = window or 64
    query = torch.tensor(sorted({max(0, n * step + d) for n in range(4) for d in (-1, 0, 1)}))[:, None]
    key = torch.arange(3 * step + 3)[None]
    zero = torch.zeros((), dtype=torch.int64)
    try:
        found = mask_function(zero, zero, query, key)
    except (RuntimeError, IndexError, TypeError):  # a mask over the tokens themselves does not reach these positions
        return False
    expected = (key <= query) & (key > query - window) if window else key <= query
    return torch.equal(found.expand(expected.shape), expected)


def experts(module: Any, hidden: Tensor, index: Tensor, weight: Tensor, *others: object, **named: object) -> Tensor:
    """Stand in for a mixture's experts: hidden [N,E], index and weight [N,k] -> [N,E]."""
    from transformers.integrations import moe

    model = getattr(module.config, "model_type", type(module).__name__)
    where = f"the mixture {type(module).__name__}"
    if others or named:
        refuse(model, where, f"its experts take more arguments than routing: {sorted(named) or len(others)}")
    layout = {"has_gate": True, "is_concatenated": True, "is_transposed": False, "has_bias": False}
    layout["has_post_expert_norm"] = False
    for name, expected in layout.items():
        if bool(getattr(module, name, expected)) is not expected:
            refuse(model, where, f"its weights have another layout ({name} is {not expected})")
    if type(module)._apply_gate is not moe._default_apply_gate:
        refuse(model, where, "its gate is not act(gate) * up")
    activation = getattr(module.config, "hidden_act", None) or getattr(module.config, "hidden_activation", None)
    if not isinstance(activation, str) or activation not in dialect.ACTIVATIONS:
        refuse(model, where, f"its activation {activation!r} is none of {', '.join(dialect.ACTIVATIONS)}")
    return tracing.experts(hidden, index, weight, module.gate_up_proj, module.down_proj, activation=activation)


@contextlib.contextmanager
def installed(model: Any) -> Iterator[None]:
    """Let a Hugging Face model use our attention, masks and experts, and give it back as it was."""
    from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    ALL_ATTENTION_FUNCTIONS.register(NAME, attention)
    ALL_MASK_ATTENTION_FUNCTIONS.register(NAME, mask_rule)
    ALL_EXPERTS_FUNCTIONS.register(NAME, experts)
    config = model.config
    before = config._attn_implementation, config._experts_implementation
    config._attn_implementation, config._experts_implementation = NAME, NAME
    try:
        yield
    finally:
        config._attn_implementation, config._experts_implementation = before
