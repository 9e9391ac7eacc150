"""Two files of results side by side: what became faster, slower, larger.

    python -m profiling.compare BEFORE AFTER [--flag PERCENT]

Files of profiling.bench or profiling.validate. A ratio above 1 is better: less time, fewer bytes, more a second. Changes
of more than --flag percent (10) are marked, and those that are also beyond twice the noise of both runs are marked twice.
The exit status is 1 where a digest changed or a workload that ran does not run any more, 2 where a file cannot be read.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

Report = dict[str, Any]
LESS_IS_BETTER = ("burst.p50_us", "burst.p99_us", "run.p50_us", "run.stamp_p99_us", "bytes_per_synapse", "bytes_per_neuron", "load_s")
MORE_IS_BETTER = ("events_per_s",)
NOISE = {"burst.p50_us": "burst.noise", "run.p50_us": "run.noise"}
SIZES = ("neurons", "synapses", "fired")
"""What must be equal for times to be comparable."""
SAME = ("backend", "device", "driver", "cuda", "cupy", "numpy", "machine", "quick", "strategy")
"""Facts that explain a difference."""


@dataclass(frozen=True)
class Change:
    """A figure before and after; ratio above 1: better. mark: "", "!" beyond the limit, "!!" beyond the noise as well."""

    workload: str
    figure: str
    before: float
    after: float
    ratio: float
    mark: str


def read(path: Path) -> Report:
    """The part of the benchmarks of a file of either kind."""
    told = json.loads(path.read_text(encoding="utf-8"))
    report: Report = told.get("benchmarks", told)
    if not isinstance(report.get("workloads"), list):
        raise ValueError(f"{path} has no workloads: it is not of profiling.bench or profiling.validate")
    return report


def _at(row: Report, path: str) -> float | None:
    value: Any = row
    for key in path.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    return float(value) if isinstance(value, int | float) else None


def _by_name(report: Report) -> dict[str, Report]:
    return {row["name"]: row for row in report["workloads"] if row["status"] == "ran"}


def changes(before: Report, after: Report, flag: float) -> Iterator[Change]:
    """Of workloads of equal size in both."""
    new = _by_name(after)
    for name, old in _by_name(before).items():
        row = new.get(name)
        if row is None or differs(old, row):
            continue
        edits = tuple(f"edits_per_s.{key}" for key in old.get("edits_per_s", {}))
        for figure in (*LESS_IS_BETTER, *MORE_IS_BETTER, *edits):
            was, now = _at(old, figure), _at(row, figure)
            if not was or not now:
                continue
            ratio = was / now if figure in LESS_IS_BETTER else now / was
            noise = max(_at(one, NOISE.get(figure, "")) or 0.0 for one in (old, row))
            away = max(ratio, 1 / ratio) - 1
            yield Change(name, figure, was, now, ratio, "!" * ((away > flag) + (away > max(flag, 2 * noise) and figure in NOISE)))


def differs(old: Report, row: Report) -> list[str]:
    """Sizes that are not equal."""
    return [size for size in SIZES if old.get(size) != row.get(size)]


def remarks(before: Report, after: Report) -> Iterator[tuple[bool, str]]:
    """(whether it is wrong, what stands in the way of a comparison)"""
    for fact in SAME:
        if before.get(fact) != after.get(fact):
            yield False, f"{fact}: {before.get(fact)} before, {after.get(fact)} after"
    old, new = _by_name(before), _by_name(after)
    for name, row in old.items():
        if name not in new:
            yield True, f"{name} ran before and does not any more"
        elif sizes := differs(row, new[name]):
            yield False, f"{name} is not compared: other {', '.join(sizes)}"
        elif row.get("digest") != new[name].get("digest"):
            yield True, f"{name} fires other neurons than before"
    for name in new:
        if name not in old:
            yield False, f"{name} is new"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m profiling.compare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--flag", type=float, default=10.0, metavar="PERCENT", help="mark changes of more (%(default)s)")
    options = parser.parse_args(arguments)
    try:
        before, after = read(options.before), read(options.after)
    except (OSError, ValueError, AttributeError) as error:
        print(f"Error: {error}".splitlines()[0], file=sys.stderr)
        return 2
    console = Console(width=None if sys.stdout.isatty() else 140)
    title = f"{before['commit'][:12]} of {before['date']} -> {after['commit'][:12]} of {after['date']}"
    told = Table(title=title, title_justify="left")
    for name in ("workload", "figure", "before", "after", "ratio", ""):
        told.add_column(name, justify="left" if name in ("workload", "figure", "") else "right")
    for change in changes(before, after, options.flag / 100):
        style = None if not change.mark else "green" if change.ratio > 1 else "red"
        numbers = (f"{change.before:,.4g}", f"{change.after:,.4g}", f"{change.ratio:.2f}")
        told.add_row(change.workload, change.figure, *numbers, change.mark, style=style)
    console.print(told)
    wrong = False
    for is_wrong, remark in remarks(before, after):
        wrong |= is_wrong
        console.print(remark, style="red" if is_wrong else None)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
