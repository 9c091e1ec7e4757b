"""What a bundle's target loses against another's: both read the same texts, and their next-token distributions meet."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forerun_compiler.bundle import read_manifest
from forerun_compiler.errors import BundleError
from forerun_compiler.on_progress import OnProgress
from forerun_compiler.proof.target_probe import TargetProbe

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Row = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Quality:
    """Means over `tokens` predicted tokens of texts.

    `kl` is the divergence KL(reference || candidate) in nats a token; the perplexities are of the texts themselves.
    """

    kl: float
    perplexity: float
    reference_perplexity: float
    tokens: int


def measure_quality(
    candidate: Path,
    reference: Path,
    texts_tokens: Sequence[Sequence[int]],
    on_progress: OnProgress,
    threads: int = 0,
) -> Quality:
    """Read the texts through the rounds of two bundles, at the width that they verify with, and compare.

    Every token but the first of a text is predicted from those before it; a text is cut at the smaller capacity.
    `threads` 0 lets the library choose.

    Raises:
        BundleError: a bundle is damaged, they have different vocabularies, or no text has two tokens.
        EngineError: ONNX Runtime refuses a graph.
    """
    manifests = [read_manifest(folder) for folder in (candidate, reference)]
    one, other = (manifest.model for manifest in manifests)
    if one.vocab_size != other.vocab_size:
        raise BundleError(
            f"{candidate}: expected the vocabulary of {reference}, {other.vocab_size} tokens, found {one.vocab_size}; "
            "compare bundles of one target"
        )
    room = min(one.capacity, other.capacity)
    texts = [tuple(text[:room]) for text in texts_tokens if len(text) > 1]
    if not texts:
        raise BundleError(f"{candidate}: expected a text of at least two tokens to measure quality on, found none")
    probes = [
        TargetProbe(folder, manifest, "round", threads)
        for folder, manifest in zip((candidate, reference), manifests, strict=True)
    ]
    total = QualityCounter()
    for done, text in enumerate(texts):
        on_progress("quality", done, len(texts))
        total.add_text(text, *(probe.verify_rows(text[:-1]) for probe in probes))
    on_progress("quality", len(texts), len(texts))
    return total.result()


class QualityCounter:
    """Sums, in float64, over rows of logits."""

    def __init__(self) -> None:
        self._kl = self._loss = self._reference_loss = 0.0
        self.tokens = 0

    def add_text(self, text: Sequence[int], candidate: Iterable[Row], reference: Iterable[Row]) -> None:
        """Take the rows of logits [V] after each token of `text` but the last, of both sides.

        Raises:
            BundleError: a logit is no finite number.
        """
        import numpy as np

        for token, ours, theirs in zip(text[1:], candidate, reference, strict=True):
            for side, row in (("candidate", ours), ("reference", theirs)):
                if not np.isfinite(row).all():
                    raise BundleError(f"the {side} gives logits that are no finite numbers; verify its bundle")
            log_ours, log_theirs = log_probabilities(ours), log_probabilities(theirs)
            self._kl += float(np.sum(np.exp(log_theirs) * (log_theirs - log_ours)))
            self._loss -= float(log_ours[token])
            self._reference_loss -= float(log_theirs[token])
            self.tokens += 1

    def result(self) -> Quality:
        """The means so far; there must be a token."""
        return Quality(
            kl=self._kl / self.tokens,
            perplexity=math.exp(self._loss / self.tokens),
            reference_perplexity=math.exp(self._reference_loss / self.tokens),
            tokens=self.tokens,
        )


def log_probabilities(logits: Row) -> npt.NDArray[np.float64]:
    """log softmax of logits [V], in float64."""
    import numpy as np

    shifted = logits.astype(np.float64) - float(logits.max())
    return np.asarray(shifted - np.log(np.sum(np.exp(shifted))))
