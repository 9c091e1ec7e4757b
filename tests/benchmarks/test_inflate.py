"""Inflated pairs compute what the small ones do: the target's logits, the drafter's tokens and confidences."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import inflate
import pytest
import torch
from inflated_weights import Size
from safetensors import safe_open
from tokenizers import Tokenizer

import dspark_reference
import tiny_drafters
import tiny_models
from forerun_compiler.errors import BundleError, CheckpointError, ResourceError
from forerun_compiler.recipe import load_recipe
from forerun_compiler.resources import Machine
from forerun_compiler.schemes import SCHEMES

DEMO = inflate.DEMO
TINY = Size(hidden=256, heads=8, kv_heads=4, mlp=160, layers=5)
"""Of the tiny models: hidden 64, 4/2 heads of 16, MLP 96, 3 layers."""
TOLERANCE = 3e-5
"""Of float32 logits up to 20: zeros in a sum change its order, nothing else (seen: 1.2e-5)."""


def _save_tiny(folder: Path, head: str = "rnn") -> tuple[Path, Path]:
    target = tiny_models.save_target(folder / "tiny-target")
    return target, tiny_drafters.save_dspark(folder / "tiny-drafter", target, head=head)


def _inflate(target: Path, drafter: Path, output: Path, size: Size = TINY, *, all_schemes: bool = False) -> Path:
    inflate.inflate(target, drafter, DEMO / "prompts.jsonl", output, size, "inflated-tiny", all_schemes)
    return output


def _model(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@torch.no_grad()
def _logits(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    return model(tokens, use_cache=False).logits[0]


def _rounds(target: Any, drafter: Path, prompt: list[int], count: int) -> list[dspark_reference.Round]:
    """Greedy rounds of plain PyTorch, of the pair itself and not of its compiled form."""
    reference = dspark_reference.Drafter(drafter)
    uniforms = [[0.0] * 16] * count
    return list(dspark_reference.rounds(target, reference, prompt, draft_len=7, temperature=0.0, uniforms=uniforms))


def _assert_equal_rounds(found: list[dspark_reference.Round], expected: list[dspark_reference.Round]) -> None:
    assert [one.committed for one in found] == [one.committed for one in expected]
    assert [one.draft_tokens for one in found] == [one.draft_tokens for one in expected]
    for one, other in zip(found, expected, strict=True):
        assert one.draft_confidence == pytest.approx(other.draft_confidence, abs=TOLERANCE)


def _parameters(folder: Path) -> int:
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        return sum(file.get_tensor(name).numel() for name in file.keys())  # noqa: SIM118 - not a mapping


@pytest.fixture(scope="module")
def inflated_demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    size = Size(hidden=1024, heads=8, kv_heads=4, mlp=1024, layers=12)
    return _inflate(DEMO / "target", DEMO / "drafter", tmp_path_factory.mktemp("inflated") / "demo", size)


def test_the_demo_target_keeps_its_logits_and_the_drafter_its_drafts(inflated_demo: Path) -> None:
    small, large = _model(DEMO / "target"), _model(inflated_demo / "target")
    text = json.loads((DEMO / "prompts.jsonl").read_text().splitlines()[0])["prompt"]
    prompt = Tokenizer.from_file(str(DEMO / "target/tokenizer.json")).encode(text).ids[:48]
    tokens = torch.tensor([prompt])
    expected = _logits(small, tokens)
    assert float(expected.abs().max()) > 5
    torch.testing.assert_close(_logits(large, tokens), expected, rtol=0, atol=TOLERANCE)
    expected_rounds = _rounds(small, DEMO / "drafter", prompt, 4)
    assert any(one.n_accepted for one in expected_rounds)
    _assert_equal_rounds(_rounds(large, inflated_demo / "drafter", prompt, 4), expected_rounds)


@pytest.mark.parametrize("head", tiny_drafters.HEADS)
def test_every_markov_head_keeps_its_drafts(tmp_path: Path, head: str) -> None:
    target, drafter = _save_tiny(tmp_path, head)
    output = _inflate(target, drafter, tmp_path / "large")
    prompt = [100, 101, 102, 40, 120, 41]
    expected = _rounds(_model(target), drafter, prompt, 3)
    _assert_equal_rounds(_rounds(_model(output / "target"), output / "drafter", prompt, 3), expected)


def test_new_mlp_rows_stay_below_the_largest_old_one(inflated_demo: Path) -> None:
    """So that a scale by row, as int8 takes it, is that of the small model."""
    model = _model(inflated_demo / "target")
    seen: list[torch.Tensor] = []
    for layer in model.model.layers[:10]:
        layer.mlp.down_proj.register_forward_pre_hook(lambda _, given: seen.append(given[0][0].abs()))
    _logits(model, torch.arange(5, 400, 7)[None])
    assert len(seen) == 10
    for rows in seen:
        assert bool((rows[:, 768:].amax(-1) > 0).all())
        assert bool((rows[:, 768:].amax(-1) < rows[:, :768].amax(-1)).all())


def test_counts_are_those_of_the_files(inflated_demo: Path) -> None:
    config = json.loads((inflated_demo / "target/config.json").read_text())
    size = Size(1024, 8, 4, 1024, 12)
    assert inflate.count_target(config, size) == _parameters(inflated_demo / "target")
    dspark = inflate.parse_config(json.loads((DEMO / "drafter/config.json").read_text()), "demo")
    assert inflate.count_drafter(dspark, size) == _parameters(inflated_demo / "drafter")


@pytest.mark.parametrize(("name", "millions"), [("120m", 120), ("600m", 600)])
def test_sizes_have_the_parameters_of_their_names(name: str, millions: int) -> None:
    config = json.loads((DEMO / "target/config.json").read_text())
    assert inflate.count_target(config, inflate.SIZES[name]) / 1e6 == pytest.approx(millions, rel=0.03)


def test_equal_arguments_give_equal_bytes(tmp_path: Path) -> None:
    target, drafter = _save_tiny(tmp_path)
    digests = []
    for name in ("one", "two"):
        folder = _inflate(target, drafter, tmp_path / name, all_schemes=True)
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        digests.append({str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files})
    assert digests[0] == digests[1]
    assert {"target/tokenizer.json", "pair.yaml", "int8.yaml", "drafter/config.json"} <= set(digests[0])


def test_recipes_name_their_scheme(tmp_path: Path) -> None:
    folder = _inflate(*_save_tiny(tmp_path), tmp_path / "large", all_schemes=True)
    assert load_recipe(folder / "pair.yaml").target.model == str(folder / "target")
    for scheme in SCHEMES:
        assert load_recipe(folder / f"{scheme}.yaml").precision.target == scheme
    for scheme in ("int8", "int4"):
        recipe = load_recipe(folder / f"{scheme}-stock.yaml")
        assert (recipe.precision.target, recipe.engines[0].kernels) == (scheme, "stock")


def test_an_earlier_pair_is_replaced_and_anything_else_kept(tmp_path: Path) -> None:
    pair = _save_tiny(tmp_path)
    output = _inflate(*pair, tmp_path / "large")
    (output / "stale").write_text("")
    _inflate(*pair, output)
    assert not (output / "stale").exists()
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.txt").write_text("")
    with pytest.raises(BundleError, match=r"expected nothing, an empty folder or an earlier inflated pair"):
        _inflate(*pair, other)
    assert [path.name for path in other.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (Size(128, 8, 4, 160, 5), "times a power of four"),
        (Size(96, 8, 4, 160, 5), "times a power of four"),
        (Size(256, 8, 2, 160, 5), "must keep the group size 2"),
        (Size(256, 8, 4, 95, 5), "expected no size below that of the small model"),
    ],
)
def test_a_size_that_would_change_the_function_is_refused(tmp_path: Path, size: Size, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        _inflate(*_save_tiny(tmp_path), tmp_path / "large", size)
    assert not (tmp_path / "large").exists()


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    target = tiny_models.save_target(tmp_path / "llama", "llama")
    with pytest.raises(CheckpointError, match=r"expected architectures \['Qwen3ForCausalLM'\], found \['LlamaFor"):
        _inflate(target, _save_tiny(tmp_path)[1], tmp_path / "large")


@pytest.mark.parametrize(("machine", "what"), [(Machine(1 << 40, 1000), "disk"), (Machine(1000, 1 << 40), "memory")])
def test_a_machine_that_is_too_small_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, machine: Machine, what: str
) -> None:
    monkeypatch.setattr(inflate, "this_machine", lambda output: machine)
    with pytest.raises(ResourceError, match=what):
        _inflate(*_save_tiny(tmp_path), tmp_path / "large")
    assert not [path for path in tmp_path.iterdir() if "large" in path.name]


def test_a_failed_run_leaves_the_earlier_pair_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = _save_tiny(tmp_path)
    output = _inflate(*pair, tmp_path / "large")
    before = sorted(path.name for path in tmp_path.iterdir())

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(inflate, "_write_drafter", fail)
    with pytest.raises(OSError, match="disk full"):
        _inflate(*pair, output)
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    assert (output / "drafter/model.safetensors").is_file()
