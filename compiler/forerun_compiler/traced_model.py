"""A Hugging Face model behind the interface of a traced target: tokens and caches in; logits, taps and caches out.

The model's own forward is called, so its embedding scales, residual multipliers, logit scales and soft-caps come out as
the model spells them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

from forerun_compiler.errors import ForerunError
from forerun_compiler.interface import CACHES, LayerCaches, MaskRule, refuse

Tensor = torch.Tensor

PREFIX = "causal_lm."
"""What TracedModel puts in front of the names of the model's weights."""


class TracedModel(torch.nn.Module):
    """A causal language model as `target.trace_target` exports it; use it within `interface.installed`."""

    def __init__(self, causal_lm: Any, name: str, taps: tuple[int, ...], cache_rows: int) -> None:
        super().__init__()
        self.causal_lm = causal_lm
        self._name, self._taps, self._cache_rows = name, taps, cache_rows
        self._layers = int(causal_lm.config.num_hidden_layers)

    def forward(self, tokens: Tensor, position: Tensor, logit_rows: Tensor, *caches: Tensor) -> tuple[Tensor, ...]:
        """Return logits [1,R,V], the taps [1,T,A*E] if any, then k and v [1,G,C,D] of each layer; caches likewise."""
        given = tuple(zip(caches[::2], caches[1::2], strict=True))
        layers = LayerCaches(self._name, position, self._cache_rows, given)
        logits, taps = self._run(tokens, position, logit_rows, layers)
        written = [cache for layer in range(self._layers) for cache in layers.written[layer]]
        return (logits, torch.cat(taps, -1), *written) if taps else (logits, *written)

    def _run(
        self, tokens: Tensor, position: Tensor, logit_rows: Tensor, caches: LayerCaches
    ) -> tuple[Tensor, list[Tensor]]:
        outputs: dict[int, Tensor] = {}
        with self._tapped(outputs):
            result = self.causal_lm(
                input_ids=tokens,
                position_ids=position[:, None] + torch.arange(tokens.shape[1])[None],
                # Without a mask of ones transformers looks for packed sequences in the positions, which it cannot
                # do while exporting; nothing reads the ones, so none are left in the graph.
                attention_mask=torch.ones_like(tokens),
                use_cache=False,
                logits_to_keep=logit_rows,
                **{CACHES: caches},
            )
        return result.logits, [outputs[tap] for tap in self._taps]

    @contextlib.contextmanager
    def _tapped(self, outputs: dict[int, Tensor]) -> Iterator[None]:
        """Collect the tapped layers' outputs [1,T,E] while the model runs."""

        def collect(tap: int, output: Any) -> None:
            outputs[tap] = output[0] if isinstance(output, tuple) else output

        layers = _decoder_layers(self.causal_lm, self._layers, self._name) if self._taps else ()
        hooks = [
            layers[tap].register_forward_hook(lambda _module, _args, output, tap=tap: collect(tap, output))
            for tap in set(self._taps)
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def probe(self) -> LayerCaches:
        """Run two tokens at the end of the cache eagerly: checks what an export could not say clearly.

        Returns the caches with one entry per layer, whose shapes are those of the graph's states.
        """
        position = torch.tensor([self._cache_rows - 2])
        caches = LayerCaches(self._name, position, self._cache_rows)
        try:
            with torch.no_grad():
                self._run(torch.zeros(1, 2, dtype=torch.int64), position, torch.tensor([1]), caches)
        except ForerunError:
            raise
        except Exception as error:  # a model may fail in any way on an argument that it does not expect
            if MaskRule.__name__ in str(error):
                reason = "the model computes with it instead of handing it to the attention interface"
                refuse(self._name, "its attention mask", reason)
            text = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            refuse(self._name, f"a cache of {self._cache_rows} rows", f"the model failed: {text}")
        if missing := [layer for layer in range(self._layers) if layer not in caches.written]:
            refuse(
                self._name,
                f"{len(missing)} of {self._layers} layers",
                f"layers {', '.join(map(str, missing[:8]))} do not call the attention interface (or share a cache)",
            )
        return caches


def _decoder_layers(model: torch.nn.Module, count: int, name: str) -> torch.nn.ModuleList:
    """Find the list of decoder layers: the one whose i-th entry holds the attention of layer i."""
    for module in model.modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == count:
            found = [
                {part.layer_idx for part in layer.modules() if isinstance(getattr(part, "layer_idx", None), int)}
                for layer in module
            ]
            if found == [{index} for index in range(count)]:
                return module
    refuse(name, "taps", f"found no list of {count} decoder layers with a layer_idx each")
