"""What the commands share: options, the progress bar, where calibrations are kept, and how results are printed."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from forerun import Choice
    from forerun_compiler.progress import StageProgress

BUNDLE = click.argument("bundle", type=click.Path(path_type=Path))
JSON = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on one stdout line.")
THREADS = click.option("--threads", type=click.IntRange(1), help="Threads a round may use. [default: all cores]")


def _check_device(context: click.Context, option: click.Parameter, value: str) -> str:
    if re.fullmatch(r"cpu|auto|cuda(:(0|[1-9]\d*))?", value) is None:
        raise click.BadParameter(f"expected cpu, cuda, cuda:N or auto, got {value!r}")
    return value


DEVICE = click.option(
    "--device",
    default="cpu",
    show_default=True,
    callback=_check_device,
    help="cpu; cuda or cuda:N, a GPU that the bundle has an engine for; auto, a GPU if one fits, else the CPU.",
)


def calibrations() -> Path:
    """Where calibrations are kept between builds: in the user's cache folder, as the XDG base directories have it."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "forerun" / "calibrations"


def progress_bar() -> StageProgress:
    """Stages and counts of a long command, on standard error."""
    from forerun_compiler.progress import StageProgress

    return StageProgress(sys.stderr)


def show_device(choice: Choice) -> None:
    """What runs the bundle and why, on standard error; nothing where nobody asked for more than the CPU."""
    if choice.reason:
        click.echo(f"{choice.device}: {choice.reason}", err=True)


def print_result(result: Any, text: str, as_json: bool, err: bool = False) -> None:
    """Print a dataclass, or the fields of one, as one line of JSON, or else the text; `err` to standard error."""
    if as_json:
        import json

        click.echo(json.dumps(result if isinstance(result, dict) else fields(result), default=fields))
        return
    if err:
        click.echo()  # ends the streamed text
    click.echo(text, err=err)


def fields(value: Any) -> dict[str, Any]:
    """The fields of a dataclass, those within it too."""
    from dataclasses import asdict

    return asdict(value)
