"""The comparison with other engines, from made-up answers and from a process that answers without a model."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest
from peers_chart import draw_chart
from peers_environments import PeerError, llama_flags, run_step
from peers_figures import Agreement, Figures, Rate, agree, decode_rate, make_figures, ratio_to, whole_rate
from peers_measure import Settings
from peers_plan import PROCESSES, Host
from peers_process import PeerProcess
from peers_prompts import cut_texts
from peers_report import write_report
from peers_state import State

SETTINGS = Settings("demo", 2, 2, 3, 1, 100, 8.0)
FACTS = {"linear_bytes": 100, "linear_parameters": 200, "draft_bytes": 10, "file_bytes": 120, "versions": {"x": "1"}}


def _generation(
    tokens: list[int], seconds: float, first: float, rounds: int | None = 2, passes: int | None = 0
) -> dict[str, object]:
    return {
        "tokens": tokens, "seconds": seconds, "first_seconds": first, "first_tokens": 1, "rounds": rounds,
        "draft_passes": passes,
    }  # fmt: skip


def _run(group: int, repeat: int, *generations: dict[str, object]) -> dict[str, object]:
    return {"group": group, "repeat": repeat, "prompts": list(generations)}


def _parts() -> dict[str, dict[str, object]]:
    ours = [_run(0, 0, _generation([1, 2, 3], 3.0, 1.0), _generation([4, 5, 6], 3.0, 1.0))]
    theirs = [_run(0, 0, _generation([1, 2, 9], 5.0, 1.0, 2, 4), _generation([4, 5, 6], 5.0, 1.0, 2, 4))]
    return {
        "runs": {"forerun/int8/plain": ours, "transformers/float32/plain": theirs},
        "failures": {"llama.cpp/q4_0/DSpark": "an unsupported head"},
        "facts": {"forerun/int8/plain": FACTS, "transformers/float32/plain": FACTS},
        "divergence": {"forerun/int8": {"kl": 0.25, "perplexity": 9.0}},
        "idle": {"forerun/int8/plain+speculative": 0.5},
        "bandwidth": {"bytes_per_s": 1000.0, "buffer_bytes": 1 << 30, "threads": 2},
        "prompts": {"tokens": [7, 9]},
    }  # fmt: skip


def test_rates_leave_out_what_came_with_the_prompt() -> None:
    run = _run(0, 0, _generation([1, 2, 3], 3.0, 1.0), _generation([4, 5], 1.5, 0.5))
    assert decode_rate(run) == pytest.approx(3 / 3.0)
    assert whole_rate(run) == pytest.approx(5 / 4.5)


def test_a_ratio_is_of_runs_of_one_turn() -> None:
    slow, fast = _generation([1, 2, 3], 5.0, 1.0), _generation([1, 2, 3], 2.0, 1.0)
    first = [_run(0, 0, fast), _run(1, 0, slow)]
    assert ratio_to([_run(1, 0, fast)], first) == pytest.approx(4.0)
    assert ratio_to([_run(2, 0, fast)], first) is None


def test_agreement_counts_tokens_until_the_first_difference() -> None:
    assert agree([[1, 2, 3], [1, 9, 3]], [[1, 2, 3], [1, 2, 3]]) == Agreement(2.0, 1, 2)
    assert agree([[1, 2]], [[1, 2, 3]]) == Agreement(2.0, 0, 1)


def test_figures_of_a_row_that_ran_and_of_one_that_did_not() -> None:
    ran, failed = make_figures(_parts(), "forerun/int8", ["transformers/float32/plain", "llama.cpp/q4_0/DSpark"])
    assert ran.decode == Rate(0.5, 0.5, 0.5)
    assert ran.ratio == pytest.approx(0.5)
    assert ran.bits_per_weight == pytest.approx(4.0)
    assert ran.tokens_per_round == pytest.approx(1.0)
    assert ran.bytes_per_token == pytest.approx((4 * 100 + 8 * 10) / 4)
    assert ran.bound_share == pytest.approx(120 * 0.5 / 1000)
    assert failed == Figures("llama.cpp/q4_0/DSpark", failure="an unsupported head")


def test_bytes_are_unknown_where_a_drafter_ran_uncounted() -> None:
    parts = _parts()
    parts["runs"]["transformers/float32/plain"] = [_run(0, 0, _generation([1, 2, 3], 5.0, 1.0, 2, None))]
    (row,) = make_figures(parts, "forerun/int8", ["transformers/float32/plain"])
    assert row.bytes_per_token is None
    assert row.bound_share is None
    assert row.tokens_per_round == pytest.approx(1.0)


def test_the_table_has_every_row_and_every_reason(tmp_path: Path) -> None:
    state = State(tmp_path / "state.json", {}, is_fresh=True)
    state.parts |= _parts()
    table = write_report(state, SETTINGS, "python benchmarks/peers.py", is_written=False)
    lines = [line for line in table.split("\n") if line.startswith("| ")]
    assert [line.split(" | ")[0].strip("| ") for line in lines[2:]] == ["forerun", "transformers", "llama.cpp"]
    assert len({line.count("|") for line in lines}) == 1
    assert "| **1.0** | 1.0 to 1.0 | 1.00 |" in lines[2]
    assert "| 3.0; 2 of 2 | 0.2500 |" not in lines[2]
    assert "| 2.5; 1 of 2 | 0.2500 |" in lines[2]
    assert "- llama.cpp/q4_0/DSpark: an unsupported head" in table


def test_the_chart_draws_what_ran_fastest_first() -> None:
    chart = draw_chart(make_figures(_parts(), "forerun/int8", [*_parts()["runs"], "llama.cpp/q4_0/DSpark"]), "a < b")
    assert "a &lt; b" in chart
    assert chart.index("forerun · int8") < chart.index("transformers · float32")
    assert "DSpark" not in chart


def test_a_state_goes_on_only_with_the_same_settings(tmp_path: Path) -> None:
    path = tmp_path / "results/state.json"
    State(path, {"tokens": 3}, is_fresh=False).add_run("a/b/plain", 0, 0, [])
    assert State(path, {"tokens": 3}, is_fresh=False).next_group() == 1
    assert State(path, {"tokens": 4}, is_fresh=False).runs == {}
    assert State(path, {"tokens": 3}, is_fresh=True).runs == {}


def test_what_failed_is_forgotten_when_it_is_tried_again(tmp_path: Path) -> None:
    state = State(tmp_path / "state.json", {}, is_fresh=True)
    state.fail(["a/b/plain", "a/b/draft model"], "no memory")
    state.forgive(["a/b/plain"])
    assert state.failures == {"a/b/draft model": "no memory"}


def test_texts_are_cut_to_the_tokens_asked_for() -> None:
    assert cut_texts([[1, 2, 3], [4], [5, 6, 7]], 5) == [[1, 2, 3], [5, 6]]
    assert cut_texts([[1, 2, 3]], 0) == []


def test_matrix_units_are_left_out_of_llama() -> None:
    assert llama_flags(frozenset({"avx512f", "avx512_vnni"})) == ["-DGGML_NATIVE=ON"]
    flags = llama_flags(frozenset({"avx512f", "avx512_vnni", "amx_int8"}))
    assert {"-DGGML_NATIVE=OFF", "-DGGML_AVX512_VNNI=ON", "-DGGML_AVX512_BF16=OFF"} <= set(flags)
    assert not any("AMX" in flag for flag in flags)


def test_a_failed_step_says_its_last_line(tmp_path: Path) -> None:
    with pytest.raises(PeerError, match=r"^not to be had$"):
        run_step([sys.executable, "-c", "import sys; print('first'); sys.exit('not to be had')"], tmp_path / "log")
    assert "first" in (tmp_path / "log").read_text(encoding="utf-8")


ECHO = """
import sys
from protocol import Generated, Weights, serve

class Echo:
    def __init__(self, options):
        if options["model"] == "missing":
            raise FileNotFoundError("no model")
    def versions(self):
        return {"echo": "1"}
    def weights(self):
        return Weights(1, 2)
    def generate(self, way, prompt, new_tokens):
        print("noise on standard output")
        if way == "dies":
            sys.exit(3)
        return Generated(prompt[:new_tokens], 2.0, 1.0)

serve(Echo)
"""


@pytest.fixture
def echo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A peer whose file is beside the protocol's; returns where its log goes."""
    folder = tmp_path / "processes"
    folder.mkdir()
    protocol = Path(sys.modules["peers_process"].__file__ or "").parent / "peer_processes/protocol.py"
    (folder / "protocol.py").write_text(protocol.read_text(encoding="utf-8"), encoding="utf-8")
    (folder / "echo.py").write_text(ECHO, encoding="utf-8")
    monkeypatch.setattr("peers_process._FOLDER", folder)
    monkeypatch.setitem(PROCESSES, "echo", "echo.py")
    return tmp_path / "logs/echo.log"


def _host(model: str = "any") -> Host:
    return Host("echo", "none", ("plain",), {"model": model, "threads": 1})


def _becomes_stopped(process: Path) -> bool:
    """A signal takes a moment."""
    for _ in range(200):
        if (process / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] == "T":
            return True
        time.sleep(0.05)
    return False


def test_a_process_answers_and_is_stopped_in_between(echo: Path) -> None:
    with PeerProcess(_host(), Path(sys.executable), echo) as process:
        assert process.versions == {"echo": "1"}
        answer = process.ask(do="generate", way="plain", prompt=[5, 6, 7], new_tokens=2)
        assert answer["tokens"] == [5, 6]
        assert process.ask(do="weights")["linear_parameters"] == 2
        (folder,) = process._group()
        assert _becomes_stopped(folder)
        assert process.memory_bytes() > 0
        assert process.idle_cores(0.1) < 0.5
    assert process._group() == []


def test_a_process_that_fails_or_dies_gives_a_reason(echo: Path) -> None:
    with pytest.raises(PeerError, match="FileNotFoundError: no model"):
        PeerProcess(_host("missing"), Path(sys.executable), echo)
    with PeerProcess(_host(), Path(sys.executable), echo) as process:
        with pytest.raises(PeerError, match=r"AttributeError.*logits"):
            process.ask(do="logits", text=[1], file="unused")
        with pytest.raises(PeerError, match=r"exit code 3; see echo\.log"):
            process.ask(do="generate", way="dies", prompt=[1], new_tokens=1)
