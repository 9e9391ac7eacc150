"""The kernels of some bursts one by one with Nsight Compute: how close each comes to what the GPU can do, and why not.

    python -m profiling.ncu_kernels [--phase PHASE] [--full] [--output FILE] [--dry-run] NETWORK [options of profiling.workload]

Writes a report to open in ncu-ui, and prints a table of it: by kernel the time, bytes of device memory, share of the peaks,
registers, occupancy, and what its warps waited for.
"""

from __future__ import annotations

import collections
import csv
import re
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from profiling import tool

SECTIONS = ("SpeedOfLight", "MemoryWorkloadAnalysis", "Occupancy", "LaunchStats", "WarpStateStats")
METRICS = (
    "gpu__time_duration.sum",
    "dram__bytes_read.sum",
    "dram__bytes_write.sum",
    "lts__t_sector_hit_rate.pct",
    "lts__t_sectors_op_read.sum",
    "lts__t_sectors_op_write.sum",
    "lts__t_sectors_op_red.sum",  # atomic additions whose result nobody reads: propagation, counters
    "lts__t_sectors_op_atom.sum",
)
STATE = ("--cache-control=none", "--clock-control=none")
"""The network of one burst is still in L2 in the next, so caches stay as they are; the clocks of a card are left alone."""
RAW = ("--csv", "--page=raw", "--print-units=base")
"""Every metric of every launch: a line of names, one of units, one a launch."""
PHASES = ("injection", "propagation", "dynamics", "archival")

Raw = Mapping[str, Mapping[str, Any]]
"""Kernel -> "launches", and metric -> {"unit", "median"}."""
SHARES = {
    "compute_pct": "sm__throughput.avg.pct_of_peak_sustained_elapsed",
    "memory_pct": "gpu__compute_memory_throughput.avg.pct_of_peak_sustained_elapsed",
    "dram_pct": "gpu__dram_throughput.avg.pct_of_peak_sustained_elapsed",
    "l2_hit_pct": "lts__t_sector_hit_rate.pct",
    "occupancy_pct": "sm__warps_active.avg.pct_of_peak_sustained_active",
    "possible_occupancy_pct": "sm__maximum_warps_per_active_cycle_pct",
    "registers": "launch__registers_per_thread",
}
STALL = re.compile(r"smsp__average_warps_issue_stalled_(\w+)_per_issue_active\.ratio")
STALLS = 3
"""How many reasons are told, the worst first."""


def raw_page(output: str) -> dict[str, dict[str, Any]]:
    """Kernel -> launches, and metric -> {unit, median}, of `ncu --csv --page=raw` with a program's output around it."""
    lines = output.splitlines()
    start = next((i for i, line in enumerate(lines) if line.startswith('"ID"')), None)
    if start is None:
        return {}
    header, units, *rows = csv.reader(line for line in lines[start:] if line.startswith('"'))
    by_kernel: dict[str, list[dict[str, str]]] = collections.defaultdict(list)
    for row in rows:
        named = dict(zip(header, row, strict=False))
        by_kernel[named["Kernel Name"].partition("(")[0]].append(named)
    told: dict[str, dict[str, Any]] = {}
    for kernel, launches in by_kernel.items():
        told[kernel] = {"launches": len(launches)}
        for name, unit in zip(header, units, strict=False):
            if "__" not in name:
                continue
            values = [float(one[name].replace(",", "")) for one in launches if re.fullmatch(r"[\d.,eE+-]+", one.get(name, ""))]
            if values:
                told[kernel][name] = {"unit": unit, "median": statistics.median_low(values)}
    return told


def figures(raw: Raw) -> list[dict[str, Any]]:
    """What the table shows, a row for each kernel, the one that takes longest first; None where ncu did not say."""
    rows = []
    for kernel, metrics in raw.items():

        def of(name: str, metrics: Mapping[str, Any] = metrics) -> float | None:
            return float(metrics[name]["median"]) if name in metrics else None

        moved = [of("dram__bytes_read.sum"), of("dram__bytes_write.sum")]
        time = of("gpu__time_duration.sum")
        stalls = [(found[1], of(name) or 0.0) for name in metrics if (found := STALL.fullmatch(name))]
        waits = [(reason, cycles) for reason, cycles in stalls if reason != "selected" and not reason.endswith("_not_issued")]
        row: dict[str, Any] = {"kernel": kernel, "launches": metrics["launches"]}
        row["us"] = None if time is None else time / 1000  # base units: nanoseconds
        row["dram_bytes"] = None if None in moved else sum(value for value in moved if value is not None)
        row |= {name: of(metric) for name, metric in SHARES.items()}
        row["stalls"] = dict(sorted(waits, key=lambda wait: -wait[1])[:STALLS])
        rows.append(row)
    return sorted(rows, key=lambda row: -(row["us"] or 0.0))


def table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Of `figures`. Stalls: cycles that a warp waited for that reason between two of its instructions."""
    told = Table(title="kernels, medians of their launches", title_justify="left")
    heads = ("kernel", "launches", "µs", "DRAM MB", "compute %", "memory %", "DRAM %", "L2 hit %", "registers", "occupancy %", "stalls")
    for head in heads:
        told.add_column(head, justify="left" if head in ("kernel", "stalls") else "right")

    def number(value: float | None, form: str = ",.1f") -> str:
        return "" if value is None else format(value, form)

    for row in rows:
        dram = None if row["dram_bytes"] is None else row["dram_bytes"] / 1e6
        shares = [number(row[name]) for name in ("compute_pct", "memory_pct", "dram_pct", "l2_hit_pct")]
        occupancy = f"{number(row['occupancy_pct'], '.0f')} of {number(row['possible_occupancy_pct'], '.0f')}"
        stalls = ", ".join(f"{reason.replace('_', ' ')} {cycles:.1f}" for reason, cycles in row["stalls"].items())
        told.add_row(
            row["kernel"],
            str(row["launches"]),
            number(row["us"], ",.2f"),
            number(dram, ",.2f"),
            *shares,
            number(row["registers"], ".0f"),
            occupancy,
            stalls,
        )
    return told


def main(arguments: Sequence[str] | None = None) -> int:
    parser = tool.parser("profiling.ncu_kernels", __doc__, "kernels")
    parser.add_argument("--phase", choices=PHASES, help="the kernels of this phase alone")
    parser.add_argument("--full", action="store_true", help="every section (many more passes)")
    options, rest = parser.parse_known_args(arguments)
    where = f"gpu_npu@{options.phase or 'burst'}/"  # with a slash behind: a range pushed and popped
    what = ["--set=full"] if options.full else [f"--section={name}" for name in SECTIONS]
    what.append(f"--metrics={','.join(METRICS)}")
    report = [f"--export={options.output}", "--force-overwrite"]
    profile = ["ncu", "--nvtx", f"--nvtx-include={where}", *what, *STATE, *report, *tool.target(parser.prog, rest)]
    show = ["ncu", f"--import={options.output}.ncu-rep", *RAW]
    status = tool.run([profile, show] if options.dry_run else [profile], dry_run=options.dry_run)
    if status or options.dry_run:
        return status
    shown = subprocess.run(show, stdout=subprocess.PIPE, text=True)
    rows = figures(raw_page(shown.stdout))
    if shown.returncode == 0 and not rows:
        print("Error: the report names no kernel: no burst was annotated, or nothing ran on a GPU", file=sys.stderr)
        return 1
    Console(width=None if sys.stdout.isatty() else 180).print(table(rows))
    return shown.returncode


if __name__ == "__main__":
    sys.exit(main())
