"""No call costs more for what earlier calls left behind, and no item of a call for the others in it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from profiling import bench_calls
from profiling.bench_calls import CASES, Case, batch, series

pytestmark = pytest.mark.long  # it is timed, and other tests beside it would count

GROWTH = 3.0
QUICK = {case.name for case in CASES if case.name.startswith(("inject", "force", "schedule", "set_power", "BurstEngine"))} | {"add_synapse"}
"""Calls of some microseconds, of which many can wait."""


def calls_of(case: Case) -> int:
    between = case.name == "schedule, with bursts between" or case.name.startswith("process_burst")
    return 300 if between else min(30_000 if case.name in QUICK else 1_000, case.most)


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_call_costs_the_same_after_many_others(case: Case, backend: str) -> None:
    growths = []
    for _ in range(3):  # the quickest moments of a machine that others use too
        growths.append(series(case, backend, calls_of(case), 60.0)["growth"])
        if growths[-1] <= GROWTH:
            return
    pytest.fail(f"the last calls took {min(growths):.1f} times as long as the first")


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("case", [case for case in CASES if case.batch is not None], ids=lambda case: case.name)
def test_an_item_costs_the_same_among_many_others(case: Case, backend: str) -> None:
    ratios = []
    for _ in range(3):
        few, many = (batch(case, backend, min(n, case.most))["microseconds"] for n in (1_000, 100_000))
        ratios.append(many / few)
        if ratios[-1] <= GROWTH:
            return
    pytest.fail(f"an item took {min(ratios):.1f} times as long among 100,000 as among 1,000")


def test_the_figures_are_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "calls.json"
    sizes = ["--sizes", "10", "20", "--only", "inject", "BurstEngine.submit"]
    assert bench_calls.main(["--backend", "reference", *sizes, "--json", str(file)]) == 0
    rows = json.loads(file.read_text())["rows"]
    assert [row["name"] for row in rows] == ["inject", "BurstEngine.submit"]
    assert [one["calls"] for row in rows for one in row["calls"]] == [10, 20, 10, 20]
    assert [one["items"] for one in rows[0]["batches"]] == [10, 20]
    assert "inject" in capsys.readouterr().out
