"""Of which weights a converted model was made, beside it in a file: one of other weights is not taken for it."""

from __future__ import annotations

import hashlib
from pathlib import Path


def fingerprint(source: Path) -> str:
    """SHA-256 in hex of a checkpoint's JSON files and weights, or what a converted model says that it was made from."""
    mark = _mark(source)
    if mark.is_file():
        return mark.read_text(encoding="utf-8")
    digest = hashlib.sha256()
    for path in sorted([*source.glob("*.json"), *source.glob("*.safetensors")]):
        with path.open("rb") as file:
            digest.update(f"{path.name} ".encode() + hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def is_made_from(path: Path, wanted: str) -> bool:
    """Whether the model at `path` is there and says so."""
    mark = _mark(path)
    return path.exists() and mark.is_file() and mark.read_text(encoding="utf-8") == wanted


def note_made_from(path: Path, source: str) -> None:
    _mark(path).write_text(source, encoding="utf-8")


def _mark(path: Path) -> Path:
    return path.with_name(f"{path.name}.from")
