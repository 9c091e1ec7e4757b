"""Stages and progress bars on the error stream: live on a terminal, one line a stage elsewhere."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress


class StageProgress:
    """A context manager that is called with (stage, done, total), or with a stage alone if its end is not known."""

    def __init__(self, stream: TextIO, *, quiet: bool = False) -> None:
        self._stream = stream
        self._live: Progress | None = None
        self._quiet = quiet
        self._stage = ""
        self._task: Any = None

    def __enter__(self) -> StageProgress:
        if not self._quiet and self._stream.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

            columns = (TextColumn("{task.description:24}"), BarColumn(24), MofNCompleteColumn(), TimeElapsedColumn())
            self._live = Progress(*columns, console=Console(file=self._stream))
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            if kind is None:
                self._finish()
            self._live.stop()

    def __call__(self, stage: str, done: int = 0, total: int = 0) -> None:
        """Show `stage`, of which `done` of `total` steps are complete; a total of 0 is not known."""
        if self._quiet:
            return
        if self._live is None:
            if stage != self._stage:
                self._stream.write(f"{stage} ...\n")
                self._stream.flush()
        elif stage != self._stage:
            self._finish()
            self._task = self._live.add_task(stage, total=total or None, completed=done)
        else:
            self._live.update(self._task, completed=done, total=total or None)
        self._stage = stage

    def _finish(self) -> None:
        """A stage ends when the next one begins."""
        if self._live is not None and self._task is not None:
            total = self._live.tasks[self._task].total or 1
            self._live.update(self._task, completed=total, total=total)
            self._live.stop_task(self._task)
