"""The comparison with other engines, from made-up answers and from a process that answers without a model."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest
import torch
from made_from import fingerprint
from noised_draft_model import ACCEPTANCE, Noised, add_noise, as_good_as_the_drafter, bisect, committed_per_round
from peers_best import Standing, find_standings, standing_lines
from peers_chart import draw_chart
from peers_environments import PeerError, llama_flags, run_step
from peers_figures import Agreement, Figures, Rate, agree, decode_rate, make_figures, ratio_to, whole_rate
from peers_measure import Settings
from peers_models import DEMO_TARGET, NOISED, Converter
from peers_plan import IDEAL, PROCESSES, Drafting, Host, Wish, left_in
from peers_process import PeerProcess
from peers_prompts import cut_texts, spread
from peers_report import readable, without_folders, write_report
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


def test_prompts_are_spread_over_all() -> None:
    pieces = [[number] for number in range(10)]
    parts = spread(pieces, 4)
    assert [part[0] for part in parts] == [[0], [2], [5], [7]]
    assert [piece for part in parts for piece in part] == pieces
    assert [len(part) for part in spread(pieces, 96)] == [1] * 10


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


def test_a_bundle_says_what_was_looked_up_and_planned(tmp_path: Path) -> None:
    state = State(tmp_path / "state.json", {}, is_fresh=True)
    run = _run(0, 0, *({**_generation([1, 2, 3], 3.0, 1.0), "looked_up": 1} for _ in range(2)))
    state.parts |= _parts() | {
        "runs": {"forerun/int8/speculative": [run]},
        "facts": {"forerun/int8/speculative": FACTS | {"is_planned": False}},
    }
    table = write_report(state, SETTINGS, "python benchmarks/peers.py", is_written=False)
    assert "| 1.00 | 50% |" in table
    assert "- forerun/int8 verifies every draft: its bundle has no costs of this machine" in table
    assert "2 prompts, spread evenly over all held-out ones, of 7 to 9 tokens" in table


def test_the_chart_draws_what_ran_fastest_first() -> None:
    chart = draw_chart(make_figures(_parts(), "forerun/int8", [*_parts()["runs"], "llama.cpp/q4_0/DSpark"]), "a < b")
    assert "a &lt; b" in chart
    assert chart.index("forerun · int8") < chart.index("transformers · float32")
    assert "DSpark" not in chart


def _row(row: str, rate: float, bits: float, kl: float | None = None) -> Figures:
    return Figures(row, decode=Rate(rate, rate, rate), bits_per_weight=bits, kl=kl)


def test_the_best_peer_is_found_over_all_and_at_our_bits() -> None:
    figures = [
        _row("forerun/int4/plain", 30.0, 4.25, 0.02), _row("forerun/int4/speculative", 80.0, 4.25, 0.02),
        _row("llama.cpp/q4_0/plain", 40.0, 4.5, 0.03), _row("openvino/int4/plain", 20.0, 4.254),
        _row("transformers/bfloat16/compiled", 5.0, 16.0, 0.01), _row("llama.cpp/q4_0/prompt lookup", 40.0, 4.5),
        _row(f"llama.cpp/q4_0/{Drafting(DEMO_TARGET, 7).way}", 90.0, 4.5),
    ]  # fmt: skip
    found = find_standings(figures, {row.row: [] for row in figures})
    assert found == [
        Standing("plain", "forerun/int4/plain", False, "llama.cpp/q4_0/plain", 0.75),
        Standing("plain", "forerun/int4/plain", True, "openvino/int4/plain", 1.5),
        Standing("speculative", "forerun/int4/speculative", False, "llama.cpp/q4_0/prompt lookup", 2.0),
        Standing("speculative", "forerun/int4/speculative", True, None, None),
    ]
    plain, speculative, divergence = standing_lines(figures, found)
    assert "llama.cpp/q4_0/plain**, 40.0 tokens/s at 4.50 bits a weight; forerun/int4/plain is 0.75 times" in plain
    assert plain.endswith("forerun/int4/plain (4.25): **openvino/int4/plain**, 20.0 tokens/s at 4.25 bits a weight; "
                          "forerun/int4/plain is 1.50 times as fast.")  # fmt: skip
    assert speculative.endswith("forerun/int4/speculative (4.25): none.")
    assert divergence == "- KL of four-bit weights: forerun/int4 0.0200, llama.cpp/q4_0 0.0300."


def test_a_standing_is_of_the_same_turns_where_there_are_any() -> None:
    parts = _parts()
    figures = make_figures(parts, "forerun/int8", list(parts["runs"]))
    overall, _ = find_standings(figures, parts["runs"])
    assert overall.ratio == pytest.approx(2.0)


def test_the_ideal_draft_model_is_an_outline_in_the_chart() -> None:
    row = _row(f"llama.cpp/q4_0/{Drafting(DEMO_TARGET, 7).way}", 9.0, 4.5)
    assert IDEAL in row.row
    assert IDEAL not in Drafting(NOISED, 7).way
    count = "stroke-dasharray"
    assert draw_chart([row], "x").count(count) == 1 + draw_chart([_row("llama.cpp/q4_0/plain", 9.0, 4.5)], "x").count(
        count
    )


def test_folders_of_this_machine_are_not_shown() -> None:
    assert without_folders(f"int4={Path.cwd()}/artifacts/demo") == "int4=artifacts/demo"
    assert (
        without_folders("File '/opt/some.where/lib-1/x.py', 3 tokens/s of a/b/c") == "File 'x.py', 3 tokens/s of a/b/c"
    )
    assert readable("cannot open\n  /opt/models/a.gguf") == "cannot open a.gguf"


def test_a_round_ends_at_the_first_wrong_draft_or_when_all_are_right() -> None:
    right, wrong = True, False
    assert committed_per_round([[right, right, wrong, right, right]], 7) == pytest.approx(5 / 2)
    assert committed_per_round([[right] * 8], 3) == pytest.approx(8 / 2)
    assert committed_per_round([[wrong] * 4, [right] * 4], 3) == pytest.approx(8 / 5)


def test_bisection_finds_the_level_of_an_acceptance() -> None:
    found = bisect(lambda level: 8.0 - 7.0 * level, 4.5)
    assert found == Noised(pytest.approx(0.5, abs=1e-3), pytest.approx(4.5, abs=1e-2))


def test_the_draft_model_is_as_good_as_the_drafter_that_was_measured(tmp_path: Path) -> None:
    assert as_good_as_the_drafter().acceptance == ACCEPTANCE
    (tmp_path / "model.safetensors").write_bytes(b"trained longer")
    with pytest.raises(PeerError, match=r"expected the weights of SHA-256 8c5f.*run schemes.py"):
        as_good_as_the_drafter(tmp_path)


def test_a_conversion_is_made_again_from_other_weights(tmp_path: Path) -> None:
    checkpoint, made = tmp_path / "checkpoint", list[str]()
    checkpoint.mkdir()

    def convert(text: str) -> Path:
        (checkpoint / "model.safetensors").write_text(text)

        def write(staging: Path, log: Path) -> None:
            made.append(text)
            staging.write_text(text)

        return Converter(tmp_path, tmp_path / "models", 1)._make(tmp_path / "models/model.gguf", [checkpoint], write)

    for text in ("first", "first", "second", "second"):
        path = convert(text)
        assert path.read_text() == text
        assert fingerprint(path) == fingerprint(checkpoint)
    assert made == ["first", "second"]


def test_noise_is_on_matrices_and_in_their_type() -> None:
    clean = {"matrix": torch.ones(2, 2, dtype=torch.bfloat16), "norm": torch.ones(2)}
    noised = add_noise(clean, {"matrix": torch.full((2, 2), 2.0)}, 0.25)
    assert noised["matrix"].dtype == torch.bfloat16
    assert torch.equal(noised["matrix"].float(), torch.full((2, 2), 1.5))
    assert noised["norm"] is clean["norm"]


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


def test_what_is_left_out_leaves_a_bundle_to_compare_with() -> None:
    bundle = Wish("forerun", "int4", ("plain", "speculative, drafter alone"), dict)
    peer = Wish("llama.cpp", "q4_0", ("plain", "draft model, 7 a round"), dict)
    assert left_in([bundle, peer], ["draft model"]) == [bundle]
    with pytest.raises(ValueError, match=r"keep a bundle of forerun's.*'draft'.*forerun/int4/plain"):
        left_in([bundle, peer], ["draft"])


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
