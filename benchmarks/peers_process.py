"""The parent's side of a peer's process: it is asked one thing at a time, and stopped while others compute."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from peers_environments import PeerError
from peers_plan import PROCESSES, Host

_FOLDER = Path(__file__).parent / "peer_processes"
_OPEN_SECONDS, _ANSWER_SECONDS = 300.0, 1200.0
"""An answer may have to wait for a compiler the first time."""
_TICKS, _PAGE = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")


class PeerProcess:
    """A host that is loaded. Its process, and those that it starts, are one group, which gets the signals."""

    def __init__(self, host: Host, python: Path, log: Path, for_logits: bool = False) -> None:
        """Start it and load its model.

        Raises:
            PeerError: it cannot; with what it said.
        """
        log.parent.mkdir(parents=True, exist_ok=True)
        variables = {"OMP_NUM_THREADS": str(host.options["threads"]), "TOKENIZERS_PARALLELISM": "false"}
        self._log = log.open("a", encoding="utf-8")
        self._process = subprocess.Popen(
            [str(python), str(_FOLDER / PROCESSES[host.peer])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=os.environ | variables,
            start_new_session=True,
        )
        self._rest = b""
        try:
            opened = self.ask(_OPEN_SECONDS, options=host.options | {"for_logits": for_logits})
        except BaseException:
            self.close()
            raise
        self.versions: dict[str, str] = opened["versions"]

    def ask(self, seconds: float = _ANSWER_SECONDS, **request: Any) -> dict[str, Any]:
        """Wake it, ask, wait for the answer, and stop it again.

        Raises:
            PeerError: it answers with an error, ends, or says nothing for `seconds`.
        """
        assert self._process.stdin is not None
        self._signal(signal.SIGCONT)
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
        except OSError:
            raise PeerError(self._ending()) from None
        answer = json.loads(self._read_line(seconds))
        self._signal(signal.SIGSTOP)
        if "error" in answer:
            raise PeerError(answer["error"])
        return dict(answer)

    def memory_bytes(self) -> int:
        """Of all its processes; pages that several share are counted in part."""
        return sum(_proportional_bytes(process) for process in self._group())

    def idle_cores(self, seconds: float) -> float:
        """How many cores it keeps busy while it is awake and nobody asks it anything."""
        self._signal(signal.SIGCONT)
        time.sleep(0.2)  # threads that wait actively for a while do so now
        before = self._ticks()
        time.sleep(seconds)
        spent = self._ticks() - before
        self._signal(signal.SIGSTOP)
        return spent / _TICKS / seconds

    def close(self) -> None:
        """End all its processes."""
        self._signal(signal.SIGKILL)
        self._process.wait()
        self._log.close()

    def __enter__(self) -> PeerProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _read_line(self, seconds: float) -> bytes:
        assert self._process.stdout is not None
        end = time.monotonic() + seconds
        while b"\n" not in self._rest:
            ready, _, _ = select.select([self._process.stdout], [], [], max(0.0, end - time.monotonic()))
            if not ready:
                raise PeerError(f"no answer after {seconds:.0f} s")
            chunk = os.read(self._process.stdout.fileno(), 1 << 20)
            if not chunk:
                raise PeerError(self._ending())
            self._rest += chunk
        line, _, self._rest = self._rest.partition(b"\n")
        return line

    def _ending(self) -> str:
        code = self._process.wait()
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        return f"its process ended with {how}; see {Path(self._log.name).name}"

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):  # it has ended; who reads its answer finds out how
            os.killpg(self._process.pid, number)

    def _group(self) -> list[Path]:
        """/proc folders of the processes in its group."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                fields = (folder / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[2]) == self._process.pid:
                found.append(folder)
        return found

    def _ticks(self) -> int:
        """Processor time of the group so far."""
        total = 0
        for folder in self._group():
            fields = (folder / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
            total += int(fields[11]) + int(fields[12])
        return total


def _proportional_bytes(process: Path) -> int:
    try:
        for line in (process / "smaps_rollup").read_text(encoding="utf-8").split("\n"):
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass  # it ended, or the kernel does not tell: its resident pages then
    try:
        return int((process / "statm").read_text(encoding="utf-8").split()[1]) * _PAGE
    except OSError:
        return 0
