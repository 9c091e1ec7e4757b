"""Rotary position embeddings as tables: cos and sin of every cache row, computed once, by the model's own code.

A table is a constant of the graph that `RotaryEmbedding` indexes by position, so nothing of the frequencies, their
scaling and their trigonometry is left for a run to repeat.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch

from forerun_compiler.interface import refuse

Tensor = torch.Tensor


@contextlib.contextmanager
def tabulated(model: Any, rows: int) -> Iterator[None]:
    """Let the model's rotary modules look up tables of `rows` positions instead of computing.

    The first eager call fills the tables; an export must come after one. A module that does not give one cos and one
    sin row per position is left as it is and traced in full.

    Raises:
        TraceError: frequencies depend on the length of the text and `rows` passes the length where they change.
    """
    tables = []
    for name, module in model.named_modules():
        if type(module).__name__.endswith("RotaryEmbedding"):
            _check_fixed(getattr(module, "config", model.config), module, rows)
            tables.append(_Table(name, module, rows))
    try:
        yield
    finally:
        for table in tables:
            table.remove()


class _Table:
    """One rotary module whose forward is replaced; its tables live on it as buffers, so that they get its name."""

    def __init__(self, name: str, module: torch.nn.Module, rows: int) -> None:
        self._module, self._rows = module, rows
        self._compute: Callable[..., Any] = module.forward
        self._buffers: dict[tuple[object, ...], tuple[str, str] | None] = {}
        module.forward = self._forward

    def remove(self) -> None:
        """Give the module its own forward back."""
        del self._module.forward
        for names in self._buffers.values():
            for name in names or ():
                delattr(self._module, name)

    def _forward(self, x: Tensor, position_ids: Tensor, *args: Any, **kwargs: Any) -> Any:
        kind = (*args, *kwargs.values())
        if kind not in self._buffers:
            self._buffers[kind] = self._fill(x, kind, args, kwargs)
        names = self._buffers[kind]
        if names is None:
            return self._compute(x, position_ids, *args, **kwargs)
        tables = (getattr(self._module, name) for name in names)
        return tuple(torch.nn.functional.embedding(position_ids, table) for table in tables)

    def _fill(
        self, x: Tensor, kind: tuple[object, ...], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[str, str] | None:
        """Compute the tables of all positions and check that they are rows of cos and sin."""
        assert not torch.compiler.is_exporting(), "run the model once before it is exported"
        found = self._compute(x, torch.arange(self._rows)[None], *args, **kwargs)
        shapes = [part.shape for part in found if isinstance(part, Tensor)] if isinstance(found, tuple) else []
        if len(shapes) != 2 or any(len(shape) != 3 or shape[:2] != (1, self._rows) for shape in shapes):
            return None
        suffix = "".join(f"_{part}" for part in kind)
        names = (f"cos{suffix}", f"sin{suffix}")
        for name, table in zip(names, found, strict=True):
            self._module.register_buffer(name, table[0].detach().to(torch.float32).clone(), persistent=False)
        return names


def _check_fixed(config: Any, module: Any, rows: int) -> None:
    """Refuse frequencies that change within the cache: a row rotated before the change would need another rotation."""
    kinds = getattr(module, "rope_type", None)
    parameters = getattr(config, "rope_parameters", None) or {}
    for layer_type, kind in kinds.items() if isinstance(kinds, dict) else [(None, kinds)]:
        if not isinstance(kind, str) or ("dynamic" not in kind and kind != "longrope"):
            continue
        own = parameters.get(layer_type, {}) if layer_type else parameters
        limit = config.max_position_embeddings
        if kind == "longrope":
            limit = own.get("original_max_position_embeddings") or limit
        if rows > limit:
            refuse(
                config.model_type,
                f"its {kind} rotary embedding over {rows} cache rows",
                f"its frequencies change once a text passes {limit} tokens; "
                f"choose a capacity that needs at most {limit} rows",
            )
