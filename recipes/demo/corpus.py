"""The demo's corpus: the Python standard library's own source, split by a hash of each module's path.

One module in twenty is held out. The split depends on the path alone, so it is the same on every machine;
the text itself is that of the interpreter that runs this file, and the model card names its version.
"""

from __future__ import annotations

import hashlib
import sysconfig
from collections.abc import Iterator
from pathlib import Path

HELD_OUT_SHARE = 0.05
SKIPPED_FOLDERS = {"site-packages", "dist-packages", "__pycache__"}


def is_held_out(name: str) -> bool:
    """Whether the module with this path, relative to the library and with forward slashes, is held out."""
    digest = hashlib.sha256(name.encode("utf-8")).digest()
    return int.from_bytes(digest[:8], "big") < HELD_OUT_SHARE * 2**64


def modules(*, held_out: bool) -> Iterator[tuple[str, str]]:
    """Yield (path, source) of each readable module of one side of the split, in sorted order."""
    root = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(root.rglob("*.py")):
        relative = path.relative_to(root)
        if SKIPPED_FOLDERS & set(relative.parts):
            continue
        name = relative.as_posix()
        if is_held_out(name) != held_out:
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:  # a few test fixtures are Latin-1 or broken on purpose
            continue
        if text.strip():
            yield name, text
