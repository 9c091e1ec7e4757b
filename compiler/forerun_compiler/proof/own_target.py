"""The reference of a bundle whose target is quantized: its own target graph, decoded by a loop of its own.

Hugging Face's float32 logits are another distribution than a quantized target's, so they can judge how close it is, but
not whether speculation keeps it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from forerun_compiler.manifest import INT8_CACHE, Manifest
from forerun_compiler.precision_map import FILE_NAME as PRECISION_MAP
from forerun_compiler.precision_map import read_precision_map
from forerun_compiler.proof.quality import QualityCounter
from forerun_compiler.proof.target_probe import TargetProbe
from forerun_compiler.schemes import DENSE

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

Tokens = tuple[int, ...]
KL_PROMPTS, KL_TOKENS = 8, 128
"""The divergence from the source is information, so a thousand tokens are enough for two digits."""


class Source(Protocol):
    """The source model, as far as a divergence needs it."""

    def all_logits(self, tokens: Tokens) -> npt.NDArray[np.float64]:
        """The logits [T,V] after each token."""


class OwnTarget:
    """The bundle's target through `plain.onnx`, one token a run, and for ties through `round.onnx` at its width too.

    A run of one row alone takes the library's matrix-vector kernels, which add up in another order. Text is therefore
    decoded with a second row of padding: from two rows on, a row's numbers were found to be the same at every width, so
    that the text should be the speculative one to the last bit.
    """

    def __init__(self, folder: Path, manifest: Manifest, threads: int = 0) -> None:
        self.round = TargetProbe(folder, manifest, "round", threads)
        self._plain = TargetProbe(folder, manifest, "plain", threads)
        self._end_tokens = frozenset(manifest.model.eos_token_ids)

    def greedy(self, prompt: Tokens, count: int) -> Tokens:
        """Up to `count` most probable tokens, an end token included."""
        logits, text = self._plain.read(prompt), list[int]()
        while True:
            text.append(int(logits.argmax()))
            if len(text) == count or text[-1] in self._end_tokens:
                return tuple(text)
            logits = self._plain.run([text[-1], 0], 1, len(prompt) + len(text) - 1)[0]

    def logits(self, tokens: Tokens) -> npt.NDArray[np.float64]:
        """The logits [V] of the token after `tokens`, by the plain graph."""
        return _float64(self._plain.read(tokens))

    def views(self, prompt: Tokens, text: Tokens) -> Sequence[npt.NDArray[np.float64]]:
        """The logits [V] after prompt and text as plain decoding computes them, and as a round of full width does.

        Both take the steps of the runtime: the prompt in chunks, then a token a run.
        """
        plain, padded = self._plain.read(prompt), self.round.read(prompt)
        for place, token in enumerate(text, start=len(prompt)):
            plain = self._plain.read([token], place)
            padded = next(self.round.verify_rows([token], place))
        return _float64(plain), _float64(padded)


def divergence(round_probe: TargetProbe, source: Source, prompts: Sequence[Tokens]) -> float | None:
    """KL(source || bundle) in nats a token over the beginnings of some prompts; None if they have too few tokens."""
    counter = QualityCounter()
    for prompt in prompts[:KL_PROMPTS]:
        text = prompt[:KL_TOKENS]
        if len(text) > 1:
            counter.add_text(text, round_probe.verify_rows(text[:-1]), source.all_logits(text[:-1]))
    return counter.result().kl if counter.tokens else None


def target_schemes(folder: Path, manifest: Manifest) -> frozenset[str]:
    """The schemes, besides float32, of the layers that decide what the target says: its own and its LM head.

    What the bundle's map says counts, for there an override or a layer that stayed dense shows. Caches of
    int8 count as `int8`.
    """
    if PRECISION_MAP in manifest.files:
        found = {row.scheme for row in read_precision_map(folder) if row.part in ("target", "lm_head")}
    else:
        found = {manifest.precision.target, manifest.precision.lm_head}
    # Rows of a cache are rounded as the rows that `int8` multiplies: each for itself, by its largest value.
    found |= {"int8"} if manifest.precision.cache == INT8_CACHE else set()
    return frozenset(found - {DENSE})


def _float64(logits: Any) -> npt.NDArray[np.float64]:
    import numpy as np

    return np.asarray(logits, np.float64)
