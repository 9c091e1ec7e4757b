"""Checkpoints with the demo pair's function and a larger model's cost, for benchmarks: acceptance stays what it is.

    python benchmarks/inflate.py --size 120m -o /tmp/pair-120m
    python benchmarks/inflate.py --size 600m -o /tmp/pair-600m --schemes   # and a recipe for each scheme

Writes FOLDER/target (a plain Qwen3 checkpoint that any engine can run), FOLDER/drafter and FOLDER/pair.yaml.
`inflated_weights.py` says how the function is kept. The drafter becomes as wide as the target and keeps its three
layers (published drafters have five such layers beside 36). Equal arguments give equal bytes.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import inflated_weights
from inflated_weights import Growth, Size
from safetensors.torch import load_file, save_file
from scheme_recipes import CANDIDATES, PairFiles, recipe_text

from forerun_compiler.drafters.dspark_checkpoint import DSparkConfig, parse_config
from forerun_compiler.errors import BundleError, CheckpointError, ForerunError, ResourceError
from forerun_compiler.resources import in_gib, this_machine
from forerun_compiler.schemes import DENSE

DEMO = Path(__file__).parent.parent / "recipes/demo"
SIZES = {
    "120m": Size(hidden=1024, heads=8, kv_heads=4, mlp=2048, layers=15),
    "600m": Size(hidden=1024, heads=32, kv_heads=16, mlp=3072, layers=38),
}
CAPACITY = 1024
"""Of the recipes: the demo's prompts and answers are below 600 tokens, and a token's cache of 600m is 304 KiB."""
MARK = "inflated.json"
"""Written last into a finished folder: what made it, and that it may be replaced."""
_BYTES, _BASE_RAM = 2, 1 << 30
"""A bfloat16 weight; torch with the small pair, and the largest tensor as float32 noise."""


@dataclass(frozen=True)
class Source:
    """A pair as it was read: raw configurations, tensors by their stored names, and the drafter's parsed sizes."""

    target: Path
    drafter: Path
    target_config: dict[str, Any]
    drafter_config: dict[str, Any]
    dspark: DSparkConfig


def inflate(target: Path, drafter: Path, prompts: Path, output: Path, size: Size, name: str, all_schemes: bool) -> None:
    """Write the pair in `target` and `drafter` at `size` to `output`, in one piece.

    Raises:
        CheckpointError: not a Qwen3 target with a DSpark drafter, or a size that the function cannot be kept at.
        BundleError: `output` holds something that this program did not write.
        ResourceError: memory or disk does not suffice.
    """
    _check_output(output)
    source = _read(target, drafter)
    growth = _growth(source, size)
    _check_fits(source, growth, output)
    output.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{output.name}.inflate-", dir=output.parent))
    try:
        _write_target(source, growth, staging / "target")
        _write_drafter(source, growth, staging / "drafter")
        shutil.copy(prompts, staging / "prompts.jsonl")
        write_recipes(name, staging, all_schemes)
        (staging / MARK).write_text(_mark(size))
        staging.chmod(0o755)  # mkdtemp's own is for the owner alone
        earlier = staging.with_name(f"{staging.name}.old")
        if output.exists():
            output.rename(earlier)
        staging.rename(output)
        shutil.rmtree(earlier, ignore_errors=True)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def inflate_demo(size: str, output: Path, all_schemes: bool = False) -> None:
    """Write the demo pair at one of SIZES to `output`; see `inflate`."""
    files = (DEMO / name for name in ("target", "drafter", "prompts.jsonl"))
    inflate(*files, output, SIZES[size], f"inflated-{size}", all_schemes)


def is_made(size: str, output: Path) -> bool:
    """Whether `output` is the demo pair at this size, as this version makes it."""
    return (output / MARK).is_file() and (output / MARK).read_text() == _mark(SIZES[size])


def count_target(config: dict[str, Any], size: Size) -> int:
    """Parameters of a Qwen3 target of this size; a tied embedding counts once."""
    width, vocab = int(config["head_dim"]), int(config["vocab_size"])
    attention = 2 * size.hidden * (size.heads + size.kv_heads) * width + 2 * width
    layer = attention + 3 * size.hidden * size.mlp + 2 * size.hidden
    heads = 1 if config["tie_word_embeddings"] else 2
    return heads * vocab * size.hidden + size.layers * layer + size.hidden


def count_drafter(config: DSparkConfig, size: Size) -> int:
    """Parameters of the drafter beside a target of this size, its copies of embedding and LM head included."""
    grown = replace(
        config, hidden_size=size.hidden, num_heads=size.heads, num_kv_heads=size.kv_heads, intermediate_size=size.mlp
    )
    return sum(math.prod(shape) for shape in grown.tensor_shapes(size.hidden).values())


def _mark(size: Size) -> str:
    mark = {"made_by": "benchmarks/inflate.py", "seed": inflated_weights.SEED, "size": vars(size)}
    return json.dumps(mark, indent=2) + "\n"


def _check_output(output: Path) -> None:
    if not output.exists() or (output.is_dir() and ((output / MARK).is_file() or not any(output.iterdir()))):
        return
    raise BundleError(
        f"{output}: expected nothing, an empty folder or an earlier inflated pair (with {MARK}), found something else "
        "that would be deleted; choose another output folder or remove it yourself"
    )


def _read(target: Path, drafter: Path) -> Source:
    configs = []
    for folder, architecture in ((target, "Qwen3ForCausalLM"), (drafter, "Qwen3DSparkModel")):
        path = folder / "config.json"
        if not path.is_file():
            raise CheckpointError(f"{path}: expected a checkpoint's configuration, found none; give a complete folder")
        config = json.loads(path.read_text(encoding="utf-8"))
        if config.get("architectures") != [architecture]:
            raise CheckpointError(
                f"{path}: expected architectures [{architecture!r}], found {config.get('architectures')}; "
                "only Qwen3 targets with DSpark drafters in the DeepSpec layout can be inflated"
            )
        if config.get("attention_bias"):
            raise CheckpointError(f"{path}: expected attention_bias false, found true; such pairs cannot be inflated")
        configs.append(config)
    return Source(target, drafter, configs[0], configs[1], parse_config(configs[1], str(drafter)))


def _growth(source: Source, size: Size) -> Growth:
    """Check that the pair has one size, and that the function can be kept at the new one."""
    old, dspark, where = size_of(source.target_config), source.dspark, source.target
    of_drafter = Size(
        dspark.hidden_size, dspark.num_heads, dspark.num_kv_heads, dspark.intermediate_size, old.layers
    )  # fmt: skip
    if of_drafter != old or dspark.head_dim != source.target_config["head_dim"]:
        raise CheckpointError(f"{source.drafter}: expected the widths of its target, {old}, found {of_drafter}")
    ratio = size.hidden // old.hidden
    if size.hidden % old.hidden or math.log(max(ratio, 1), 4) % 1:
        raise CheckpointError(
            f"{where}: hidden size {size.hidden} must be that of the small model, {old.hidden}, times a power of four: "
            "only then norms are scaled by a power of two, which is exact"
        )
    if size.heads * old.kv_heads != old.heads * size.kv_heads:
        raise CheckpointError(
            f"{where}: {size.heads} heads with {size.kv_heads} key-value heads must keep the group size "
            f"{old.heads // old.kv_heads}, or the old heads would read other keys"
        )
    if any(vars(size)[key] < value for key, value in vars(old).items()):
        raise CheckpointError(f"{where}: expected no size below that of the small model, {old}; found {size}")
    return Growth(old, size, dspark.head_dim)


def size_of(config: dict[str, Any]) -> Size:
    """The size that a target's configuration states."""
    return Size(
        config["hidden_size"],
        config["num_attention_heads"],
        config["num_key_value_heads"],
        config["intermediate_size"],
        config["num_hidden_layers"],
    )


def _check_fits(source: Source, growth: Growth, output: Path) -> None:
    target, drafter = count_target(source.target_config, growth.new), count_drafter(source.dspark, growth.new)
    disk, ram, machine = _BYTES * (target + drafter), _BASE_RAM + _BYTES * target, this_machine(output)
    if disk > machine.disk:
        raise ResourceError(
            f"{output}: the pair needs {in_gib(disk)} of disk space, {in_gib(machine.disk)} are free there; "
            "free some space or choose another output folder"
        )
    if ram > machine.ram:
        raise ResourceError(
            f"making the pair needs {in_gib(ram)} of memory, {in_gib(machine.ram)} are available; "
            "end other programs or choose a smaller size"
        )


def _write_target(source: Source, growth: Growth, folder: Path) -> None:
    config = source.target_config | _changed(source.target_config, growth)
    config |= {
        "num_hidden_layers": growth.new.layers,
        "layer_types": ["full_attention"] * growth.new.layers,
        "max_window_layers": growth.new.layers,
    }
    tensors = inflated_weights.grow_target(_load(source.target), growth)
    _write_checkpoint(folder, config, tensors)
    for path in source.target.glob("*"):
        if path.name != "config.json" and path.suffix in (".json", ".jinja", ".txt"):
            shutil.copy(path, folder)


def _write_drafter(source: Source, growth: Growth, folder: Path) -> None:
    changed = _changed(source.drafter_config, growth) | {"num_target_layers": growth.new.layers}
    dspark = source.dspark
    tensors = inflated_weights.grow_drafter(_load(source.drafter), growth, len(dspark.taps), dspark.markov_rank)
    _write_checkpoint(folder, source.drafter_config | changed, tensors)


def _changed(config: dict[str, Any], growth: Growth) -> dict[str, Any]:
    return {
        "hidden_size": growth.new.hidden,
        "num_attention_heads": growth.new.heads,
        "num_key_value_heads": growth.new.kv_heads,
        "intermediate_size": growth.new.mlp,
        "rms_norm_eps": config["rms_norm_eps"] / growth.ratio,
    }


def _load(folder: Path) -> dict[str, Any]:
    return {name: tensor for path in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(path).items()}


def _write_checkpoint(folder: Path, config: dict[str, Any], tensors: dict[str, Any]) -> None:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def write_recipes(name: str, folder: Path, all_schemes: bool) -> None:
    """pair.yaml in float32 beside the checkpoints in `folder`; with `all_schemes` one recipe for each scheme."""
    pair = PairFiles(name, "./target", "./drafter", "./prompts.jsonl", CAPACITY)
    (folder / "pair.yaml").write_text(recipe_text(pair, CANDIDATES[DENSE]))
    for candidate in CANDIDATES.values() if all_schemes else ():
        (folder / f"{candidate.name}.yaml").write_text(recipe_text(pair, candidate))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, required=True, help="parameters of the target")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--schemes", action="store_true", help="also write one recipe for each quantization scheme")
    asked = parser.parse_args()
    output, size = asked.output.absolute(), SIZES[asked.size]
    try:
        inflate_demo(asked.size, output, asked.schemes)
    except ForerunError as error:
        sys.exit(f"error: {error}")
    config = json.loads((DEMO / "target/config.json").read_text())
    print(f"{output}: a target of {count_target(config, size) / 1e6:.1f} M parameters, its drafter and pair.yaml")


if __name__ == "__main__":
    main()
