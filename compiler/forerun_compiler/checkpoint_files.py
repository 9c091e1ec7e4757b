"""Single files of a checkpoint, local or on the hub, and its size, without loading a weight."""

from __future__ import annotations

import json
import math
import os
import struct
from dataclasses import dataclass
from pathlib import Path

from forerun_compiler.errors import CheckpointError
from forerun_compiler.recipe import ModelReference


@dataclass(frozen=True)
class TokenizerFiles:
    """The text of a checkpoint's tokenizer.json, as it is, and of its chat template if it has one."""

    tokenizer: str
    chat_template: str | None


def find_file(reference: ModelReference, name: str) -> Path | None:
    """The file `name` of the checkpoint (from the hub it is downloaded once), or None if there is none.

    Raises:
        CheckpointError: the hub does not know the model, or cannot be reached and has not cached the file.
    """
    if reference.is_folder:
        path = Path(reference.model) / name
        return path if path.is_file() else None
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(reference.model, name))
    except LocalEntryNotFoundError as error:
        raise _unreachable(reference, name, error) from None
    except EntryNotFoundError:
        return None
    except Exception as error:  # the client lets its HTTP library's own classes through
        raise _unreachable(reference, name, error) from None


def local_folder(reference: ModelReference) -> Path:
    """The checkpoint as a folder: the local one, or the hub's files that a build reads, downloaded once.

    Raises:
        CheckpointError: as `find_file`.
    """
    if reference.is_folder:
        return Path(reference.model)
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(reference.model, allow_patterns=["*.json", "*.safetensors", "*.jinja"]))
    except Exception as error:  # the client lets its HTTP library's own classes through
        raise _unreachable(reference, "the checkpoint", error) from None


def read_tokenizer(reference: ModelReference) -> TokenizerFiles:
    """The target's tokenizer and chat template (chat_template.jinja, or else from tokenizer_config.json)."""
    path = find_file(reference, "tokenizer.json")
    if path is None:
        raise CheckpointError(
            f"{reference.model}: expected a tokenizer.json, found none; "
            "make one: AutoTokenizer.from_pretrained(...).save_pretrained(FOLDER)"
        )
    template = find_file(reference, "chat_template.jinja")
    if template is not None:
        return TokenizerFiles(path.read_text(encoding="utf-8"), template.read_text(encoding="utf-8"))
    settings = find_file(reference, "tokenizer_config.json")
    found = json.loads(settings.read_text(encoding="utf-8")).get("chat_template") if settings else None
    if isinstance(found, list):  # several named templates
        found = next((entry["template"] for entry in found if entry.get("name") == "default"), None)
    return TokenizerFiles(path.read_text(encoding="utf-8"), found)


def source_name(reference: ModelReference, bundle: Path) -> str:
    """A hub name, or the folder seen from the bundle ("../.."): so it names no machine, and moves along with both."""
    return os.path.relpath(reference.model, bundle.resolve()) if reference.is_folder else reference.model


def find_source(source: str, bundle: Path) -> ModelReference | None:
    """The checkpoint that `source_name` named, or None if it was a folder that is not there now."""
    if not source.startswith("."):
        return ModelReference(source, is_folder=False)
    path = (bundle.resolve() / source).resolve()
    return ModelReference(str(path), is_folder=True) if (path / "config.json").is_file() else None


def count_parameters(reference: ModelReference) -> int:
    """Number of weights of a checkpoint, from the headers of its safetensors files.

    Raises:
        CheckpointError: it has none, one is cut short, or the hub cannot be reached.
    """
    if reference.is_folder:
        folder = Path(reference.model)
        files = sorted(folder.glob("*.safetensors"))
        if not files:
            raise CheckpointError(f"{folder}: expected weights in *.safetensors, found none; convert the checkpoint")
        return sum(_count_in(path) for path in files)
    from huggingface_hub import get_safetensors_metadata
    from huggingface_hub.errors import NotASafetensorsRepoError

    try:
        return sum(get_safetensors_metadata(reference.model).parameter_count.values())
    except NotASafetensorsRepoError:
        raise CheckpointError(f"{reference.model}: expected weights in *.safetensors, found none on the hub") from None
    except Exception as error:  # the client lets its HTTP library's own classes through
        raise _unreachable(reference, "the safetensors headers", error) from None


def _count_in(path: Path) -> int:
    """The shapes stand in a JSON header, its length in the first eight bytes (safetensors format)."""
    with path.open("rb") as file:
        prefix = file.read(8)
        size = path.stat().st_size
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else size
        try:
            header = json.loads(file.read(length)) if 8 + length <= size else None
        except ValueError:
            header = None
    if not isinstance(header, dict):
        raise CheckpointError(f"{path}: expected a safetensors header, found none: the file is damaged or cut short")
    tensors = [entry for name, entry in header.items() if name != "__metadata__"]
    end = max((entry["data_offsets"][1] for entry in tensors), default=0)
    if 8 + length + end != size:
        raise CheckpointError(f"{path}: expected {8 + length + end} bytes, found {size}; download the file again")
    return sum(math.prod(entry["shape"]) for entry in tensors)


def _unreachable(reference: ModelReference, name: str, error: Exception) -> CheckpointError:
    first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return CheckpointError(
        f"{reference.model}: {name} cannot be had from the hub: {first}; check the name and the connection, "
        "or give the path of a local folder"
    )
