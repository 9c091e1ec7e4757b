"""Measurements of a real bundle of tables: counts are exact, times are only positive."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import forerun
from forerun.machine import Machine, cpu_name
from forerun_compiler.bundle import CostRow, check_bundle, read_manifest
from forerun_compiler.errors import BundleError
from forerun_compiler.measure import Settings, bench_bundle
from table_bundle import WRONG, TableBundle, make_table_bundle

SETTINGS = Settings(prompts=3, tokens=30, threads=1, planning=False)


@pytest.fixture
def bundle(tmp_path: Path) -> TableBundle:
    return make_table_bundle(tmp_path / "table")


def test_counts_come_from_the_generation(bundle: TableBundle) -> None:
    stages: list[str] = []
    bench = bench_bundle(bundle.path, SETTINGS, False, lambda stage, done, total: stages.append(stage))
    assert (bench.prompts, bench.tokens) == (1, 29)
    expected = committed_by_round(bundle, 29)
    assert bench.speculative.acceptance_length == pytest.approx(29 / len(expected), rel=1e-12)
    shares = [sum(count > slot + 1 for count in expected) / len(expected) for slot in range(bundle.draft_len)]
    # The last round is cut by the number of tokens, so it may have accepted one more than it shows.
    assert bench.speculative.acceptance_per_position == pytest.approx(shares, abs=1 / len(expected))
    assert bench.plain.tokens_per_s > 0
    assert bench.speedup > 0
    assert bench.speculative.round_us >= bench.speculative.session_us > 0
    assert bench.speculative.loop_us >= 0
    assert (bench.speculative.looked_up_share, bench.speculative.looked_up_accepted) == (0.0, 0.0)
    assert (bench.speculative.verified_width, bench.speculative.plain_share) == (bundle.draft_len + 1, 0.0)
    assert list(bench.verify_cost_us) == ["2", "3", "4", "5"]
    assert min(bench.plain_cost_us, *bench.verify_cost_us.values()) > 0
    assert set(stages) == {"generate", "cost of a round"}
    assert read_manifest(bundle.path).cost == ()


def test_widths_that_only_lookups_fill_are_measured_and_counted(tmp_path: Path) -> None:
    bundle = make_table_bundle(tmp_path / "table", lookup_len=9)
    bench = bench_bundle(bundle.path, replace(SETTINGS, tokens=60), True, lambda *step: None)
    assert list(bench.verify_cost_us) == ["2", "3", "4", "5", "10"]
    assert len(bench.speculative.acceptance_per_position) == 9
    assert 0 < bench.speculative.looked_up_share < 1
    assert bench.speculative.looked_up_accepted > 4
    with forerun.load(bundle.path, threads=1) as engine:
        assert engine.facts.has_costs


def committed_by_round(bundle: TableBundle, count: int) -> list[int]:
    """How many tokens each round commits after the prompt "abc" and one token more, from the script alone."""
    script = len("abcé-d漢(e)🙂fgh!".encode())
    place, rounds = 3, []  # the anchor is the fourth byte
    while sum(rounds) < count:
        accepted = 0
        while accepted < bundle.draft_len and (place + accepted) % script not in WRONG:
            accepted += 1
        rounds.append(min(accepted + 1, count - sum(rounds)))
        place += accepted + 1
    return rounds


def test_the_cost_table_is_saved_once_a_machine(bundle: TableBundle) -> None:
    for _ in range(2):
        bench = bench_bundle(bundle.path, SETTINGS, True, lambda *step: None)
    (row,) = check_bundle(bundle.path).cost
    assert (row.fingerprint, dict(row.round_us)) == (bench.machine.fingerprint, bench.verify_cost_us)
    assert row.plain_us > 0


def test_a_saved_table_plans_the_generations_of_this_machine(bundle: TableBundle) -> None:
    with forerun.load(bundle.path, threads=1) as engine:
        assert not engine.facts.has_costs
    bench = bench_bundle(bundle.path, replace(SETTINGS, planning=True), True, lambda *step: None)
    assert bench.planning
    with forerun.load(bundle.path, threads=1) as engine:
        assert engine.facts.has_costs
        planned = engine.generate("abc", max_new_tokens=30)
        fixed = engine.generate("abc", max_new_tokens=30, planning=False)
    assert planned.tokens == fixed.tokens
    with forerun.load(bundle.path, threads=2) as engine:
        assert not engine.facts.has_costs  # another number of threads is another machine


def test_other_machines_keep_their_rows(bundle: TableBundle) -> None:
    from forerun_compiler.bundle import update_manifest

    other = CostRow("another machine", 1.0, {"1": 2.0})
    update_manifest(bundle.path, lambda manifest: replace(manifest, cost=(other,)))
    bench_bundle(bundle.path, SETTINGS, True, lambda *step: None)
    assert read_manifest(bundle.path).cost[0] == other
    assert len(read_manifest(bundle.path).cost) == 2


def test_sampling_is_measured_too(bundle: TableBundle) -> None:
    bench = bench_bundle(bundle.path, replace(SETTINGS, temperature=1.0, seed=3), False, lambda *step: None)
    assert (bench.temperature, bench.seed) == (1.0, 3)
    assert 1.0 <= bench.speculative.acceptance_length <= bundle.draft_len + 1


def test_nothing_to_measure(bundle: TableBundle) -> None:
    with pytest.raises(BundleError, match=r"prompts\.jsonl: no prompt gives more than one token"):
        bench_bundle(bundle.path, replace(SETTINGS, tokens=1), False, lambda *step: None)


def test_the_processor_has_a_name(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("processor : 0\nmodel name\t: Some  CPU @ 3 GHz\nmodel name\t: other\n")
    assert cpu_name(tmp_path / "cpuinfo") == "Some CPU @ 3 GHz"
    assert cpu_name(tmp_path / "gone")
    assert Machine("c", 2, 1, "lib 1").fingerprint == "c | 2 cores | 1 threads | lib 1"
