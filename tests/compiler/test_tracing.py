"""Emission helpers and the export: what becomes one node, what stays of a module, and that bytes repeat."""

from __future__ import annotations

import hashlib
import subprocess
import sys

import numpy as np
import onnx_ir as ir
import pytest
import torch

from forerun_compiler import dialect, tracing
from forerun_compiler.errors import TraceError

HEADS, GROUPS, DIM, CACHE, HIDDEN = 4, 2, 8, 24, 32


class Block(torch.nn.Module):
    """Norm, projections, rotation by table, cached attention, output projection with a bias."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.norm = torch.nn.Parameter(torch.rand(HIDDEN, generator=generator) + 0.5)
        self.q = torch.nn.Linear(HIDDEN, HEADS * DIM, bias=False)
        self.k = torch.nn.Linear(HIDDEN, GROUPS * DIM, bias=False)
        self.v = torch.nn.Linear(HIDDEN, GROUPS * DIM, bias=False)
        self.out = torch.nn.Linear(HEADS * DIM, HIDDEN, bias=True)
        for parameter in self.parameters():
            parameter.data = torch.rand(parameter.shape, generator=generator) - 0.5
        angles = torch.arange(CACHE)[:, None] * torch.logspace(0, -2, DIM // 2)[None]
        self.register_buffer("cos", torch.cat([angles, angles], 1).cos())
        self.register_buffer("sin", torch.cat([angles, angles], 1).sin())
        self.eval()

    def rotate(self, x: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        cos, sin = (torch.nn.functional.embedding(positions, table)[:, None] for table in (self.cos, self.sin))
        low, high = x[..., : DIM // 2], x[..., DIM // 2 :]
        return x * cos + torch.cat([-high, low], -1) * sin

    def forward(self, x, position, k_cache, v_cache):
        positions = position[:, None] + torch.arange(x.shape[1])[None]
        normed = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * self.norm
        q, k, v = (part(normed).view(1, x.shape[1], -1, DIM).transpose(1, 2) for part in (self.q, self.k, self.v))
        out, k_new, v_new = tracing.cached_attention(
            self.rotate(q, positions),
            self.rotate(k, positions),
            v,
            k_cache,
            v_cache,
            position,
            scale=DIM**-0.5,
            window=5,
        )
        return self.out(out.transpose(1, 2).reshape(1, x.shape[1], HEADS * DIM)), k_new, v_new


def example(rows: int, position: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        "x": torch.randn(1, rows, HIDDEN, generator=generator),
        "position": torch.tensor([position]),
        "cache.k": torch.randn(1, GROUPS, CACHE, DIM, generator=generator),
        "cache.v": torch.randn(1, GROUPS, CACHE, DIM, generator=generator),
    }


def trace() -> ir.Model:
    return tracing.export(Block(), example(5, 3), ["y", "cache.k.out", "cache.v.out"], {"x": {1: "T"}}, name="block")


@pytest.fixture(scope="module")
def model() -> ir.Model:
    return trace()


@pytest.mark.parametrize(("rows", "position"), [(1, 0), (1, 9), (3, 4), (11, 13)])
def test_graph_equals_module(model: ir.Model, rows: int, position: int) -> None:
    feeds = example(rows, position)
    found = dialect.evaluate(model, {name: tensor.numpy() for name, tensor in feeds.items()})
    with torch.no_grad():
        expected = Block()(*feeds.values())
    for name, tensor in zip(("y", "cache.k.out", "cache.v.out"), expected, strict=True):
        np.testing.assert_allclose(found[name], tensor.numpy(), rtol=0, atol=3e-6)


def test_form_is_canonical(model: ir.Model) -> None:
    ops = [node.op_type for node in model.graph]
    assert ops.count("RMSNormalization") == 1
    assert ops.count("RotaryEmbedding") == 2
    assert ops.count("CachedAttention") == 1
    assert ops.count("MatMul") == 4
    assert not {"Pow", "Sqrt", "Neg", "Concat", "Slice", "Linear"} & set(ops)
    assert model.graph.opset_imports == {"": dialect.OPSET, "forerun": 1}


def test_weights_keep_name_and_layout(model: ir.Model) -> None:
    block = Block()
    for name in ("q.weight", "k.weight", "out.weight", "out.bias"):
        np.testing.assert_array_equal(
            model.graph.initializers[name].const_value.numpy(), block.get_parameter(name).detach().numpy()
        )


def test_ends_are_named_and_shaped(model: ir.Model) -> None:
    shapes = {
        value.name: [str(dim) if not isinstance(dim, int) else dim for dim in value.shape]
        for value in [*model.graph.inputs, *model.graph.outputs]
    }
    assert shapes == {
        "x": [1, "T", HIDDEN], "position": [1], "cache.k": [1, GROUPS, CACHE, DIM], "cache.v": [1, GROUPS, CACHE, DIM],
        "y": [1, "T", HIDDEN], "cache.k.out": [1, GROUPS, CACHE, DIM], "cache.v.out": [1, GROUPS, CACHE, DIM],
    }  # fmt: skip


def test_attributes_arrive(model: ir.Model) -> None:
    node = next(node for node in model.graph if node.op_type == "CachedAttention")
    assert dialect.CachedAttention.from_node(node).window == 5
    assert dialect.CachedAttention.from_node(node).mask == "causal"


def test_two_processes_give_equal_bytes() -> None:
    code = (
        "import sys, hashlib; sys.path[:0] = {!r}; import test_tracing, onnx_ir as ir;"
        "print(hashlib.sha256(ir.to_proto(test_tracing.trace()).SerializeToString()).hexdigest())"
    ).format([__file__.rsplit("/", 1)[0], *sys.path])
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    here = hashlib.sha256(ir.to_proto(trace()).SerializeToString()).hexdigest()
    assert other.splitlines()[-1] == here


def test_nothing_of_the_process_is_left(model: ir.Model) -> None:
    text = ir.to_proto(model).SerializeToString()
    for trace_of_ours in (b"site-packages", b"forward", b".py", b"pkg.torch", b"aten", b"/work", b"/home", b"/tmp"):
        assert trace_of_ours not in text


class Writer(torch.nn.Module):
    def forward(self, k, v, k_cache, v_cache, position):
        return tracing.cache_write(k, v, k_cache, v_cache, position)


def test_cache_write_is_one_node() -> None:
    inputs = {"k": torch.randn(1, 2, 3, 8), "v": torch.randn(1, 2, 3, 8), "k_cache": torch.zeros(1, 2, 16, 8),
              "v_cache": torch.zeros(1, 2, 16, 8), "position": torch.tensor([4])}  # fmt: skip
    model = tracing.export(Writer().eval(), inputs, ["a", "b"], {"k": {2: "T"}, "v": {2: "T"}}, name="writer")
    assert [node.op_type for node in model.graph] == ["CacheWrite"]
    found = dialect.evaluate(model, {name: tensor.numpy() for name, tensor in inputs.items()})
    np.testing.assert_array_equal(found["a"][:, :, 4:7], inputs["k"].numpy())
    assert not found["b"][:, :, 7:].any()


class Mixture(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate_up, self.down = (torch.nn.Parameter(torch.randn(shape)) for shape in ((4, 6, 8), (4, 8, 3)))

    def forward(self, hidden, index, weight):
        return tracing.experts(hidden, index, weight, self.gate_up, self.down, activation="silu")


def test_experts_is_one_node() -> None:
    inputs = {"hidden": torch.randn(5, 8), "index": torch.randint(0, 4, (5, 2)), "weight": torch.rand(5, 2)}
    dynamic = {name: {0: "N"} for name in inputs}
    model = tracing.export(Mixture().eval(), inputs, ["y"], dynamic, name="mixture")
    assert [node.op_type for node in model.graph] == ["Experts"]
    assert set(model.graph.initializers) == {"gate_up", "down"}


def test_training_mode_is_refused() -> None:
    with pytest.raises(TraceError, match=r"writer: the module is in training mode; call eval\(\)"):
        tracing.export(Writer().train(), {}, [], {}, name="writer")


class Branch(torch.nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


def test_what_torch_cannot_export_is_named() -> None:
    with pytest.raises(TraceError, match="branch: torch could not export the module: GuardOnDataDependent"):
        tracing.export(Branch().eval(), {"x": torch.ones(3)}, ["y"], {}, name="branch")
