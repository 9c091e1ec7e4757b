"""The result of a search as text: for people, and as the comment in the recipe that it wrote."""

from __future__ import annotations

from collections.abc import Sequence

from forerun_compiler.tuning.tune import Tried, Tuning

_HEADER = ("", "step", "drafter", "drafter_lm_head", "acceptance", "round us", "tokens/s")


def table_lines(found: Tuning) -> list[str]:
    """The machine, then one line a candidate (* is the best of its step), then what the target's scheme costs."""
    steps = list(dict.fromkeys(tried.step for tried in found.tried))
    rows = []
    for step in steps:
        tried = [entry for entry in found.tried if entry.step == step]
        best = max(tried, key=lambda entry: entry.tokens_per_s)
        rows += [_row(entry, entry is best) for entry in tried]
    return [
        f"build-engine tune on {found.machine.fingerprint}",
        f"{found.prompts} prompts, {found.tokens} tokens of each, greedy; * is the fastest of its step",
        *_aligned([_HEADER, *rows]),
        _quality_line(found),
    ]


def tune_text(found: Tuning, output: object) -> str:
    """The table, what was chosen, and where it was written."""
    chosen = f"chosen: drafter {found.chosen.drafter}, drafter_lm_head {found.chosen.drafter_lm_head}"
    return "\n".join([*table_lines(found), chosen, f"wrote {output}"])


def _row(entry: Tried, best: bool) -> tuple[str, ...]:
    figures = (f"{entry.acceptance_length:.2f}", f"{entry.round_us:,.0f}", f"{entry.tokens_per_s:,.1f}")
    return ("*" if best else "", entry.step, entry.drafter, entry.drafter_lm_head, *figures)


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Names to the left, figures (the last three columns) to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    names = len(widths) - 3
    return [
        "  ".join(
            cell.ljust(width) if place < names else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _quality_line(found: Tuning) -> str:
    scheme = f"target {found.target}, LM head {found.lm_head}"
    if found.quality is None:
        return f"{scheme}: float32, no loss of quality"
    cost = found.quality
    text = "prompts" if found.held_out else "prompts, which it was calibrated on"
    return (
        f"{scheme}: KL divergence from float32 {cost.kl:.3g} nats a token, perplexity {cost.perplexity:.4g} "
        f"(float32: {cost.reference_perplexity:.4g}), on {cost.tokens:,} tokens of the {text}"
    )
