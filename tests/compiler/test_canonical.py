"""The rewrite rules: each fires on its pattern, keeps the value, and leaves what only looks like it alone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest
import torch

from forerun_compiler import dialect, tracing

ROWS, DIM = 12, 8
POSITIONS = torch.tensor([[2, 3, 4, 5, 6]])


class Call(torch.nn.Module):
    """A function of x and of the tensors kept beside it."""

    def __init__(self, function: Callable[..., torch.Tensor], **kept: torch.Tensor) -> None:
        super().__init__()
        self.function = function
        for name, tensor in kept.items():
            self.register_buffer(name, tensor)

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return self.function(*inputs, **dict(self.named_buffers()))


def ops_after_check(module: torch.nn.Module, *inputs: torch.Tensor, atol: float = 2e-6) -> tuple[list[str], ir.Model]:
    """Export, compare with the module on the same inputs, and return the ops."""
    module.eval()
    feeds = {f"in{number}": tensor for number, tensor in enumerate(inputs)}
    model = tracing.export(module, feeds, ["y"], {}, name="rule")
    found = dialect.evaluate(model, {name: tensor.numpy() for name, tensor in feeds.items()})
    with torch.no_grad():
        np.testing.assert_allclose(found["y"], module(*inputs).numpy(), rtol=0, atol=atol)
    return [node.op_type for node in model.graph], model


def norm(x: torch.Tensor, scale: torch.Tensor, power: int = 2, dim: int = -1) -> torch.Tensor:
    return scale * (x * torch.rsqrt(x.pow(power).mean(dim, keepdim=True) + 1e-5))


def test_rms_norm() -> None:
    x, scale = torch.randn(1, 5, DIM), torch.rand(DIM)
    ops, model = ops_after_check(Call(norm, scale=scale), x)
    assert ops == ["RMSNormalization"]
    assert model.graph.node(0).attributes["epsilon"].value == pytest.approx(1e-5)


def test_rms_norm_with_an_offset_scale_as_gemma_has_it() -> None:
    x, scale = torch.randn(1, 5, DIM), torch.rand(DIM)
    assert ops_after_check(Call(lambda x, scale: norm(x, 1.0 + scale), scale=scale), x)[0] == ["RMSNormalization"]


@pytest.mark.parametrize(
    "function",
    [
        lambda x, scale: norm(x.abs() + 1, scale, power=3),
        lambda x, scale: norm(x, scale, dim=1),
        lambda x, scale: scale * (x * torch.rsqrt((x + 1).pow(2).mean(-1, keepdim=True) + 1e-5)),
        lambda x, scale: x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5),
        lambda x, scale: norm(x, scale[:5, None]),
    ],
)
def test_other_norms_are_left_alone(function) -> None:
    ops, _ = ops_after_check(Call(function, scale=torch.rand(DIM)), torch.randn(1, 5, DIM))
    assert "RMSNormalization" not in ops


def tables(equal_halves: bool = True) -> dict[str, torch.Tensor]:
    angles = torch.randn(ROWS, DIM // 2)
    angles = torch.cat([angles, angles if equal_halves else angles + 1], 1)
    return {"cos": angles.cos(), "sin": angles.sin()}


def rotate(x: torch.Tensor, positions: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, turn=torch.neg):
    rows = [torch.nn.functional.embedding(positions, table)[:, None] for table in (cos, sin)]
    half = x.shape[-1] // 2
    return x * rows[0] + torch.cat([turn(x[..., half:]), x[..., :half]], -1) * rows[1]


def test_rotation() -> None:
    x = torch.randn(1, 3, 5, DIM)
    ops, model = ops_after_check(Call(rotate, **tables()), x, POSITIONS)
    assert ops == ["RotaryEmbedding"]
    assert sorted(model.graph.initializers) == ["cos.half", "sin.half"]
    assert model.graph.initializers["cos.half"].shape.numpy() == (ROWS, DIM // 2)


def test_partial_rotation() -> None:
    def partial(x, positions, cos, sin):
        return torch.cat([rotate(x[..., :DIM], positions, cos, sin), x[..., DIM:]], -1)

    ops, model = ops_after_check(Call(partial, **tables()), torch.randn(1, 3, 5, DIM + 4), POSITIONS)
    assert ops == ["RotaryEmbedding"]
    assert model.graph.node(0).attributes["rotary_embedding_dim"].value == DIM


@pytest.mark.parametrize(
    "module",
    [
        Call(rotate, **tables(equal_halves=False)),
        Call(lambda *inputs, **kept: rotate(*inputs, **kept, turn=torch.abs), **tables()),
    ],
)
def test_what_only_looks_like_a_rotation_is_left_alone(module: torch.nn.Module) -> None:
    ops, _ = ops_after_check(module, torch.randn(1, 3, 5, DIM), POSITIONS)
    assert "RotaryEmbedding" not in ops


def test_row_gather() -> None:
    ops, model = ops_after_check(Call(lambda x, rows: x[:, rows, :]), torch.randn(1, 5, DIM), torch.tensor([4, 0, 0]))
    assert ops == ["Gather"]
    assert model.graph.node(0).attributes["axis"].value == 1


class Twice(torch.nn.Module):
    """One weight, read by two products and by an embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(6, DIM))

    def forward(self, x: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        first = torch.nn.functional.linear(x, self.weight)
        second = torch.nn.functional.linear(torch.nn.functional.embedding(rows, self.weight), self.weight)
        return first + second


def test_a_shared_weight_is_stored_and_turned_once() -> None:
    ops, model = ops_after_check(Twice(), torch.randn(1, 3, DIM), torch.tensor([[0, 5, 2]]))
    assert sorted(ops) == ["Add", "Gather", "MatMul", "MatMul", "Transpose"]
    assert list(model.graph.initializers) == ["weight"]
