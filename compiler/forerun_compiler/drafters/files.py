"""The files of a drafter checkpoint: `config.json` and safetensors, whatever the family."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forerun_compiler.errors import CheckpointError

if TYPE_CHECKING:
    import torch


def read_config(folder: Path) -> dict[str, Any]:
    """Return the folder's `config.json` as parsed JSON.

    Raises:
        CheckpointError: it is missing or is not a JSON object.
    """
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{path}: expected the drafter's configuration, a JSON object, found none that can be read ({error}); "
            "give the folder of a complete checkpoint"
        ) from None
    if not isinstance(config, dict):
        raise CheckpointError(f"{path}: expected a JSON object, found {type(config).__name__}")
    return config


def read_tensors(folder: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield all tensors of all safetensors files, as float32."""
    import torch
    from safetensors import SafetensorError, safe_open

    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise CheckpointError(f"{folder}: expected at least one .safetensors file, found none; pickles are not read")
    for file in files:
        try:
            with safe_open(file, framework="pt") as handle:
                for name in handle.keys():  # noqa: SIM118 - not a mapping
                    yield name, handle.get_tensor(name).to(torch.float32)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{file}: not a readable safetensors file: {error}; download it again") from None
