"""The source model run by transformers in float32: the reference of a bundle whose target is float32 too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from forerun_compiler.errors import CheckpointError
from forerun_compiler.recipe import ModelReference

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


class HuggingFaceReference:
    """A causal language model as transformers loads it, nothing of ours in between."""

    def __init__(self, source: ModelReference, end_tokens: tuple[int, ...]) -> None:
        """Load the checkpoint; `end_tokens` are those of the bundle, so that both sides stop alike.

        Raises:
            CheckpointError: transformers cannot load it.
        """
        import torch
        from transformers import AutoModelForCausalLM, GenerationConfig
        from transformers.utils import logging

        logging.disable_progress_bar()  # the caller shows its own
        try:
            model: Any = AutoModelForCausalLM.from_pretrained(source.model, dtype=torch.float32)
        except (OSError, ValueError) as error:
            first = str(error).strip().splitlines()[0]
            raise CheckpointError(f"{source.model}: transformers cannot load the source checkpoint: {first}") from None
        self._model = model.eval()
        # The checkpoint's own defaults (penalties, sampling) must not mix with plain greedy decoding.
        self._model.generation_config = GenerationConfig()
        self._end_tokens = list(end_tokens)

    def greedy(self, prompt: tuple[int, ...], count: int) -> tuple[int, ...]:
        """`generate` without sampling: up to `count` tokens, an end token included."""
        import torch
        from transformers import GenerationConfig

        config = GenerationConfig(
            do_sample=False,
            max_new_tokens=count,
            eos_token_id=self._end_tokens or None,
            pad_token_id=next(iter(self._end_tokens), 0),
        )
        ids = torch.tensor([prompt])
        with torch.no_grad():
            found = self._model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config)
        return tuple(found[0, len(prompt) :].tolist())

    def logits(self, tokens: tuple[int, ...]) -> npt.NDArray[np.float64]:
        """The logits [V] of the token after `tokens`."""
        logits: npt.NDArray[np.float64] = self._run(tokens, 1)[-1]
        return logits

    def all_logits(self, tokens: tuple[int, ...]) -> npt.NDArray[np.float64]:
        """The logits [T,V] of the token after each of `tokens`."""
        return self._run(tokens, len(tokens))

    def views(self, prompt: tuple[int, ...], text: tuple[int, ...]) -> Sequence[npt.NDArray[np.float64]]:
        """The logits [V] after prompt and text; there is one way to compute them."""
        return (self.logits(prompt + text),)

    def _run(self, tokens: tuple[int, ...], rows: int) -> npt.NDArray[np.float64]:
        import numpy as np
        import torch

        with torch.no_grad():
            found = self._model(torch.tensor([tokens]), use_cache=False, logits_to_keep=rows).logits
        return np.asarray(found[0].double().numpy())
