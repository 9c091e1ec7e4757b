"""How long work tells how far it is."""

from __future__ import annotations

from collections.abc import Callable

OnProgress = Callable[[str, int, int], None]
"""Called with the stage, how much of it is done, and its total (0: not known)."""
