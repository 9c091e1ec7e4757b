"""Recipes: what is read, and the text of every refusal."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from forerun_compiler.errors import RecipeError
from forerun_compiler.manifest import EngineTarget, Override, Precision
from forerun_compiler.recipe import CalibrationChoice, PromptLookup, load_recipe

GOOD = """\
name: tiny
target:
  model: ./target
drafter:
  model: deepseek-ai/dspark_qwen3_4b_block7
  family: dspark
capacity: 256
"""


def write(folder: Path, text: str) -> Path:
    (folder / "target").mkdir(exist_ok=True)
    (folder / "target" / "config.json").write_text("{}")
    path = folder / "recipe.yaml"
    path.write_text(text)
    return path


def test_reads_values_and_defaults(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, GOOD))
    assert recipe.name == "tiny"
    assert (recipe.target.model, recipe.target.is_folder) == (str((tmp_path / "target").resolve()), True)
    assert (recipe.drafter.model, recipe.drafter.is_folder) == ("deepseek-ai/dspark_qwen3_4b_block7", False)
    assert recipe.drafter.family == "dspark"
    assert (recipe.capacity, recipe.draft_len, recipe.prefill_chunk, recipe.prompts) == (256, None, 128, None)
    assert recipe.precision == Precision()
    assert recipe.engines == (EngineTarget("onnxruntime", "cpu"),)
    assert recipe.text == GOOD


def test_reads_every_key(tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text('{"prompt": "x"}\n')
    more = "draft_len: 3\nverify_widths: [2, 4]\nprefill_chunk: 32\nprompts: p.jsonl\n"
    more += "precision: {target: float32, cache: float32}\n"
    recipe = load_recipe(write(tmp_path, GOOD + more + "engines:\n  - {backend: onnxruntime, device: cpu}\n"))
    assert (recipe.draft_len, recipe.prefill_chunk, recipe.verify_widths) == (3, 32, (2, 4))
    assert recipe.prompts == (tmp_path / "p.jsonl").resolve()


def test_prompt_lookup_has_defaults(tmp_path: Path) -> None:
    assert load_recipe(write(tmp_path, GOOD)).prompt_lookup is None
    assert load_recipe(write(tmp_path, GOOD + "prompt_lookup: {}\n")).prompt_lookup == PromptLookup(15, 4)
    some = "prompt_lookup:\n  draft_len: 1\n  match_len: 16\n"
    assert load_recipe(write(tmp_path, GOOD + some)).prompt_lookup == PromptLookup(1, 16)


def test_one_name_is_the_scheme_of_all_linear_layers(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, GOOD + "precision: int8\n"))
    assert recipe.precision == Precision("int8", "int8", "int8", "int8", "float32")


def test_precision_by_part_and_layer(tmp_path: Path) -> None:
    more = (
        "precision:\n  target: int8\n  lm_head: int4\n  overrides:\n"
        "    - {layers: '*.down_proj', scheme: float32}\n    - {layers: drafter.*, scheme: int4-group64}\n"
    )
    recipe = load_recipe(write(tmp_path, GOOD + more))
    overrides = (Override("*.down_proj", "float32"), Override("drafter.*", "int4-group64"))
    assert recipe.precision == Precision("int8", "float32", "int4", "int4", "float32", overrides)
    assert recipe.override_lines == (12, 13)


def test_an_engine_may_emulate(tmp_path: Path) -> None:
    more = (
        "precision: fp8\nengines:\n- {emulate: true, kernels: stock}\n"
        "calibration: {method: absmax, tokens: 64, rounding: nearest}\n"
    )
    recipe = load_recipe(write(tmp_path, GOOD + more))
    assert recipe.engines == (EngineTarget("onnxruntime", "cpu", "stock", emulate=True),)
    assert recipe.calibration == CalibrationChoice(None, "absmax", 64, "nearest")
    assert CalibrationChoice().rounding == "compensated"


def test_paths_are_relative_to_the_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, GOOD)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert load_recipe(Path("../recipe.yaml")).target.model == str((tmp_path / "target").resolve())


def test_a_small_capacity_bounds_the_default_chunk(tmp_path: Path) -> None:
    assert load_recipe(write(tmp_path, GOOD.replace("256", "64"))).prefill_chunk == 64


@pytest.mark.parametrize(
    ("old", "new", "line", "said"),
    [
        ("capacity: 256", "capcity: 256", 7, "capcity: unknown key; did you mean 'capacity'?"),
        ("  family: dspark", "  famly: dspark", 6, "drafter.famly: unknown key; did you mean 'family'?"),
        ("  family: dspark", "  family: eagle9", 6, "drafter.family: 'eagle9' does not exist in this version; choose"),
        ("capacity: 256", "capacity: lots", 7, "capacity: expected a whole number from 16 to 1048576, found the text"),
        (
            "capacity: 256",
            "capacity: true",
            7,
            "capacity: expected a whole number from 16 to 1048576, found true/false",
        ),
        ("capacity: 256", "capacity: 3", 7, "capacity: expected a whole number from 16 to 1048576, found 3"),
        (
            "capacity: 256",
            "capacity: 256\ndraft_len: 65",
            8,
            "draft_len: expected a whole number from 1 to 64, found 65",
        ),
        (
            "capacity: 256",
            "capacity: 256\nprefill_chunk: 257",
            8,
            "prefill_chunk: expected a whole number from 1 to 256",
        ),
        (
            "capacity: 256",
            "capacity: 256\nverify_widths: 8",
            8,
            "verify_widths: expected a list of whole numbers such as [2, 4, 8], found the number 8",
        ),
        (
            "capacity: 256",
            "capacity: 256\nverify_widths: [2, true]",
            8,
            "verify_widths: expected a list of whole numbers such as [2, 4, 8], found a list",
        ),
        (
            "capacity: 256",
            "capacity: 256\nverify_widths: [1, 8]",
            8,
            "verify_widths: expected widths that ascend from 2 or more, found [1, 8]",
        ),
        (
            "capacity: 256",
            "capacity: 256\nverify_widths: []",
            8,
            "verify_widths: expected widths that ascend from 2 or more, found []",
        ),
        (
            "capacity: 256",
            "capacity: 256\nprompt_lookup:",
            8,
            "prompt_lookup: expected a section, found nothing; write {} for its defaults, or remove it",
        ),
        (
            "capacity: 256",
            "capacity: 256\nprompt_lookup: true",
            8,
            "prompt_lookup: expected a section with keys, found true/false True",
        ),
        (
            "capacity: 256",
            "prompt_lookup:\n  draft_len: 64",
            8,
            "prompt_lookup.draft_len: expected a whole number from 1 to 63, found 64",
        ),
        (
            "capacity: 256",
            "prompt_lookup:\n  draft_len: 15\n  match_len: 17",
            9,
            "prompt_lookup.match_len: expected a whole number from 1 to 16, found 17",
        ),
        (
            "capacity: 256",
            "prompt_lookup: {match: 3}",
            7,
            "prompt_lookup.match: unknown key; did you mean 'match_len'? known here: draft_len, match_len",
        ),
        (
            "capacity: 256",
            "engines: [{backend: tensorrt, device: cuda}]\nprompt_lookup: {}",
            8,
            "prompt_lookup: tensorrt on cuda in float16 has no prompt lookup: its rounds keep their draft tokens on "
            "the device; remove this section or that engine",
        ),
        (
            "capacity: 256",
            "prompts: gone.jsonl",
            7,
            "prompts: expected a file with one JSON object a line, found no file",
        ),
        (
            "capacity: 256",
            "precision: {target: fp4}",
            7,
            "precision.target: 'fp4' does not exist in this version; choose",
        ),
        ("capacity: 256", "precision: 8", 7, "precision: expected a section with keys, found the number 8"),
        ("capacity: 256", "precision: nvfp5", 7, "precision: 'nvfp5' does not exist in this version; choose"),
        ("capacity: 256", "precision: {cache: int4}", 7, "precision.cache: 'int4' does not exist in this version"),
        (
            "capacity: 256",
            "precision: {cache: int8}\nengines: [{backend: tensorrt}]",
            7,
            "precision.cache: int8 runs on onnxruntime; tensorrt keeps its caches in the dtype of its engine",
        ),
        (
            "capacity: 256",
            "precision:\n  target: int8\n  drafter: nvfp4",
            9,
            "precision.drafter: nvfp4 runs on tensorrt-rtx, tensorrt; onnxruntime has no kernels for it and can only",
        ),
        (
            "capacity: 256",
            "precision:\n  overrides:\n  - {layers: x, scheme: float32}\n  - {layers: y, scheme: int5}",
            10,
            "precision.overrides[1].scheme: 'int5' does not exist",
        ),
        (
            "capacity: 256",
            "precision:\n  overrides:\n  - {layers: x}",
            9,
            "precision.overrides[0].scheme: expected text, found nothing",
        ),
        ("capacity: 256", "precision: {overrides: {}}", 7, "precision.overrides: expected a list of {layers, scheme}"),
        ("capacity: 256", "calibration: {method: best}", 7, "calibration.method: 'best' does not exist"),
        ("capacity: 256", "calibration: {prompts: gone}", 7, "calibration.prompts: expected a file with one JSON"),
        ("capacity: 256", "engines: []", 7, "engines: expected at least one engine, found none"),
        ("capacity: 256", "engines:\n- {kernels: fast}", 8, "engines[0].kernels: 'fast' does not exist"),
        (
            "capacity: 256",
            "engines:\n- {emulate: 1}",
            8,
            "engines[0].emulate: expected true or false, found the number",
        ),
        ("capacity: 256", "engines:\n- {backend: openvino}", 8, "engines[0].backend: 'openvino' does not exist"),
        (
            "capacity: 256",
            "engines:\n- {backend: tensorrt-rtx, compute_capability: [8.9]}",
            8,
            'engines[0].compute_capability: expected texts such as ["8.9", "12.0"], found the number 8.9; put it in',
        ),
        (
            "capacity: 256",
            "engines:\n- {backend: tensorrt-rtx}",
            8,
            'engines[0].compute_capability: expected a list of texts such as ["8.9", "12.0"], found nothing',
        ),
        (
            "capacity: 256",
            "engines:\n- {backend: tensorrt, kernels: stock}",
            8,
            "engines[0].kernels: tensorrt has no such key, it is of onnxruntime; remove it",
        ),
        (
            "capacity: 256",
            "engines:\n- {backend: tensorrt, dtype: int8}",
            8,
            "engines[0].dtype: 'int8' does not exist in this version; choose one of: float16, bfloat16",
        ),
        (
            "capacity: 256",
            "engines:\n- {backend: tensorrt, precision: int8}",
            8,
            "engines[0].precision: int8 cannot run on tensorrt, which runs: float32, int4,",
        ),
        (
            "capacity: 256",
            "engines:\n- {backend: tensorrt}\n- {backend: tensorrt}",
            9,
            "engines[1].backend: tensorrt on cuda in float16 is listed twice; remove one",
        ),
        (
            "capacity: 256",
            "engines:\n- {backend: onnxruntime, device: gpu}",
            8,
            "engines[0].device: 'gpu' does not exist",
        ),
        (
            "capacity: 256",
            "engines:\n- {}\n- {kernels: stock}",
            9,
            "engines[1].backend: onnxruntime on cpu is listed twice",
        ),
        ("capacity: 256", "engines: cpu", 7, "engines: expected a list of {backend, device}, found the text 'cpu'"),
        ("  model: ./target", "  model: ./targett", 3, "target.model: expected a folder or a hub name"),
        ("  model: ./target", "  model: .", 3, "target.model: expected a checkpoint with a config.json, found none in"),
        (
            "  model: ./target",
            "  model: 7",
            3,
            "target.model: expected text, found the number 7; put the value in quotes",
        ),
        ("name: tiny", "name: a/b", 1, "name: expected letters, digits, '.', '_' and '-' only, found 'a/b'"),
        ("name: tiny", "name: [", 3, "this is not YAML"),
        ("name: tiny", "name: x\nname: y", 2, "this is not YAML: found duplicate key"),
    ],
)
def test_refusals_name_line_key_and_reason(tmp_path: Path, old: str, new: str, line: int, said: str) -> None:
    path = write(tmp_path, GOOD.replace(old, new))
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    assert str(caught.value).startswith(f"{path}:{line}: {said}")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", ":1: expected keys such as 'name:' and 'target:', found nothing"),
        ("- a\n", ":1: expected keys such as 'name:' and 'target:', found a list"),
        ("target: {model: ./target}\n", ":1: name: expected text, found nothing; add this key"),
        ("name: x\ntarget: {model: ./target}\n", ":1: drafter: expected a section, found nothing; add it"),
    ],
)
def test_missing_parts_are_named(tmp_path: Path, text: str, said: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    assert str(caught.value).startswith(f"{path}{said}")


def test_unreadable_recipes(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"gone\.yaml: the recipe cannot be read: No such file"):
        load_recipe(tmp_path / "gone.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"name: \xe9\n")
    with pytest.raises(RecipeError, match="expected UTF-8 text, found byte 0xe9"):
        load_recipe(tmp_path / "latin.yaml")


def test_a_file_with_a_byte_order_mark_and_windows_line_ends(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    path.write_bytes(b"\xef\xbb\xbf" + GOOD.replace("\n", "\r\n").encode())
    assert load_recipe(path).capacity == 256


ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("size", ["4b", "8b"])
def test_the_shipped_recipes_of_real_pairs(size: str) -> None:
    recipe = load_recipe(ROOT / "recipes" / f"qwen3-{size}-dspark.yaml")
    assert (recipe.target.model, recipe.target.is_folder) == (f"Qwen/Qwen3-{size.upper()}", False)
    assert recipe.drafter.model == f"deepseek-ai/dspark_qwen3_{size}_block7"
    assert (recipe.drafter.family, recipe.draft_len) == ("dspark", 7)


def test_the_recipe_of_a_pair_that_is_made_first(tmp_path: Path) -> None:
    """It has the checkpoints where its own first lines put them, and says so where they are missing."""
    text = (ROOT / "recipes/demo-600m-int4.yaml").read_text()
    made = text.split("--size 600m -o ")[1].split()[0]
    path = tmp_path / "recipes/demo-600m-int4.yaml"
    (path.parent / "demo").mkdir(parents=True)
    path.write_text(text)
    for name in ("prompts", "calibration"):
        (path.parent / f"demo/{name}.jsonl").touch()
    with pytest.raises(RecipeError, match=rf"yaml:\d+: target\.model: .* {tmp_path / made}/target; .* the first lines"):
        load_recipe(path)
    for part in ("target", "drafter"):
        (tmp_path / made / part).mkdir(parents=True)
        (tmp_path / made / part / "config.json").touch()
    precision = load_recipe(path).precision
    assert replace(precision, overrides=()) == Precision("int4", "int4", "int8", "int8", cache="int8")
    assert {override.scheme for override in precision.overrides} == {"int8"}
    assert load_recipe(path).prompt_lookup == PromptLookup(15, 4)


def test_the_demo_looks_up_on_a_cpu_and_not_on_a_gpu() -> None:
    assert load_recipe(ROOT / "recipes/demo.yaml").prompt_lookup == PromptLookup(15, 4)
    for name in ("demo-float32", "demo-tensorrt"):
        assert load_recipe(ROOT / f"recipes/{name}.yaml").prompt_lookup is None


def test_the_documented_keys_are_those_that_exist(tmp_path: Path) -> None:
    """Every key of the table in recipes/README.md is accepted, and every accepted key is in the table."""
    rows = [line.split("`")[1] for line in (ROOT / "recipes" / "README.md").read_text().splitlines() if "| `" in line]
    documented = {row.split(".")[0].removesuffix("[]") for row in rows[rows.index("name") : rows.index("prompts") + 1]}
    with pytest.raises(RecipeError) as caught:
        load_recipe(write(tmp_path, GOOD + "x: 1\n"))
    assert documented == set(str(caught.value).split("known here: ")[1].split(", "))


def test_engines_of_gpus(tmp_path: Path) -> None:
    more = (
        "precision: int4\n"
        "engines:\n"
        "- {backend: onnxruntime}\n"
        '- {backend: tensorrt-rtx, compute_capability: ["8.9", "12.0"]}\n'
        "- backend: tensorrt-rtx\n"
        '  compute_capability: ["12.0"]\n'
        "  dtype: bfloat16\n"
        "  precision: {target: nvfp4, overrides: [{layers: '*.0.*', scheme: fp8}]}\n"
    )
    recipe = load_recipe(write(tmp_path, GOOD + more))
    cpu, shared, own = recipe.engines
    assert (cpu.backend, cpu.precision) == ("onnxruntime", None)
    assert (shared.compute_capability, shared.dtype, shared.precision) == (("8.9", "12.0"), "float16", None)
    assert own.dtype == "bfloat16"
    assert own.precision is not None
    assert (own.precision.target, own.precision.drafter) == ("nvfp4", "float32")
    assert recipe.precision.target == "int4"
    assert [len(lines) for lines in recipe.engine_override_lines] == [0, 0, 1]
