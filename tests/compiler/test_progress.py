"""Progress: a line a stage in a log, bars on a terminal, nothing when quiet."""

from __future__ import annotations

import io

import pytest

from forerun_compiler.progress import StageProgress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def walk(progress: StageProgress) -> None:
    with progress:
        progress("load")
        for done in range(3):
            progress("count", done, 2)
        progress("write")


def test_a_log_gets_one_line_a_stage() -> None:
    stream = io.StringIO()
    walk(StageProgress(stream))
    assert stream.getvalue() == "load ...\ncount ...\nwrite ...\n"


def test_a_terminal_gets_bars_that_end_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    walk(StageProgress(stream))
    last = stream.getvalue()[stream.getvalue().rindex("load") :]
    assert [last.count(stage) for stage in ("load", "count", "write")] == [1, 1, 1]
    assert "2/2" in last


def test_quiet_writes_nothing() -> None:
    stream = Terminal()
    walk(StageProgress(stream, quiet=True))
    assert stream.getvalue() == ""
