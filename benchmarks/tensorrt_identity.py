"""Whole greedy generations of the graph that TensorRT gets, on the CPU provider of ONNX Runtime, against the CPU's own.

    python benchmarks/tensorrt_identity.py recipes/demo.yaml --generations 64 --tokens 128

Both are lowered from one trace of the recipe's models, in float32; with --dtype float16 the TensorRT graph is the one
that its engine is built from. Caches are bound in place, prompts are read in runs padded as on a GPU, and the tokens
and the position of every next run are those that the graph itself gives back. Exits with 1 if a float32 token differs.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from result_files import machine_name, versions, write_results

from forerun_compiler.checkpoint_files import read_tokenizer
from forerun_compiler.manifest import EngineTarget, Precision
from forerun_compiler.ort_session import open_session
from forerun_compiler.pipeline import LinkedGraphs, link_recipe, lower_linked
from forerun_compiler.prompts import BUILT_IN, read_prompts
from forerun_compiler.recipe import Recipe, load_recipe
from forerun_compiler.schemes import TENSORRT_RTX

Array = npt.NDArray[Any]
DTYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(int64)": np.int64}


@dataclass(frozen=True)
class Figures:
    """Generations compared, those whose tokens are equal, tokens in all, rounds of both, and where the others part."""

    dtype: str
    generations: int
    equal: int
    tokens: int
    equal_tokens: int
    rounds: int
    rounds_of_cpu_graph: int
    first_differences: tuple[int, ...]


class Rounds:
    """A round graph and its states, each in one buffer that is input and output."""

    def __init__(self, model: ir.Model, folder: Path, threads: int) -> None:
        from onnxruntime import OrtValue

        file = folder / f"{len(list(folder.iterdir()))}.onnx"
        ir.save(model, file, external_data=f"{file.stem}.bin", size_threshold_bytes=1024)
        self.session = open_session(file, threads)
        self.results = [value for value in self.session.get_outputs() if not value.name.endswith(".out")]
        self.width = next(int(value.shape[1]) for value in self.results if value.name == "committed")
        self.feeds_back = any(value.name == "next_tokens" for value in self.results)
        written = {value.name for value in self.session.get_outputs()}
        self.states = {
            value.name: OrtValue.ortvalue_from_numpy(np.zeros(value.shape, DTYPES[value.type]))
            for value in self.session.get_inputs()
            if f"{value.name}.out" in written
        }

    def run(self, tokens: Array, n_known: int, n_draft: int, position: int) -> dict[str, Array]:
        binding = self.session.io_binding()
        numbers = {"n_known": n_known, "n_draft": n_draft, "position": position}
        feeds: dict[str, Array] = {name: np.array([number]) for name, number in numbers.items()}
        feeds |= {"tokens": tokens, "temperature": np.zeros(1, np.float32)}
        feeds["uniform"] = np.zeros((1, 2 * self.width), np.float32)
        for name, array in feeds.items():
            binding.bind_cpu_input(name, array)
        for value in self.results:
            binding.bind_output(value.name, "cpu")
        for name, state in self.states.items():
            binding.bind_ortvalue_input(name, state)
            binding.bind_ortvalue_output(f"{name}.out", state)
        self.session.run_with_iobinding(binding)
        arrays = [value.numpy() for value in binding.get_outputs()[: len(self.results)]]
        return dict(zip([value.name for value in self.results], arrays, strict=True))

    def generate(self, prompt: Sequence[int], count: int, chunk: int) -> tuple[list[int], int]:
        """Return the tokens, and how many rounds they took; prompts are read in runs of `chunk` tokens, padded."""
        position, tokens, rounds = 0, list[int](), 0
        row, known, drafts = np.zeros((1, 0), np.int64), 0, 0
        for start in range(0, len(prompt), chunk):
            part = prompt[start : start + chunk]
            row, known = np.array([[*part, *[0] * (chunk - len(part))]]), len(part)
            out = self.run(row, known, 0, position)
            row, position = self._following(out, position + known)
        known, drafts = 1, self.width - 1
        tokens += committed(out)
        while len(tokens) < count:
            out = self.run(row, known, drafts, position)
            row, position = self._following(out, position + known)
            tokens += committed(out)
            rounds += 1
        return tokens[:count], rounds

    def _following(self, out: dict[str, Array], position: int) -> tuple[Array, int]:
        """The next run's tokens and position: the graph's own where it has them."""
        if self.feeds_back:
            return out["next_tokens"], int(out["next_position"][0])
        own = out["committed"][:, int(out["n_accepted"][0])][:, None]
        return np.concatenate([own, out["draft_tokens"]], axis=1), position + int(out["n_accepted"][0])


def committed(out: dict[str, Array]) -> list[int]:
    found: list[int] = out["committed"][0, : int(out["n_accepted"][0]) + 1].tolist()
    return found


def compare(recipe: Recipe, linked: LinkedGraphs, dtype: Any, prompts: Sequence[Sequence[int]], count: int) -> Figures:
    width = linked.facts.draft_len + 1
    chunk = -(-linked.facts.prefill_chunk // width) * width
    gpu = EngineTarget(backend=TENSORRT_RTX, dtype=dtype)
    with tempfile.TemporaryDirectory(prefix="forerun-identity-") as folder:
        ours, theirs = (
            Rounds(lower_linked(linked, Precision(), engine, lambda _: None).round, Path(folder), threads=1)
            for engine in (gpu, EngineTarget())
        )
        differences, equal_tokens, rounds = list[int](), 0, [0, 0]
        for number, prompt in enumerate(prompts):
            (found, first), (wanted, second) = (each.generate(prompt, count, chunk) for each in (ours, theirs))
            rounds = [rounds[0] + first, rounds[1] + second]
            same = next((i for i, pair in enumerate(zip(found, wanted, strict=True)) if pair[0] != pair[1]), count)
            equal_tokens += same
            differences += [same] if same < count else []
            print(f"\r{number + 1} of {len(prompts)}, {len(differences)} differ", end="", file=sys.stderr)
    print(file=sys.stderr)
    total = len(prompts)
    return Figures(
        dtype, total, total - len(differences), total * count, equal_tokens, rounds[0], rounds[1], tuple(differences)
    )


def encoded(recipe: Recipe, count: int, longest: int) -> list[list[int]]:
    """Tokens of `count` texts: the recipe's prompts, each whole and then without its first words."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(read_tokenizer(recipe.target).tokenizer)
    texts = read_prompts(recipe.prompts) if recipe.prompts else BUILT_IN
    found = [tokenizer.encode(text).ids[:longest] for text in texts]
    found += [ids[cut:] for cut in (3, 7, 13, 21, 34) for ids in found if len(ids) > cut + 4]
    if len(found) < count:
        raise SystemExit(f"{recipe.path}: its prompts give {len(found)} texts, {count} were asked for")
    return found[:count]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--generations", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--dtype", nargs="+", choices=("float32", "float16"), default=["float32", "float16"])
    arguments = parser.parse_args()
    recipe = replace(load_recipe(arguments.recipe), prompt_lookup=None)  # of which a GPU has none
    linked = link_recipe(recipe, lambda stage: print(stage, file=sys.stderr))
    # Padded prefill, the longest generation and its last round must fit the caches of a recipe without a GPU.
    longest = linked.facts.capacity - 2 * linked.facts.prefill_chunk - arguments.tokens
    prompts = encoded(recipe, arguments.generations, longest)
    found = [compare(recipe, linked, dtype, prompts, arguments.tokens) for dtype in arguments.dtype]
    command = f"python benchmarks/tensorrt_identity.py {arguments.recipe} --generations {arguments.generations}"
    command += f" --tokens {arguments.tokens}"
    report = {"command": command, "machine": machine_name(1), "versions": versions()}
    lines = [
        "# The graph for TensorRT against the CPU's graph, greedy, on one CPU",
        "",
        f"`{command}`",
        "",
        f"{machine_name(1)}; {json.dumps(versions())}",
        "",
        "| dtype | generations | equal | tokens | equal before the first other | rounds | rounds of the CPU graph |",
        "|---|---|---|---|---|---|---|",
    ]
    for each in found:
        numbers = (each.generations, each.equal, each.tokens, each.equal_tokens, each.rounds, each.rounds_of_cpu_graph)
        lines.append(f"| {each.dtype} | {' | '.join(map(str, numbers))} |")
    text = json.dumps(report | {"figures": [asdict(each) for each in found]}, indent=1) + "\n"
    base = write_results(f"tensorrt-identity-{linked.facts.name}", 1, text, "\n".join(lines) + "\n")
    print("\n".join(lines[6:]), f"\n{base}.md")
    if any(each.dtype == "float32" and each.equal < each.generations for each in found):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
