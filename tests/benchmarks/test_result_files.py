"""A result names the command that gave it."""

from __future__ import annotations

import pytest
from result_files import command_line


def test_a_command_is_written_as_it_is_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["/elsewhere/benchmarks/kernels.py", "--kernels", "MatMulNBits 4 bits", "--write"])
    assert command_line() == "python benchmarks/kernels.py --kernels 'MatMulNBits 4 bits' --write"
