"""A bundle on disk: written in one piece or not at all, and refused unless every byte is the one that was written."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import hashlib
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path, PurePosixPath

from forerun_compiler.errors import BundleError
from forerun_compiler.manifest import (
    FILE_NAME,
    FORMAT,
    CostRow,
    EngineTarget,
    FileEntry,
    GraphInterface,
    Manifest,
    ModelFacts,
    Precision,
    Proof,
    Source,
    StateInterface,
    TensorInterface,
)
from forerun_compiler.manifest_text import parse, render

__all__ = [
    "FILE_NAME",
    "FORMAT",
    "CostRow",
    "EngineTarget",
    "FileEntry",
    "GraphInterface",
    "Manifest",
    "ModelFacts",
    "Precision",
    "Proof",
    "Source",
    "StateInterface",
    "TensorInterface",
    "add_files",
    "check_bundle",
    "check_file",
    "check_output",
    "read_manifest",
    "update_manifest",
    "write_bundle",
]

REBUILD = "build the bundle again, or copy it again from where it came"
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


def read_manifest(folder: Path) -> Manifest:
    """The manifest of the bundle in `folder`; its own seal is checked, the other files are not (see `check_bundle`)."""
    path = folder / FILE_NAME
    if not folder.is_dir():
        raise BundleError(f"{folder}: expected a bundle folder, found {'a file' if folder.exists() else 'nothing'}")
    if path.is_symlink() or not path.is_file():
        found = "a symbolic link" if path.is_symlink() else "none"
        raise BundleError(f"{folder}: expected a regular file {FILE_NAME}, found {found}: this is no bundle; {REBUILD}")
    return parse(path.read_bytes(), str(path))


def check_bundle(folder: Path) -> Manifest:
    """Read the manifest and every file that it lists; returns the manifest if all is as it was written.

    Files that the manifest does not list are not part of the bundle and are not looked at.

    Raises:
        BundleError: names the file, what was expected, what was found and what to do.
    """
    manifest = read_manifest(folder)
    for name in manifest.files:
        check_file(folder, manifest, name)
    for graph in manifest.graphs.values():
        if graph.file not in manifest.files:
            raise BundleError(f"{folder / FILE_NAME}: graph file {graph.file!r} is not among the files; {REBUILD}")
    return manifest


def check_file(folder: Path, manifest: Manifest, name: str) -> None:
    """Refuse a file of a bundle that is not byte for byte the one that was written.

    Raises:
        BundleError: it is missing, damaged, behind a symbolic link, or the manifest does not list it.
    """
    if name not in manifest.files:
        raise BundleError(f"{folder / FILE_NAME}: expected {name} among the files, found none; {REBUILD}")
    _check_name(folder, name)
    _check_file(folder / name, manifest.files[name])


def update_manifest(folder: Path, change: Callable[[Manifest], Manifest]) -> Manifest:
    """Replace the manifest of a bundle atomically by `change(manifest)`; for the proof and the cost table."""
    manifest = change(read_manifest(folder))
    temporary = folder / f".{FILE_NAME}.{secrets.token_hex(4)}"
    try:
        temporary.write_bytes(render(manifest))
        _sync(temporary)
        temporary.replace(folder / FILE_NAME)
        _sync(folder)
    except OSError as error:
        raise BundleError(f"{folder / FILE_NAME}: cannot be written: {_reason(error)}") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
    return manifest


def add_files(folder: Path, added: Sequence[str], engines: tuple[EngineTarget, ...]) -> Manifest:
    """Enter the files of new folders of a bundle in its manifest, with the engines that they belong to."""
    files = {}
    for name in added:
        for file, entry in _hash_files(folder / name).items():
            files[f"{name}/{file}"] = entry
    return update_manifest(
        folder, lambda now: replace(now, files=dict(sorted({**now.files, **files}.items())), engines=engines)
    )


def write_bundle(folder: Path, fill: Callable[[Path], Manifest]) -> Manifest:
    """Write a bundle to `folder` in one piece.

    `fill(staging)` writes every file into the empty folder `staging`, a sibling of `folder`, and returns the manifest;
    its `files` are replaced by what was found there. Killed at any moment, this leaves at `folder` the earlier bundle,
    the new one, or nothing; what a killed build left beside it is removed by the next one.

    Raises:
        BundleError: `folder` holds something else than a bundle, or cannot be written (disk full, permission).
    """
    folder = folder.resolve()
    check_output(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _staging(folder) as staging:
            manifest = replace(fill(staging), files=_hash_files(staging))
            (staging / FILE_NAME).write_bytes(render(manifest))
            _sync(staging / FILE_NAME)
            for path in [*staging.rglob("*"), staging]:
                if path.is_dir():
                    _sync(path)
            _swap_in(staging, folder)
    except OSError as error:
        raise BundleError(
            f"{folder}: the bundle cannot be written: {_reason(error)}; nothing was left behind"
        ) from error
    return manifest


def check_output(folder: Path) -> None:
    """Refuse an output folder that holds something else than an earlier bundle: a build would delete it."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    manifest = folder / FILE_NAME
    if not manifest.is_file() or b'"forerun": "' not in manifest.read_bytes()[:4096]:
        raise BundleError(
            f"{folder}: expected nothing, an empty folder or an earlier bundle, found something else that a build "
            "would delete; choose another output folder or remove it yourself"
        )


def _check_name(folder: Path, name: str) -> None:
    """Refuse a name that could lead out of the bundle, by its text or through a symbolic link."""
    parts = PurePosixPath(name).parts
    plain = name and "\\" not in name and "\0" not in name and ":" not in name and "/".join(parts) == name
    if not plain or ".." in parts or name.startswith("/"):
        raise BundleError(f"{folder / FILE_NAME}: file name {name!r} does not stay inside the bundle; {REBUILD}")
    path = folder
    for part in parts:
        path = path / part
        if path.is_symlink():
            raise BundleError(f"{path}: expected a regular file, found a symbolic link; {REBUILD}")


def _check_file(path: Path, entry: FileEntry) -> None:
    if not path.is_file():
        found = "a folder" if path.is_dir() else "nothing"
        raise BundleError(f"{path}: expected a file of {entry.size} bytes, found {found}; {REBUILD}")
    size = path.stat().st_size
    if size != entry.size:
        raise BundleError(f"{path}: expected {entry.size} bytes, found {size}; {REBUILD}")
    digest = _sha256(path)
    if digest != entry.sha256:
        raise BundleError(f"{path}: expected SHA-256 {entry.sha256}, found {digest}; {REBUILD}")


def _hash_files(staging: Path) -> dict[str, FileEntry]:
    entries = {}
    for path in sorted(path for path in staging.rglob("*") if not path.is_dir()):
        _sync(path)
        entries[path.relative_to(staging).as_posix()] = FileEntry(path.stat().st_size, _sha256(path))
    return entries


@contextmanager
def _staging(folder: Path) -> Iterator[Path]:
    """A fresh sibling folder, locked while this process lives (so that others see it is in use), removed at the end."""
    _clean_leftovers(folder)
    while True:
        staging = folder.parent / f".{folder.name}.forerun-{secrets.token_hex(4)}"
        staging.mkdir()
        handle = os.open(staging, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            # Another build may have taken the folder for a leftover between its creation and the lock.
            if not staging.exists():
                continue
            yield staging
            return
        finally:
            shutil.rmtree(staging, ignore_errors=True)
            os.close(handle)


def _clean_leftovers(folder: Path) -> None:
    """Remove what killed builds of `folder` left; put the earlier bundle back if one was killed between two renames."""
    for leftover in sorted(folder.parent.glob(f".{folder.name}.forerun-*")):
        with suppress(OSError):
            handle = os.open(leftover, os.O_RDONLY)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if leftover.name.endswith(".old") and not folder.exists():
                    leftover.rename(folder)
                else:
                    shutil.rmtree(leftover, ignore_errors=True)
            finally:
                os.close(handle)


def _swap_in(staging: Path, folder: Path) -> None:
    """Make `staging` the bundle at `folder`; the earlier one, if any, ends up at `staging`, to be removed."""
    if not folder.exists():
        staging.rename(folder)
    elif not _exchange(staging, folder):
        # No atomic exchange on this system: between the two renames there is no bundle, and the next build heals it.
        earlier = staging.with_name(f"{staging.name}.old")
        folder.rename(earlier)
        staging.rename(folder)
        shutil.rmtree(earlier, ignore_errors=True)
    _sync(folder.parent)


def _exchange(one: Path, other: Path) -> bool:
    """Swap two folders in one step (Linux renameat2); False if the system or the file system cannot."""
    renameat2 = getattr(ctypes.CDLL(None), "renameat2", None)
    if renameat2 is None:
        return False
    return bool(renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _reason(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "the disk is full; free some space and try again"
    return error.strerror or str(error)
