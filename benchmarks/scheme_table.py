"""What `schemes.py` found, as JSON and as a table."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

EMULATED = "emulated"
WIDTHS = (1, 8, 16)


@dataclass(frozen=True)
class Times:
    """Medians: microseconds of one run of the plain graph and of the round by its token rows, and tokens a second.

    `speedup` is the median over prompts of speculative over plain decoding of the same bundle.
    """

    plain_us: float
    round_us: Mapping[int, float]
    plain_tokens_per_s: float
    speculative_tokens_per_s: float
    speedup: float


@dataclass(frozen=True)
class Row:
    """One bundle. `kl` in nats a token against the float32 bundle; `times` None where the scheme is emulated.

    `weight_bytes` are those of codes, scales and what stays float32; `file_bytes` the weights file as the engine has
    it, which holds more where a graph needs a weight in two forms, and float32 where a scheme is emulated. `guarantee`
    is what `verify` found, None if it did not run; `prompts_equal` of `prompts` gave the same tokens by speculative and
    by plain decoding.
    """

    scheme: str
    weight_bytes: int
    file_bytes: int
    kl: float
    perplexity: float
    reference_perplexity: float
    acceptance_length: float
    prompts: int
    prompts_equal: int
    guarantee: str | None
    times: Times | None


@dataclass(frozen=True)
class Report:
    """The rows of one pair and how they were measured."""

    pair: str
    target_parameters: int
    drafter_parameters: int
    machine: str
    versions: Mapping[str, str]
    command: str
    created: str
    draft_len: int
    cached_tokens: int
    quality_tokens: int
    prompts: int
    tokens: int
    feeds: Mapping[int, tuple[int, int]]
    rows: Sequence[Row]


def render_json(report: Report) -> str:
    return json.dumps(asdict(report), indent=2) + "\n"


def render_markdown(report: Report) -> str:
    return "\n".join([*_preamble(report), "", *_table(report.rows), ""])


def _preamble(report: Report) -> list[str]:
    feeds = ", ".join(
        f"T({rows}) is {known} known and {draft} drafted" for rows, (known, draft) in report.feeds.items()
    )
    versions = ", ".join(f"{name} {version}" for name, version in report.versions.items())
    return [
        f"# Quantization schemes: the {report.pair} pair",
        "",
        f"A target of {report.target_parameters / 1e6:.1f} M parameters and a drafter of "
        f"{report.drafter_parameters / 1e6:.1f} M, its copies of embedding and LM head included. "
        "Target, drafter and LM heads are in the scheme of the row.",
        "",
        f"Measured on {report.machine} ({versions}), {report.created}: `{report.command}`",
        "",
        "- Weights: codes, scales and what stays float32; and the bundle's weights file, in megabytes of 10^6 bytes.",
        f"- KL divergence and perplexity: {report.quality_tokens} tokens of held-out text, against the float32 bundle.",
        f"- Acceptance length and tokens a second: {report.prompts} held-out prompts, {report.tokens} greedy tokens of "
        "each; reading the prompt is not counted; medians over prompts; bundles take turns prompt by prompt.",
        f"- T(q), milliseconds: the median run of the whole round, target and drafter ({report.draft_len} tokens), on "
        f"q token rows with {report.cached_tokens} tokens in the cache; all bundles are open and take turns in blocks. "
        f"Of the rows, {feeds}.",
        f"- `{EMULATED}`: a scheme of other devices, computed here only to know its numbers; its times say nothing.",
    ]


def _table(rows: Sequence[Row]) -> list[str]:
    widths = [f"T({width})" for width in WIDTHS]
    head = [
        "scheme",
        "weights MB",
        "file MB",
        "KL nats/token",
        "perplexity",
        "acceptance length",
        "speculative = plain",
        "verify",
    ]
    head += ["plain step", *widths, "T(8)/T(1)", "plain tokens/s", "speculative tokens/s", "speculative / plain"]
    return [_line(head), _line(["---"] * len(head)), *(_line(_cells(row)) for row in rows)]


def _cells(row: Row) -> list[str]:
    change = row.perplexity / row.reference_perplexity - 1
    cells = [
        row.scheme,
        f"{row.weight_bytes / 1e6:.1f}",
        EMULATED if row.times is None else f"{row.file_bytes / 1e6:.1f}",
        f"{row.kl:.5f}",
        f"{row.perplexity:.3f} ({change:+.2%})",
        f"{row.acceptance_length:.2f}",
        f"{row.prompts_equal} of {row.prompts}",
        row.guarantee or "not run",
    ]
    if row.times is None:
        return cells + [EMULATED] * (len(WIDTHS) + 5)
    times, rounds = row.times, row.times.round_us
    cells += [f"{times.plain_us / 1e3:.2f}"]
    cells += [f"{rounds[width] / 1e3:.2f}" if width in rounds else "-" for width in WIDTHS]
    cells += [f"{rounds[8] / rounds[1]:.2f}" if {1, 8} <= set(rounds) else "-"]
    return [
        *cells,
        f"{times.plain_tokens_per_s:.1f}",
        f"{times.speculative_tokens_per_s:.1f}",
        f"{times.speedup:.2f}",
    ]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
