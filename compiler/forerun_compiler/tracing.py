"""From a torch module to a dialect graph: functions that emit the dialect's ops, and the export itself.

A traced module calls `cached_attention`, `cache_write` and `experts`. While it is exported they become one node each;
when it runs eagerly they compute the dialect's references, so a module can be run before it is traced.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from onnx_ir.passes import common
from torch.overrides import TorchFunctionMode

from forerun_compiler import canonical, dialect, graph
from forerun_compiler.errors import TraceError
from forerun_compiler.trace_cleanup import clean_up

Tensor = torch.Tensor


def cached_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    position: Tensor,
    *,
    scale: float,
    mask: str = dialect.CAUSAL,
    window: int = 0,
    softcap: float = 0.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Emit `CachedAttention`: q [B,H,T,D]; k, v [B,G,T,D]; caches [B,G,C,D]; position [B] -> out, k_cache', v_cache'.

    The meaning of the attributes is in `dialect.CachedAttention`; TraceError when one is out of range.
    """
    op = dialect.CachedAttention(scale=float(scale), mask=mask, window=int(window), softcap=float(softcap))
    inputs = (q, k, v, k_cache, v_cache, position)
    if not torch.compiler.is_exporting():
        arrays = dialect.cached_attention(*_arrays(inputs), attributes=op)
        return _tensors(arrays, 3)  # type: ignore[return-value]
    shapes = (q.shape, k_cache.shape, v_cache.shape)
    return _emit(op.OP_TYPE, inputs, op.attributes(), shapes, (q.dtype, k_cache.dtype, v_cache.dtype))  # type: ignore[return-value]


def cache_write(k: Tensor, v: Tensor, k_cache: Tensor, v_cache: Tensor, position: Tensor) -> tuple[Tensor, Tensor]:
    """Emit `CacheWrite`: k, v [B,G,T,D]; caches [B,G,C,D]; position [B] -> k_cache', v_cache'."""
    inputs = (k, v, k_cache, v_cache, position)
    if not torch.compiler.is_exporting():
        return _tensors(dialect.cache_write(*_arrays(inputs)), 2)  # type: ignore[return-value]
    shapes = (k_cache.shape, v_cache.shape)
    return _emit(dialect.CacheWrite.OP_TYPE, inputs, {}, shapes, (k_cache.dtype, v_cache.dtype))  # type: ignore[return-value]


def experts(hidden: Tensor, index: Tensor, weight: Tensor, gate_up: Tensor, down: Tensor, *, activation: str) -> Tensor:
    """Emit `Experts`: hidden [N,E]; index, weight [N,k]; gate_up [X,2I,E]; down [X,E,I] -> [N,E]."""
    op = dialect.Experts(activation=activation)
    inputs = (hidden, index, weight, gate_up, down)
    if not torch.compiler.is_exporting():
        return _tensors((dialect.experts(*_arrays(inputs), attributes=op),), 1)[0]
    return _emit(op.OP_TYPE, inputs, op.attributes(), (hidden.shape,), (hidden.dtype,))[0]


def _emit(
    op_type: str,
    inputs: Sequence[Tensor],
    attributes: Mapping[str, Any],
    shapes: Sequence[Sequence[int | torch.SymInt]],
    dtypes: Sequence[torch.dtype],
) -> tuple[Tensor, ...]:
    outputs = torch.onnx.ops.symbolic_multi_out(
        f"{dialect.DOMAIN}::{op_type}",
        inputs,
        dict(attributes),
        dtypes=dtypes,
        shapes=shapes,
        version=dialect.VERSION,
    )
    return tuple(outputs)


def _arrays(tensors: Sequence[Tensor]) -> list[dialect.Array]:
    return [tensor.detach().numpy() for tensor in tensors]


def _tensors(arrays: Sequence[dialect.Array], count: int) -> tuple[Tensor, ...]:
    assert len(arrays) == count
    return tuple(torch.from_numpy(np.ascontiguousarray(array)) for array in arrays)


def export(
    module: torch.nn.Module,
    inputs: Mapping[str, Tensor],
    outputs: Sequence[str],
    dynamic: Mapping[str, Mapping[int, str]],
    *,
    name: str,
) -> ir.Model:
    """Trace `module.forward`, called with the inputs in order, to a dialect graph in canonical form.

    Weights keep their names and their layout ([out, in] for a linear layer, which becomes `MatMul(x, Transpose(w))`),
    norms are `RMSNormalization`, rotations `RotaryEmbedding` where their form allows it. Two exports of equal modules
    give equal bytes: no doc strings, metadata, paths or counters of this process are left.

    Args:
        module: in eval mode; takes one positional tensor per input and returns one tensor, or a tuple, per output.
        inputs: name -> example. Sizes along dynamic axes must be at least 2 and differ from each other and from the
            fixed sizes that they could be confused with.
        outputs: names of what forward returns, in order.
        dynamic: input name -> axis -> name of the dimension; axes that share a name share their size.
        name: the graph's name, and the subject of error messages.

    Raises:
        TraceError: torch could not export the module, or the graph breaks a rule of `graph.check_graph`.
    """
    if module.training:
        raise TraceError(f"{name}: the module is in training mode; call eval() before tracing it")
    dims = {dim: torch.export.Dim(dim, min=1) for axes in dynamic.values() for dim in axes.values()}
    specs = [{axis: dims[dim] for axis, dim in dynamic.get(key, {}).items()} or None for key in inputs]
    example = tuple(inputs.values())
    try:
        with torch.no_grad(), _quiet():
            with _KeepLinear():
                program = torch.export.export(
                    module, example, dynamic_shapes=_match_signature(module, specs), strict=False
                )
            symbols = _symbols(program, inputs, dynamic)
            exported = torch.onnx.export(
                program,
                (),
                dynamo=True,
                opset_version=dialect.OPSET,
                optimize=False,  # `trace_cleanup` does it
                input_names=list(inputs),
                output_names=list(outputs),
                verbose=False,
            )
    except TraceError:
        raise
    except Exception as error:  # torch raises dozens of classes here; each means that this module cannot be traced
        raise TraceError(f"{name}: torch could not export the module: {_first_lines(error)}") from error
    assert exported is not None
    clean_up(exported.model)
    return _finish(exported.model, name, symbols)


class _KeepLinear(TorchFunctionMode):
    """Trace a linear layer as one op, which `canonical` expands."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.nn.functional.linear:
            return _linear(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return torch.onnx.ops.symbolic(
        f"{canonical.TRACE_DOMAIN}::Linear",
        (x, weight) if bias is None else (x, weight, bias),
        dtype=x.dtype,
        shape=(*x.shape[:-1], weight.shape[0]),
        version=1,
    )


def _match_signature(module: torch.nn.Module, specs: list[Any]) -> tuple[Any, ...]:
    """Nest the specs of `*args` in a tuple, as torch.export wants them."""
    code = module.forward.__code__
    fixed = code.co_argcount - 1
    return (*specs[:fixed], tuple(specs[fixed:])) if code.co_flags & 0x04 else tuple(specs)


def _symbols(
    program: torch.export.ExportedProgram, inputs: Mapping[str, Tensor], dynamic: Mapping[str, Mapping[int, str]]
) -> dict[str, str]:
    """Return torch's symbol of each dynamic dimension (`s27`) -> the name that it was given (`T`)."""
    users = program.graph_signature.user_inputs
    nodes = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    found = {}
    for key, user in zip(inputs, users, strict=True):
        for axis, dim in dynamic.get(key, {}).items():
            found[str(nodes[str(user)].meta["val"].shape[axis])] = dim
    return found


def _finish(model: ir.Model, name: str, symbols: Mapping[str, str]) -> ir.Model:
    """Rewrite to canonical form, then remove all that is of the process and not of the model."""
    canonical.rewrite(model)
    graph.remove_unused(model)
    common.ClearMetadataAndDocStringPass()(model)
    model.graph.name = name
    model.producer_name, model.producer_version = "forerun", None
    for value in graph.all_values(model.graph):
        value.metadata_props.clear()
        if value.shape is not None:
            value.shape = ir.Shape([_dimension(dim, symbols) for dim in value.shape])
    for number, node in enumerate(model.graph):
        node.name = f"{number}.{node.op_type}"
    graph.check_graph(model, f"trace of {name}")
    return model


def _dimension(dim: int | ir.SymbolicDim, symbols: Mapping[str, str]) -> int | str | None:
    """Return the size, the name that the caller gave, or None for a size that torch derived."""
    if isinstance(dim, int):
        return dim
    return symbols.get(str(dim.value), str(dim.value) if str(dim.value) in symbols.values() else None)


def _first_lines(error: Exception) -> str:
    """Return the innermost cause in one line; torch wraps it in pages of advice."""
    while error.__cause__ is not None and isinstance(error.__cause__, Exception):
        error = error.__cause__
    text = " ".join(str(error).split("\n\n")[0].split())
    return f"{type(error).__name__}: {text[:400]}"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep torch's progress lines and warnings about its own internals out of the toolchain's output."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
