"""What `peers.py` found: the table, the JSON with everything, and the chart."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from peers_best import find_standings, standing_lines
from peers_chart import draw_chart
from peers_environments import cpu_flags, llama_flags
from peers_figures import Agreement, Figures, Rate, is_plain, make_figures
from peers_measure import Settings
from peers_plan import PEERS
from peers_state import State
from result_files import machine_name, versions, write_results

_HEAD = (
    "engine", "weights", "decoding", "tokens/s", "lowest to highest", "of forerun's", "with the prompt, tokens/s",
    "bits a weight", "tokens a round", "looked up", "MB a token", "of the bound", "equal tokens", "KL, nats/token",
)  # fmt: skip
_NOTES = (
    "tokens/s: decoded tokens after the first over the time from the first to the last, all prompts of a turn "
    "together; the median over turns. With the prompt: all tokens over all the time of the request.",
    "of forerun's: the rate over that of forerun's first bundle in the same turn, plain with plain and speculative "
    "with speculative.",
    "bits a weight: of the target's linear layers and LM head, scales included. MB a token: bytes of these that are "
    "read for a token, those of the drafter or small model included where the engine tells how often it ran.",
    "forerun stores equal matrices once: they are counted each time they are read, as with the other engines.",
    "of the bound: the share of the read bandwidth that MB a token times tokens/s is.",
    "equal tokens: how far a continuation equals float32 transformers', the mean over prompts; and how many are equal "
    "to the end. KL: from float32 transformers, on held-out text, every token predicted from those before it.",
    "draft model: the demo's target of 8.9 M parameters with noise on its matrices, so much that greedy rounds commit "
    "as many tokens as with forerun's drafter (noised_draft_model.py), in 8 bits or the target's own type; N a round "
    "is how many tokens it drafts. On the pair of 120 M, llama.cpp, OpenVINO and ONNX Runtime GenAI are as fast with 4 "
    "as with 7. Ideal draft model: the same without noise, which computes the inflated targets' function; no real "
    "draft model does, so it is a bound and no mode.",
    "tokens a round: committed tokens over runs of the target, after the first token of a generation; a round commits "
    "one more than the drafts that it accepts. Empty where an engine does not tell. "
    "Looked up: the share of rounds that verified what followed the same tokens before in the text.",
    "end of text ends a generation everywhere; prompts whose continuation has it are left out. Processes that are not "
    "asked are stopped.",
)

_REASON = 300
"""Characters of a reason."""
_FOLDERS = re.compile(r"(?<![\w.~/-])(?:/[\w.+@-]+)+/(?=[\w.+@-])")


def write_report(state: State, settings: Settings, command: str, is_written: bool) -> str:
    """The table; with `is_written` also in benchmarks/results, with JSON and chart."""
    parts = state.parts | {"failures": {row: readable(reason) for row, reason in state.failures.items()}}
    order = sorted({*parts["runs"], *parts["failures"]}, key=_place(parts))
    first = next(row for row in order if row.startswith("forerun/")).rpartition("/")[0]
    figures = make_figures(parts, first, order)
    header = _header(parts, settings, command)
    standings = find_standings(figures, parts["runs"])
    lines = standing_lines(figures, standings)
    table = "\n".join(
        [
            *_preamble(header),
            *_planned(parts),
            "",
            *_table(figures),
            "",
            *lines,
            "",
            *_reasons(figures),
            *_versions(header),
        ]
    )
    if is_written:
        rows, beside = [asdict(row) for row in figures], [asdict(one) for one in standings]
        everything = header | {"rows": rows, "standings": beside, "measured": parts}
        base = write_results(f"peers-{settings.pair}", settings.threads, json.dumps(everything, indent=1) + "\n", table)
        chart = draw_chart(figures, f"Tokens a second, {settings.pair}, {header['machine']}")
        base.with_name(f"{base.name}.svg").write_text(chart, encoding="utf-8")
    return table


def readable(reason: str) -> str:
    """One line, without the folders of this machine."""
    return without_folders(" ".join(reason.split()))[:_REASON]


def without_folders(text: str) -> str:
    """Absolute paths become relative to the working folder, or their last names where they are outside of it."""
    return _FOLDERS.sub("", text.replace(f"{Path.cwd()}/", ""))


def _place(parts: Mapping[str, Any]) -> Any:
    """Peers in their order, each one's rows as they were planned: by weights, plain first."""
    names = [*parts["facts"], *parts["failures"], *parts["runs"]]
    seen = {name: number for number, name in reversed(list(enumerate(names)))}
    return lambda row: (PEERS.index(row.split("/")[0]), seen[row])


def _header(parts: Mapping[str, Any], settings: Settings, command: str) -> dict[str, Any]:
    found: dict[str, str] = {}
    for facts in parts["facts"].values():
        found |= facts["versions"]
    return {
        "pair": settings.pair,
        "settings": asdict(settings),
        "machine": machine_name(settings.threads),
        "cpu_flags": sorted(cpu_flags()),
        "versions": versions() | found,
        "llama_cmake_options": llama_flags(cpu_flags()),
        "command": command,
        "created": datetime.now(UTC).date().isoformat(),
        "bandwidth": parts["bandwidth"],
        "prompt_tokens": parts["prompts"]["tokens"],
    }


def _preamble(header: Mapping[str, Any]) -> list[str]:
    settings, bandwidth, tokens = header["settings"], header["bandwidth"], header["prompt_tokens"]
    return [
        f"# The same checkpoint on every engine: {header['pair']}",
        "",
        f"Measured on {header['machine']}, {header['created']}: `{header['command']}`",
        "",
        f"- {len(tokens)} prompts, spread evenly over all held-out ones, of {min(tokens)} to {max(tokens)} "
        f"tokens, given as token ids; {settings['new_tokens']} greedy tokens of each, {settings['repeats']} turns or "
        f"more; {settings['threads']} threads.",
        f"- Read bandwidth, {bandwidth['threads']} threads over {bandwidth['buffer_bytes'] >> 20} MiB: "
        f"{bandwidth['bytes_per_s'] / 1e9:.1f} GB/s.",
        *(f"- {note[0].upper()}{note[1:]}" for note in _NOTES),
    ]


def _planned(parts: Mapping[str, Any]) -> list[str]:
    """A line for each bundle: whether its rounds were planned, as a user's are after `build-engine bench --save`."""
    known = {row.rpartition("/")[0]: facts.get("is_planned") for row, facts in parts["facts"].items()}
    said = {True: "verifies as many drafts a round as pay by its stored costs of this machine", False:
            "verifies every draft: its bundle has no costs of this machine (build-engine bench --save)"}  # fmt: skip
    return [f"- {name} {said[planned]}." for name, planned in known.items() if planned is not None]


def _table(figures: Sequence[Figures]) -> list[str]:
    return [_line(_HEAD), _line(["---"] * len(_HEAD)), *(_line(_cells(row)) for row in figures)]


def _cells(row: Figures) -> list[str]:
    names = row.row.split("/")
    if row.decode is None:
        return [*names, "failed, see below", *[""] * (len(_HEAD) - 4)]
    return [
        *names,
        f"**{row.decode.median:.1f}**",
        _spread(row.decode),
        _number(row.ratio, "{:.2f}"),
        "" if row.whole is None else f"{row.whole.median:.1f}",
        _number(row.bits_per_weight, "{:.2f}"),
        _number(row.tokens_per_round, "{:.2f}"),
        _number(None if is_plain(row.row) else row.looked_up_share, "{:.0%}"),
        _number(None if row.bytes_per_token is None else row.bytes_per_token / 1e6, "{:.0f}"),
        _number(row.bound_share, "{:.0%}"),
        _equal(row.agreement),
        _number(row.kl, "{:.4f}"),
    ]


def _spread(rate: Rate) -> str:
    return f"{rate.least:.1f} to {rate.most:.1f}"


def _equal(agreement: Agreement | None) -> str:
    return "" if agreement is None else f"{agreement.mean:.1f}; {agreement.equal} of {agreement.prompts}"


def _number(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)


def _reasons(figures: Sequence[Figures]) -> list[str]:
    failed = [f"- {row.row}: {row.failure}" for row in figures if row.failure]
    return ["What did not run, and why:", "", *failed, ""] if failed else []


def _versions(header: Mapping[str, Any]) -> list[str]:
    named = ", ".join(f"{name} {version}" for name, version in header["versions"].items())
    options = " ".join(header["llama_cmake_options"])
    return [
        f"Versions: {named}. llama.cpp is the source that llama-cpp-python carries, built with {options} "
        "-DGGML_CPU_REPACK=ON, without the kernels for matrix units (AMX), where it crashes.",
        "",
    ]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
