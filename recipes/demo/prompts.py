"""Write the demo's held-out prompts: pieces of whole lines from modules that training never saw.

python recipes/demo/prompts.py                    # writes recipes/demo/prompts.jsonl
python recipes/demo/prompts.py --of-training --output recipes/demo/calibration.jsonl     # text to round int4 weights on
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from corpus import modules

HERE = Path(__file__).parent


def piece(text: str, rng: np.random.Generator) -> str | None:
    """Between 8 and 24 consecutive lines, or None where the module is too short."""
    lines = text.splitlines(keepends=True)
    count = int(rng.integers(8, 25))
    if len(lines) <= count:
        return None
    first = int(rng.integers(0, len(lines) - count))
    return "".join(lines[first : first + count])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=96)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--of-training", action="store_true", help="from the modules that training saw")
    parser.add_argument("--output", type=Path, default=HERE / "prompts.jsonl")
    args = parser.parse_args()
    rng = np.random.default_rng(args.seed)
    held_out = list(modules(held_out=not args.of_training))
    rows: list[dict[str, str]] = []
    while len(rows) < args.count:
        name, text = held_out[int(rng.integers(len(held_out)))]
        prompt = piece(text, rng)
        if prompt and 200 <= len(prompt) <= 1200:
            rows.append({"prompt": prompt, "source": name})
    args.output.write_text("".join(json.dumps(row) + "\n" for row in rows))


if __name__ == "__main__":
    main()
