"""The result of a run as JSON and as a table, and its grades by the targets of the project."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

import gpu_npu
from gpu_npu.session import Note, Result

from .terminal import shown

TARGETS = {"propagation": 0.5e-3, "dynamics": 2e-3, "burst": 5e-3}
"""Seconds; what the project set out to stay below."""
TARGET_HZ = 30.0
ACTIVE_SHOWN = 5
"""Neurons in the table; JSON has more."""


def facts_of(result: Result, *, graded: bool) -> dict[str, Any]:
    """A result as JSON has it. graded: by the targets too."""
    return {
        "version": gpu_npu.__version__,
        "network": result.network,
        "backend": result.backend,
        "backend_reason": result.backend_reason,
        "seed": result.seed,
        "neurons": result.neurons,
        "synapses": result.synapses,
        "memory_bytes": sum(result.memory.values()),
        "memory": dict(result.memory),
        "memory_bytes_at_end": result.memory_at_end,
        "load_seconds": result.load_seconds,
        "bursts_asked": result.asked,
        "bursts": result.bursts,
        "bursts_before": result.before,
        "interrupted": result.interrupted,
        "fired": result.fired,
        "most_active": [{"neuron": neuron, "name": name, "fired": fired} for neuron, name, fired in result.most_active],
        **result.counters,
        "seconds": result.seconds,
        "bursts_per_second": result.rate,
        "burst_seconds": {"mean": result.mean, "p50": result.percentile(50), "p99": result.percentile(99)},
        "synaptic_per_second": result.synaptic_rate,
        "phase_bursts": result.phase_bursts,
        "phase_seconds": result.phase_seconds,
        "targets": grades(result) if graded else None,
        "record": result.record,
        "checkpoint": None if result.checkpoint is None else str(result.checkpoint),
        "digest": result.digest,
        "notes": [_told(note) for note in result.notes],
    }


def grades(result: Result) -> dict[str, dict[str, Any]]:
    """Each target with what was measured: seconds, or bursts a second; None where nothing was."""
    phases = result.phase_seconds or {}
    measured = {"propagation": phases.get("propagation"), "dynamics": phases.get("dynamics"), "burst": result.mean}
    found = {
        name: {"below_seconds": limit, "seconds": measured[name], "met": None if measured[name] is None else measured[name] < limit}  # type: ignore[operator]
        for name, limit in TARGETS.items()
    }
    met = None if result.rate is None else result.rate >= TARGET_HZ
    return {**found, "rate": {"at_least_hertz": TARGET_HZ, "hertz": result.rate, "met": met}}


def print_result(result: Result, *, graded: bool) -> None:
    """The table, in 80 columns: 16 for the labels, 64 for a digest."""
    table = Table(show_header=False, box=None, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column(no_wrap=True, min_width=15)
    table.add_column(overflow="fold")
    for row in (*_about(result), *_activity(result), *_times(result), *_files(result), *(("note", _told(note)) for note in result.notes)):
        table.add_row(*map(shown, row))
    console = Console(highlight=False, markup=False)
    console.print(table)
    if graded:
        console.print()
        console.print(_graded(result))


Rows = list[tuple[str, str]]


def _about(result: Result) -> Rows:
    needed, grown = sum(result.memory.values()), result.memory_at_end - sum(result.memory.values())
    pieces = ", ".join(f"{piece} {count:,}" for piece, count in result.memory.items())
    more = f"; {grown:,} more after the run" if grown > 0 else ""
    return [
        ("network", result.network),
        ("backend", f"{result.backend} ({result.backend_reason})"),
        ("neurons", f"{result.neurons:,}"),
        ("synapses", f"{result.synapses:,}"),
        ("bytes", f"{needed:,} ({pieces}{more})"),
        ("seed", f"{result.seed}"),
        ("loaded in", f"{result.load_seconds:.2f} s"),
    ]


def _activity(result: Result) -> Rows:
    bursts, fired = result.bursts, result.fired
    done = f"{bursts:,}" + (f" of {result.asked:,}" if bursts < result.asked else "")
    done += (f", {result.before:,} before --resume" if result.before else "") + (" (interrupted)" if result.interrupted else "")
    if not bursts:
        return [("bursts", done)]
    share = f", {fired / bursts / result.neurons:.2%} of the neurons" if result.neurons else ""
    return [
        ("bursts", done),
        ("fired", f"{fired:,} ({fired / bursts:,.1f} a burst{share})"),
        ("over time", result.activity.picture() if fired else "silence"),
        *([("most active", ", ".join(f"{one.name} ({one.fired:,})" for one in result.most_active[:ACTIVE_SHOWN]))] if fired else []),
    ]


def _times(result: Result) -> Rows:
    rows = []
    if result.timed:
        rows += [
            ("bursts/s", f"{result.rate:,.1f}"),
            ("µs a burst", f"p50 {_micro(result.percentile(50))}, p99 {_micro(result.percentile(99))}"),
            ("synaptic events", f"{result.counters['synaptic_injections']:,} ({result.synaptic_rate:,.0f}/s)"),
        ]
    if result.phase_seconds:
        text = ", ".join(f"{phase} {_micro(seconds)}" for phase, seconds in result.phase_seconds.items())
        rows += [("µs by phase", f"{text} (mean of {result.phase_bursts} further bursts, timed phase by phase)")]
    return rows


def _files(result: Result) -> Rows:
    files = [("record", result.record), ("checkpoint", result.checkpoint)]
    return [*((label, str(file)) for label, file in files if file is not None), ("digest", result.digest)]


def _graded(result: Result) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, show_edge=False)
    for heading in ("target", "", "measured", "", "in"):
        table.add_column(heading)
    for name, goal in grades(result).items():
        verdict = {True: "met", False: "NOT met", None: "not measured"}[goal["met"]]
        where = "the run" if name in ("burst", "rate") else f"{result.phase_bursts} further bursts, phase by phase"
        if name == "rate":
            measured = "" if goal["hertz"] is None else f"{goal['hertz']:,.1f} Hz"
            table.add_row("bursts/s", f">= {goal['at_least_hertz']:g} Hz", measured, verdict, where)
        else:
            measured = "" if goal["seconds"] is None else f"{goal['seconds'] * 1e3:.3f} ms"
            table.add_row(name, f"< {goal['below_seconds'] * 1e3:g} ms", measured, verdict, where)
    return table


def _micro(seconds: float | None) -> str:
    return "not measured" if seconds is None else f"{seconds * 1e6:,.1f}"


def _told(note: Note) -> str:
    return f"{note.text}; {note.command}" if note.command else note.text
