"""The command line: output, JSON keys, exit codes, and that no traceback reaches anybody."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import tiny_bundles
from forerun.machine import Machine
from forerun_compiler import build as building
from forerun_compiler import cli, errors, exit_codes
from forerun_compiler.bundle import read_manifest, write_bundle
from forerun_compiler.precision_map import LayerPrecision, render_precision_map
from forerun_compiler.proof import prove
from forerun_compiler.proof.quality import Quality
from forerun_compiler.tuning.tune import Candidate, Settings, Tried, Tuning
from table_bundle import TableBundle, make_table_bundle, reseal


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> TableBundle:
    return make_table_bundle(tmp_path_factory.mktemp("bundles") / "table")


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    def fill(staging: Path) -> Any:
        tiny_bundles.write_files(staging)
        return tiny_bundles.manifest()

    write_bundle(tmp_path / "tiny", fill)
    return tmp_path / "tiny"


def execute(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = cli.execute([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return code, captured.out, captured.err


def test_importing_the_command_line_imports_click_only() -> None:
    heavy = "torch transformers onnx onnx_ir onnxruntime numpy rich pydantic ruamel tokenizers huggingface_hub forerun"
    code = f"import sys, forerun_compiler.cli; sys.exit(' '.join(set({heavy!r}.split()) & set(sys.modules)) or 0)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (found.returncode, found.stderr) == (0, "")


@pytest.mark.parametrize("command", ["build", "run", "inspect", "verify", "bench", "tune"])
def test_every_command_has_help_with_an_example_and_its_keys(capsys: pytest.CaptureFixture[str], command: str) -> None:
    code, out, _ = execute(capsys, command, "--help")
    assert code == 0
    assert f"Example:  build-engine {command} " in out
    assert "JSON:     " in out


def test_the_help_lists_every_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = execute(capsys, "--help")
    assert code == 0
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.ForerunError)]
    others = {0, 2, exit_codes.RUNTIME_ERROR, exit_codes.INTERRUPTED, exit_codes.TERMINATED}
    numbers = {kind.exit_code for kind in kinds} | others
    listed = out[out.index("Exit codes:") :].split()
    assert numbers <= {int(word) for word in listed if word.isdecimal()}


@pytest.mark.parametrize("arguments", [["nonsense"], ["build"], ["run", "x", "--seed", "-1"], ["bench", "x", "--oops"]])
def test_wrong_use_is_2(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    code, out, err = execute(capsys, *arguments)
    assert (code, out) == (2, "")
    assert "Error: " in err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(capsys, "--version")[:2] == (0, "build-engine, version 0.1.0\n")


def test_run_streams_the_text_and_keeps_statistics_apart(
    capsys: pytest.CaptureFixture[str], table: TableBundle
) -> None:
    code, out, err = execute(capsys, "run", table.path, "-p", "abc", "-n", 14, "--threads", 1)
    assert (code, out) == (0, "abcé-d漢(e)🙂\n")
    assert err.startswith("14 tokens in ")
    assert "acceptance length " in err


def test_run_as_json(capsys: pytest.CaptureFixture[str], table: TableBundle) -> None:
    code, out, err = execute(capsys, "run", table.path, "-p", "abc", "-n", 9, "--stop", "(", "--json")
    found = json.loads(out)
    assert (code, err) == (0, "")
    assert list(found) == ["text", "tokens", "finish_reason", "statistics"]
    assert (found["text"], found["finish_reason"]) == ("é-d漢", "stop")
    assert found["statistics"]["acceptance_length"] > 1


def test_run_reads_the_prompt_from_standard_input(
    capsys: pytest.CaptureFixture[str], table: TableBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    import io

    monkeypatch.setattr(sys, "stdin", io.StringIO("ab"))
    assert execute(capsys, "run", table.path, "-p", "-", "-n", 3)[1] == "abcé\n"


def test_run_compares(capsys: pytest.CaptureFixture[str], table: TableBundle) -> None:
    code, out, err = execute(capsys, "run", table.path, "-p", "abc", "-n", 14, "--compare")
    assert (code, out) == (0, "abcé-d漢(e)🙂\n")
    for part in ("acceptance length", "plain", "speculative", "ratio", "output             equal"):
        assert part in err
    found = json.loads(execute(capsys, "run", table.path, "-p", "abc", "-n", 14, "--compare", "--json")[1])
    assert list(found) == ["text", "tokens", "finish_reason", "statistics", "plain", "equal", "speedup"]
    assert found["equal"] is True
    assert found["plain"]["tokens"] == found["tokens"]
    assert found["speedup"] > 0


def test_compare_is_of_speculative_decoding(capsys: pytest.CaptureFixture[str], table: TableBundle) -> None:
    code, _, err = execute(capsys, "run", table.path, "-p", "x", "--compare", "--decoding", "plain")
    assert code == 2
    assert "--compare compares speculative with plain decoding; leave out plain" in err


def test_run_as_chat(capsys: pytest.CaptureFixture[str], table: TableBundle) -> None:
    code, out, _ = execute(capsys, "run", table.path, "--chat", "-p", "abc", "-n", 3)
    assert code == 0
    assert not out.startswith("abc")


def test_run_refusals(capsys: pytest.CaptureFixture[str], table: TableBundle, tmp_path: Path) -> None:
    code, _, err = execute(capsys, "run", table.path, "-p", "a" * 300, "-n", 3)
    assert code == exit_codes.RUNTIME_ERROR
    assert err.startswith("error: ")
    assert len(err.strip().splitlines()) == 1
    damaged = make_table_bundle(tmp_path / "damaged").path
    (damaged / "weights.bin").write_bytes(b"x")
    code, _, err = execute(capsys, "run", damaged, "-p", "a")
    assert code == errors.BundleError.exit_code
    assert "weights.bin" in err
    no_graph = make_table_bundle(tmp_path / "no-graph").path
    (no_graph / "round.onnx").write_bytes(b"no graph at all")
    reseal(no_graph)
    code, _, err = execute(capsys, "run", no_graph, "-p", "a")
    assert code == errors.EngineError.exit_code
    assert "round.onnx: " in err


def test_inspect(capsys: pytest.CaptureFixture[str], tiny: Path) -> None:
    code, out, err = execute(capsys, "inspect", tiny)
    assert (code, err) == (0, "")
    for part in ("Qwen3ForCausalLM from ../target", "weights.bin", "none yet: run verify", "name: tiny"):
        assert part in out
    found = json.loads(execute(capsys, "inspect", tiny, "--json")[1])
    stored = json.loads((tiny / "manifest.json").read_text())
    stored.pop("seal")
    assert found == stored
    assert execute(capsys, "inspect", tiny, "--check")[0] == 0


def test_inspect_refuses(capsys: pytest.CaptureFixture[str], tiny: Path, tmp_path: Path) -> None:
    (tiny / "weights.bin").write_bytes(b"x")
    assert execute(capsys, "inspect", tiny)[0] == 0
    code, out, err = execute(capsys, "inspect", tiny, "--check")
    assert (code, out) == (8, "")
    assert err.startswith(f"error: {tiny / 'weights.bin'}: expected 10240 bytes, found 1")
    assert execute(capsys, "inspect", tmp_path / "gone")[0] == 8


def test_inspect_precision(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    rows = (
        LayerPrecision("target.q_proj", "target", "int8", 10, 11, 0.01, None),
        LayerPrecision("target.norm", "target", "float32", 2, 8, None, "no linear layer"),
    )

    def fill(staging: Path) -> Any:
        tiny_bundles.write_files(staging)
        (staging / "precision.json").write_bytes(render_precision_map(rows))
        return tiny_bundles.manifest()

    write_bundle(tmp_path / "tiny", fill)
    code, out, err = execute(capsys, "inspect", tmp_path / "tiny", "--precision")
    assert (code, err) == (0, "")
    assert "target  target.q_proj  int8" in out
    assert "no linear layer" in out
    found = json.loads(execute(capsys, "inspect", tmp_path / "tiny", "--precision", "--check", "--json")[1])
    assert list(found) == ["bytes", "totals", "layers"]
    assert found["bytes"] == 19
    assert list(found["totals"][0]) == ["part", "scheme", "layers", "parameters", "bytes", "share"]
    assert found["layers"][0] == {
        **{"layer": "target.q_proj", "part": "target", "scheme": "int8", "parameters": 10, "bytes": 11},
        **{"sensitivity": 0.01, "reason": None, "rounding": None},
    }
    map_file = tmp_path / "tiny" / "precision.json"
    map_file.write_bytes(map_file.read_bytes().replace(b"11", b"12"))
    code, out, err = execute(capsys, "inspect", tmp_path / "tiny", "--precision")
    assert (code, out) == (8, "")
    assert err.startswith(f"error: {map_file}: expected SHA-256 ")


def test_inspect_precision_of_a_bundle_without_a_map(capsys: pytest.CaptureFixture[str], tiny: Path) -> None:
    code, out, err = execute(capsys, "inspect", tiny, "--precision")
    assert (code, out) == (8, "")
    assert err.startswith(f"error: {tiny / 'manifest.json'}: expected precision.json among the files, found none;")


FOUND = Tuning(
    machine=Machine("cpu", 2, 1, "onnxruntime 1"),
    tried=(Tried("drafter", "float32", "float32", 3.0, 100.0, 30_000.0),),
    chosen=Candidate("int8", "float32"),
    target="int8",
    lm_head="int8",
    quality=Quality(0.5, 3.0, 2.0, 7),
    held_out=True,
    prompts=2,
    tokens=9,
)


def test_tune(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[tuple[Path, Path, Settings, Path]] = []

    def found(recipe: Path, output: Path, settings: Settings, progress: Any, cache: Path) -> Tuning:
        asked.append((recipe, output, settings, cache))
        progress("build candidates: drafter", 0, 1)
        return FOUND

    monkeypatch.setattr("forerun_compiler.tuning.tune_command.tune_recipe", found)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    arguments = ("tune", "r.yaml", "-o", "n.yaml", "--prompts", 2, "--tokens", 9, "--threads", 1)
    code, out, err = execute(capsys, *arguments)
    assert (code, err) == (0, "build candidates: drafter ...\n")
    assert out.endswith("chosen: drafter int8, drafter_lm_head float32\nwrote n.yaml\n")
    assert asked == [(Path("r.yaml"), Path("n.yaml"), Settings(2, 9, 1), tmp_path / "forerun" / "calibrations")]
    result = json.loads(execute(capsys, *arguments, "--json")[1])
    assert list(result) == [
        *("recipe", "machine", "tried", "chosen", "target", "lm_head", "quality", "held_out", "prompts", "tokens")
    ]
    assert (result["recipe"], result["chosen"]) == ("n.yaml", {"drafter": "int8", "drafter_lm_head": "float32"})
    assert list(result["tried"][0]) == [
        *("step", "drafter", "drafter_lm_head", "acceptance_length", "round_us", "tokens_per_s")
    ]
    assert result["quality"] == {"kl": 0.5, "perplexity": 3.0, "reference_perplexity": 2.0, "tokens": 7}
    execute(capsys, "tune", "r.yaml", "--in-place")
    assert asked[-1][:3] == (Path("r.yaml"), Path("r.yaml"), Settings())


@pytest.mark.parametrize("arguments", [[], ["-o", "n.yaml", "--in-place"]])
def test_tune_must_be_told_where_to_write(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    code, _, err = execute(capsys, "tune", "r.yaml", *arguments)
    assert code == 2
    assert "say where the tuned recipe goes: either -o FILE or --in-place" in err


def test_tune_errors_are_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, out, err = execute(capsys, "tune", tmp_path / "gone.yaml", "--in-place")
    assert (code, out) == (3, "")
    assert err.startswith(f"error: {tmp_path / 'gone.yaml'}: the recipe cannot be read")


def test_verify_exit_code_and_json(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = make_table_bundle(tmp_path / "table")
    monkeypatch.setattr(prove, "_open_source", lambda manifest, folder: None)
    code, out, err = execute(capsys, "verify", bundle.path, "--tokens", 8, "--json")
    found = json.loads(out)
    assert code == errors.ProofError.exit_code
    assert err.splitlines() == ["check files ...", "greedy identity ...", "planned decoding ..."]
    assert (found["lossless"], found["guarantee"], found["greedy_prompts"]) == (False, "bit-identical", 1)
    assert found["chi_square_p"] is None
    proof = read_manifest(bundle.path).proof
    assert proof is not None
    assert len(proof.not_run) == 2
    code, out, _ = execute(capsys, "inspect", bundle.path)
    assert "not proven" in out
    assert "not run: chi-square test: the source checkpoint table is not there" in out


def test_bench_json(capsys: pytest.CaptureFixture[str], table: TableBundle) -> None:
    code, out, _ = execute(capsys, "bench", table.path, "--tokens", 20, "--threads", 1, "--json")
    found = json.loads(out)
    assert code == 0
    assert list(found) == [
        *("plain", "speculative", "plain_cost_us", "verify_cost_us", "planning", "speedup", "machine"),
        *("prompts", "tokens", "temperature", "seed"),
    ]
    assert list(found["plain"]) == ["tokens_per_s", "round_us"]
    assert list(found["speculative"]) == [
        *("tokens_per_s", "acceptance_length", "acceptance_per_position", "verified_width", "plain_share"),
        *("looked_up_share", "looked_up_accepted", "round_us", "session_us", "loop_us"),
    ]
    assert list(found["verify_cost_us"]) == ["2", "3", "4", "5"]
    assert found["planning"] is True
    text = execute(capsys, "bench", table.path, "--tokens", 20, "--threads", 1)[1]
    for part in ("plan ", "acceptance length", "speedup", "round by rows"):
        assert part in text


def test_build_errors_are_one_line_with_the_code_of_their_class(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "bad.yaml").write_text("name: x\ntargt: {}\n")
    code, out, err = execute(capsys, "build", tmp_path / "bad.yaml", "-o", tmp_path / "out")
    assert (code, out) == (3, "")
    assert err.startswith(f"error: {tmp_path / 'bad.yaml'}:2: targt: unknown key; did you mean 'target'?")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("debug", [False, True])
def test_an_unexpected_error_shows_the_way_to_its_traceback(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, debug: bool
) -> None:
    def explode(recipe: Path, output: Path) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("forerun_compiler.recipe.load_recipe", lambda path: None)
    monkeypatch.setattr(building, "plan_build", explode)
    arguments = ["build", "r.yaml", "-o", str(tmp_path / "out")]
    if debug:
        with pytest.raises(ZeroDivisionError):
            cli.execute(["--debug", *arguments])
        return
    code, _, err = execute(capsys, *arguments)
    assert (code, err) == (
        1,
        "error: unexpected ZeroDivisionError: a bug; for the traceback: build-engine --debug ...\n",
    )


def test_an_interrupt_is_130(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tiny: Path) -> None:
    def interrupt(folder: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("forerun_compiler.bundle.read_manifest", interrupt)
    code, _, err = execute(capsys, "inspect", tiny)
    assert (code, err) == (130, "\ninterrupted\n")


def test_output_into_a_closed_pipe_is_no_error(table: TableBundle) -> None:
    code = f"from forerun_compiler.cli import main; import sys; sys.argv[1:] = ['inspect', {str(table.path)!r}]; main()"
    command = f"{sys.executable} -c {json.dumps(code)} | true; exit ${{PIPESTATUS[0]}}"
    found = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert (found.returncode, found.stderr) == (0, "")


def test_a_terminated_command_removes_its_temporary_files(tmp_path: Path) -> None:
    code = f"""
import os, signal, sys, tempfile
from forerun_compiler import cli, recipe
def load(path):
    with tempfile.TemporaryDirectory(dir={str(tmp_path)!r}) as folder:
        print(folder, flush=True)
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("still there")
recipe.load_recipe = load
sys.argv[1:] = ["build", "r.yaml", "-o", "b"]
cli.main()
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (found.returncode, found.stderr) == (exit_codes.TERMINATED, "")
    assert found.stdout.startswith(str(tmp_path))
    assert list(tmp_path.iterdir()) == []
