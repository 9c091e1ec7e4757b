"""Opening and closing: damaged bundles are refused by name, and a closed engine says so."""

import importlib.metadata
import os
import pickle
import threading
from pathlib import Path

import pytest

import forerun
from table_bundle import EOS, VOCAB_SIZE, TableBundle, make_table_bundle


def test_facts_are_those_of_the_manifest(engine: forerun.Engine) -> None:
    facts = engine.facts
    assert (facts.name, facts.target_architecture, facts.drafter_family) == ("table", "TableForCausalLM", "table")
    assert (facts.vocab_size, facts.draft_len, facts.block_size, facts.capacity) == (VOCAB_SIZE, 4, 4, 200)
    assert (facts.prefill_chunk, facts.eos_token_ids, facts.bos_token_id) == (8, (EOS,), None)
    assert (facts.backend, facts.threads) == ("onnxruntime", 1)
    assert repr(engine) == "<forerun.Engine table: TableForCausalLM + table, onnxruntime on cpu>"


def test_version_is_that_of_the_header_and_of_the_distribution() -> None:
    assert forerun.__version__ == importlib.metadata.version("forerun")
    header = Path(__file__).parents[2] / "runtime" / "include" / "forerun.h"
    assert f'#define FORERUN_VERSION "{forerun.__version__}"' in header.read_text(encoding="utf-8")


def test_threads_default_to_the_processors_of_this_process(bundle: TableBundle) -> None:
    with forerun.load(bundle.path) as engine:
        assert engine.facts.threads == len(os.sched_getaffinity(0))


@pytest.mark.parametrize("threads", [0, -1, 1.0, True, 10**12])
def test_threads_are_checked(bundle: TableBundle, threads: int) -> None:
    with pytest.raises(forerun.ForerunError, match=r"threads: expected 1 \.\. 1024 or None"):
        forerun.load(bundle.path, threads=threads)


def test_the_library_variable_is_read_by_load(bundle: TableBundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORERUN_ONNXRUNTIME", "/nowhere/libonnxruntime.so")
    with pytest.raises(forerun.ForerunError, match="FORERUN_ONNXRUNTIME names /nowhere"):
        forerun.load(bundle.path)


def test_a_file_that_is_no_library_is_refused(bundle: TableBundle, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.so"
    wrong.write_text("no library", encoding="utf-8")
    with pytest.raises(forerun.ForerunError, match=r"wrong\.so") as caught:
        forerun.load(bundle.path, library=wrong)
    assert caught.value.status == "backend error"


def test_a_folder_that_is_missing_or_no_bundle_is_named(tmp_path: Path) -> None:
    with pytest.raises(forerun.ForerunError, match="nothing-here") as caught:
        forerun.load(tmp_path / "nothing-here")
    assert caught.value.status == "file error"
    with pytest.raises(forerun.ForerunError, match=r"manifest\.json"):
        forerun.load(tmp_path)


FILES = (
    "manifest.json",
    "round.onnx",
    "plain.onnx",
    "weights.bin",
    "tokenizer.json",
    "vocab.bin",
    "chat_template.jinja",
)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["flipped", "truncated", "missing", "longer"])
def test_a_damaged_file_is_refused_by_name(fresh: TableBundle, name: str, damage: str) -> None:
    path = fresh.path / name
    data = bytearray(path.read_bytes())
    if damage == "flipped":
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    elif damage == "truncated":
        path.write_bytes(data[:-1])
    elif damage == "longer":
        path.write_bytes(data + b"\0")
    else:
        path.unlink()
    with pytest.raises(forerun.ForerunError, match=name.replace(".", r"\.")) as caught:
        forerun.load(fresh.path)
    assert caught.value.status in ("bundle error", "file error")


def test_a_file_of_another_build_is_refused_by_name(fresh: TableBundle, tmp_path: Path) -> None:
    other = make_table_bundle(tmp_path / "other", ends=True)
    (fresh.path / "weights.bin").write_bytes((other.path / "weights.bin").read_bytes())
    with pytest.raises(forerun.ForerunError, match=r"weights\.bin"):
        forerun.load(fresh.path)


def test_a_template_that_the_manifest_does_not_list_is_not_read(tmp_path: Path) -> None:
    bundle = make_table_bundle(tmp_path / "bare", chat=False)
    (bundle.path / "chat_template.jinja").write_text("planted", encoding="utf-8")
    with forerun.load(bundle.path) as engine, pytest.raises(forerun.ForerunError, match="has no chat template"):
        engine.generate([{"role": "user", "content": "a"}])


def test_a_closed_engine_says_so(bundle: TableBundle) -> None:
    with forerun.load(bundle.path, threads=1) as engine:
        stream = engine.generate("abc", stream=True)
        next(stream)
    engine.close()
    for call in (lambda: engine.generate("abc"), lambda: next(stream), lambda: engine.decode([1])):
        with pytest.raises(forerun.ForerunError, match="the engine is closed") as caught:
            call()
        assert caught.value.status == "invalid state"


def test_two_engines_run_beside_each_other(bundle: TableBundle, ending_bundle: TableBundle) -> None:
    with forerun.load(bundle.path, threads=1) as first, forerun.load(ending_bundle.path, threads=1) as second:
        streams = [engine.generate("xyza", stream=True, max_new_tokens=40) for engine in (first, second)]
        texts = ["", ""]
        while any(chunks := [next(stream, "") for stream in streams]):
            texts = [text + chunk for text, chunk in zip(texts, chunks, strict=True)]
    assert texts[0].startswith(texts[1])
    assert texts[1] == "bcé-d漢(e)🙂fgh!"


def test_generations_of_several_threads_are_refused_or_right(engine: forerun.Engine) -> None:
    """Eight threads race for one engine: each gets the right text or the refusal."""
    outcomes: list[str] = []

    def work() -> None:
        for _ in range(20):
            try:
                outcomes.append(engine.generate("xyza", max_new_tokens=20).text)
            except forerun.ForerunError as error:
                outcomes.append(error.status)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(outcomes) == 160
    assert set(outcomes) - {"invalid state"} == {"bcé-d漢(e)🙂fgh!"}


def test_an_error_survives_pickling() -> None:
    error = pickle.loads(pickle.dumps(forerun.ForerunError("bundle error", "weights.bin: wrong")))
    assert (error.status, str(error)) == ("bundle error", "weights.bin: wrong")
