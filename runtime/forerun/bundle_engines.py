"""What the manifest says of a bundle's engines for GPUs: read to choose one, before the C core checks every file."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from forerun.errors import ForerunError

FORMAT = 5


@dataclass(frozen=True, slots=True)
class Tensor:
    """An input or output of a graph; a dimension of -1 is the width of a run."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    is_input: bool


@dataclass(frozen=True, slots=True)
class EngineEntry:
    """An engine: `folder` in the bundle, the `library` version that built it, and the devices it was built for.

    `identity` is a hash of its files' hashes. `round` and `plain` are all inputs and outputs of the graphs, states too.
    """

    backend: str
    folder: str
    library: str
    capabilities: tuple[str, ...]
    identity: str
    round: tuple[Tensor, ...]
    plain: tuple[Tensor, ...]


@dataclass(frozen=True, slots=True)
class BundleEngines:
    """The engines for GPUs, the preferred first, and whether the bundle has graphs for the CPU."""

    path: Path
    cpu: bool
    engines: tuple[EngineEntry, ...]


def read_engines(folder: Path) -> BundleEngines:
    """Read FOLDER/manifest.json. Its seal and all files are checked by the core, when it opens what was chosen.

    Raises ForerunError: "file error" without a manifest, "bundle error" for one that is damaged or of another format.
    """
    path = folder / "manifest.json"
    try:
        text = path.read_bytes()
    except OSError as error:
        raise ForerunError("file error", f"{path} cannot be read: {error.strerror}; is this a bundle?") from error
    try:
        manifest = json.loads(text)
        found = manifest["format"]
        if found == FORMAT:
            engines = [_engine(manifest, entry, built) for entry in manifest["engines"] for built in entry["built"]]
            return BundleEngines(folder, bool(manifest["graphs"]), tuple(engines))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ForerunError("bundle error", f"{path}: damaged ({error!r}); build the bundle again") from error
    raise ForerunError(
        "bundle error", f"{path}: expected format {FORMAT}, found {found!r}; build it again with this version"
    )


def _engine(manifest: Any, entry: Any, built: Any) -> EngineEntry:
    folder = built["folder"]
    files = {name: file for name, file in manifest["files"].items() if name.startswith(f"{folder}/")}
    hashes = [f"{name}:{files[name]['sha256']}" for name in sorted(files)]
    return EngineEntry(
        backend=entry["backend"],
        folder=folder,
        library=built["library"],
        capabilities=tuple(built["compute_capability"]),
        identity=hashlib.sha256("\n".join(hashes).encode()).hexdigest(),
        round=_tensors(entry["graphs"]["round"]),
        plain=_tensors(entry["graphs"]["plain"]),
    )


def _tensors(graph: Any) -> tuple[Tensor, ...]:
    inputs, outputs, states = graph["inputs"], graph["outputs"], graph["states"]
    return (
        *(_tensor(tensor, tensor["name"], True) for tensor in (*inputs, *states)),
        *(_tensor(tensor, tensor["name"], False) for tensor in outputs),
        *(_tensor(state, state["output"], False) for state in states),
    )


def _tensor(tensor: Any, name: str, is_input: bool) -> Tensor:
    shape = tuple(dim if isinstance(dim, int) else -1 for dim in tensor["shape"])
    return Tensor(name, tensor["dtype"], shape, is_input)
