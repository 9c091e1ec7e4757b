"""A small draft model as good as the demo's drafter, for engines that draft with a model of their own.

    python benchmarks/noised_draft_model.py -o artifacts/peers/models/noised-demo/checkpoint

The demo's target drafts for the inflated targets without an error, because it computes their function: no real draft
model does. Here its matrices carry Gaussian noise, at one level for all that bisection finds: greedy rounds of the
drafter's length against the demo's target then commit as many tokens as with the drafter. Equal arguments, equal bytes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from inflate import DEMO
from peers_environments import PeerError
from peers_prompts import held_out
from safetensors.torch import load_file, save_file

MARK = "noised.json"
"""Written last into a finished folder: what made it, at what level, and how many tokens its rounds commit."""
ACCEPTANCE = 6.08
"""Committed tokens a round of the demo's drafter in float32, as `schemes.py` measures on the same prompts."""
DRAFTER = "8c5f869fe263dbdc5521301d68acf4b1a5008d75587ba897db07d55eba7734e0"
"""SHA-256 of the weights that it was measured of."""
_WEIGHTS = "model.safetensors"
_STEPS, _MOST = 14, 1.0
"""Halvings of the interval of levels, and its end: noise as large as the weights."""


@dataclass(frozen=True)
class Wish:
    """`drafts` a round over `prompts` held-out prompts and `new_tokens` greedy tokens of each, noise from `seed`."""

    seed: int = 0
    acceptance: float = ACCEPTANCE
    drafts: int = 7
    prompts: int = 16
    new_tokens: int = 128


@dataclass(frozen=True)
class Noised:
    """The noise's standard deviation over that of the matrix it is added to, and committed tokens a round."""

    level: float
    acceptance: float


def as_good_as_the_drafter(drafter: Path = DEMO / "drafter", seed: int = Wish.seed) -> Wish:
    """Raises PeerError where the drafter is not the one that was measured."""
    found = hashlib.sha256((drafter / _WEIGHTS).read_bytes()).hexdigest()
    if found != DRAFTER:
        raise PeerError(
            f"{drafter / _WEIGHTS}: expected the weights of SHA-256 {DRAFTER}, of which {ACCEPTANCE} committed tokens "
            f"a round were measured; got {found}; run schemes.py --pair demo --schemes float32, and write its "
            f"acceptance length and this sum into {Path(__file__).name}"
        )
    return Wish(seed)


def make_noised(output: Path, wish: Wish) -> Noised:
    """Write the draft model to the folder `output`, in one piece, where it is not there as wished already."""
    if (output / MARK).is_file():
        found = json.loads((output / MARK).read_text(encoding="utf-8"))
        if found["wish"] == asdict(wish):
            return Noised(**found["noised"])
    torch.set_num_threads(1)  # a number of threads is an order of sums, and this must be the same everywhere
    clean = load_file(DEMO / "target" / _WEIGHTS)
    noise = _draw(clean, wish.seed)
    reads = _Reader(wish)
    noised = bisect(lambda level: reads.acceptance(add_noise(clean, noise, level)), wish.acceptance)
    output.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{output.name}.", dir=output.parent))
    try:
        for path in (DEMO / "target").glob("*.json"):
            shutil.copy(path, staging)
        save_file(add_noise(clean, noise, noised.level), staging / _WEIGHTS, metadata={"format": "pt"})
        mark = {"made_by": "benchmarks/noised_draft_model.py", "wish": asdict(wish), "noised": asdict(noised)}
        (staging / MARK).write_text(json.dumps(mark, indent=2) + "\n", encoding="utf-8")
        staging.chmod(0o755)  # mkdtemp's own is for the owner alone
        shutil.rmtree(output, ignore_errors=True)
        staging.rename(output)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return noised


def bisect(acceptance_at: Callable[[float], float], wanted: float) -> Noised:
    """The level whose acceptance is nearest to what is wanted, of those tried; more noise accepts less."""
    low, high, best = 0.0, _MOST, Noised(0.0, acceptance_at(0.0))
    for _ in range(_STEPS):
        level = (low + high) / 2
        found = Noised(level, acceptance_at(level))
        best = min(best, found, key=lambda one: abs(one.acceptance - wanted))
        low, high = (level, high) if found.acceptance > wanted else (low, level)
    return best


def committed_per_round(rights: Sequence[Sequence[bool]], drafts: int) -> float:
    """Tokens a round when `rights[p][i]` says that the draft model, given prompt and tokens before, foretells token i.

    That suffices: a draft counts only while all before it are the target's own tokens, so its model has read these.
    """
    tokens = rounds = 0
    for right in rights:
        place = 0
        while place < len(right):
            accepted = 0
            while accepted < drafts and place + accepted < len(right) and right[place + accepted]:
                accepted += 1
            rounds, place = rounds + 1, place + accepted + 1
        tokens += len(right)
    return tokens / rounds


def add_noise(clean: dict[str, torch.Tensor], noise: dict[str, torch.Tensor], level: float) -> dict[str, torch.Tensor]:
    """The weights as they are stored: noised in float32, rounded to their own type."""
    return {
        name: (tensor.float() + level * noise[name]).to(tensor.dtype) if name in noise else tensor
        for name, tensor in clean.items()
    }


def _draw(clean: dict[str, torch.Tensor], seed: int) -> dict[str, torch.Tensor]:
    """Float32 noise for every matrix, as large as the matrix: in one order, so that a seed is one noise."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(clean[name].shape, generator=generator) * clean[name].float().std()
        for name in sorted(clean)
        if clean[name].ndim == 2
    }


class _Reader:
    """The demo's target as a frame for other weights, and its own greedy continuations."""

    def __init__(self, wish: Wish) -> None:
        from transformers import AutoModelForCausalLM

        self._drafts = wish.drafts
        self._model: Any = AutoModelForCausalLM.from_pretrained(DEMO / "target", dtype=torch.float32).eval()
        self._rows: list[tuple[torch.Tensor, int]] = []
        for prompt in held_out(DEMO / "target")[: wish.prompts]:
            ids = torch.tensor([prompt])
            row = self._model.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=wish.new_tokens, do_sample=False
            )
            self._rows.append((row, len(prompt)))

    @torch.no_grad()
    def acceptance(self, weights: dict[str, torch.Tensor]) -> float:
        """Committed tokens a round with a draft model of these weights; the first token comes with the prompt."""
        self._model.load_state_dict(weights, strict=False)
        rights = []
        for row, prompt in self._rows:
            told = self._model(row).logits[0, prompt:-1].argmax(-1)
            rights.append((told == row[0, prompt + 1 :]).tolist())
        return committed_per_round(rights, self._drafts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--seed", type=int, default=Wish.seed)
    parser.add_argument("--acceptance", type=float, help=f"committed tokens a round ({ACCEPTANCE}, the drafter's)")
    asked = parser.parse_args()
    try:
        wish = Wish(asked.seed, asked.acceptance) if asked.acceptance else as_good_as_the_drafter(seed=asked.seed)
    except PeerError as error:
        sys.exit(f"error: {error}")
    found = make_noised(asked.output, wish)
    print(f"noise level {found.level:.4f}: {found.acceptance:.3f} committed tokens a round", file=sys.stderr)


if __name__ == "__main__":
    main()
