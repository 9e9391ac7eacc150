"""gpu-npu run: bursts of a network, and a table of what happened."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import click
import numpy as np
from rich.console import Console
from rich.table import Table

import gpu_npu
from gpu_npu import NPU, BurstResult, Digest
from gpu_npu.recording import COUNTERS, Recorder

from .networks import backend_options, network
from .progress import Bar
from .status import EXIT_STATUS, fail
from .stimulus import Stimuli

TARGETS = {"propagation": 0.5e-3, "dynamics": 2e-3, "burst": 5e-3}
"""Seconds; what the project set out to stay below."""
TARGET_HZ = 30.0
PHASE_BURSTS, PHASE_SECONDS = 100, 2.0
"""The separate stretch in which phases are timed: so many bursts, or so long."""
TIMES_KEPT = 2**20
"""Bursts whose times the percentiles are made from, the last ones."""
COLUMNS = 60
"""Of the picture of the activity."""
BARS = " ▁▂▃▄▅▆▇█"


class Stop:
    """Set by Ctrl-C and SIGTERM, which so end a run between two bursts; a second Ctrl-C ends it at once."""

    def __init__(self) -> None:
        self.signal = 0

    def __bool__(self) -> bool:
        return self.signal != 0

    @contextmanager
    def listening(self) -> Iterator[Stop]:
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self:
            raise KeyboardInterrupt
        self.signal = number


class Run:
    """Bursts with their stimuli, and what they add up to."""

    def __init__(self, npu: NPU, stimuli: Stimuli, bursts: int, recorder: Recorder | None) -> None:
        self._npu, self._stimuli, self._recorder = npu, stimuli, recorder
        self.asked, self.bursts, self.fired = bursts, 0, 0
        self.seconds = 0.0
        self._times = np.zeros(min(bursts, TIMES_KEPT))
        self._columns = np.zeros(min(bursts, COLUMNS), np.int64)
        self.counters = dict.fromkeys(COUNTERS, 0)
        self._digest = Digest()
        self.phases: dict[str, float] | None = None
        self.phase_bursts = 0

    def _burst(self) -> tuple[BurstResult, float]:
        """One burst and its time: from the stimulus at hand to the fired ids at hand."""
        stimuli = list(self._stimuli.before(self._npu.burst_count + 1))
        start = time.perf_counter()
        for neurons, potentials in stimuli:
            self._npu.inject(neurons, potentials)
        result = self._npu.process_burst()
        return result, time.perf_counter() - start

    def go(self, stop: Stop, bar: Bar) -> None:
        """All bursts, or those before a stop."""
        while self.bursts < self.asked and not stop:
            result, seconds = self._burst()
            if self._recorder is not None:
                self._recorder(result)
            self._digest.update(result.burst, result.fired_neurons)
            self._times[self.bursts % len(self._times)] = seconds
            self._columns[self.bursts * len(self._columns) // self.asked] += result.neuron_count
            self.seconds += seconds
            self.fired += result.neuron_count
            for name in COUNTERS:
                self.counters[name] += getattr(result, name)
            self.bursts += 1
            bar.at(self.bursts)

    def time_phases(self, stop: Stop, bar: Bar) -> None:
        """Further bursts, timed phase by phase; they count for nothing else."""
        most = min(self.bursts, PHASE_BURSTS)
        end = time.perf_counter() + PHASE_SECONDS
        self._npu.time_phases(True)
        while self.phase_bursts < most and not stop and time.perf_counter() < end:
            self._burst()
            self.phase_bursts += 1
            bar.at(self.phase_bursts)
        if self.phase_bursts:
            self.phases = {phase: total / self.phase_bursts for phase, total in (self._npu.phase_seconds or {}).items()}
        self._npu.time_phases(False)

    @property
    def digest(self) -> str:
        return self._digest.hexdigest()

    def percentile(self, q: float) -> float | None:
        """Of the time of a burst, in seconds."""
        return float(np.percentile(self._times[: self.bursts], q)) if self.bursts else None

    @property
    def mean(self) -> float | None:
        return self.seconds / self.bursts if self.bursts else None

    @property
    def rate(self) -> float | None:
        """Bursts a second."""
        return self.bursts / self.seconds if self.bursts else None

    def picture(self) -> str:
        """Fired neurons over the run, a column for each stretch of it."""
        columns = self._columns[: -(-self.bursts * len(self._columns) // self.asked)]
        top = max(int(columns.max(initial=0)), 1)
        return "".join(BARS[-(-int(value) * (len(BARS) - 1) // top)] for value in columns)

    def targets(self) -> dict[str, dict[str, Any]]:
        """Each target with what was measured: seconds, or bursts a second; None where nothing was."""
        phases = self.phases or {}
        measured = {"propagation": phases.get("propagation"), "dynamics": phases.get("dynamics"), "burst": self.mean}
        found = {
            name: {"below_seconds": limit, "seconds": measured[name], "met": None if measured[name] is None else measured[name] < limit}  # type: ignore[operator]
            for name, limit in TARGETS.items()
        }
        met = None if self.rate is None else self.rate >= TARGET_HZ
        return {**found, "rate": {"at_least_hertz": TARGET_HZ, "hertz": self.rate, "met": met}}


@click.command(short_help="Run a network and say what happened.")
@click.argument("network_name", metavar="NETWORK")
@click.option("--bursts", type=click.IntRange(min=1), default=1000, show_default=True, help="Bursts to run.")
@click.option("--power", multiple=True, metavar="WHAT", help="Power neurons, driven in every burst by the network's power amount.")
@click.option("--inject", multiple=True, metavar="WHAT[:POTENTIAL]", help="Inject a constant potential.")
@click.option("--every", type=click.IntRange(min=1), default=1, show_default=True, help="--inject before every K-th burst, from the first.")
@click.option("--rate", multiple=True, metavar="WHAT:P[:POTENTIAL]", help="Inject into each neuron with probability P, burst by burst.")
@click.option("--poisson", multiple=True, metavar="WHAT:MEAN[:POTENTIAL]", help="The same with a Poisson number of impulses a burst.")
@click.option(
    "--schedule",
    multiple=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="Inject what an .npz file says: arrays burst (from 1), neuron, potential.",
)
@click.option("--potential", type=float, default=1.0, show_default=True, help="Potential injected where none is named.")
@click.option("--threshold", type=float, help="Threshold of all neurons, in place of what the network says.")
@click.option(
    "--seed",
    type=click.IntRange(0, 2**32 - 1),
    help="Replaces the network's random_seed: the draws of excitability, of --rate and of --poisson.",
)
@backend_options
@click.option("--record", type=click.Path(path_type=Path), metavar="FILE", help="Write the fired ids of every burst to this .npz file.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON in place of the table.")
@click.option("--quiet", is_flag=True, help="Print no table and no progress.")
@click.option("--nvtx", is_flag=True, help="Show builds, loads, bursts and phases to a profiler, as NVTX ranges.")
def run(
    network_name: str,
    bursts: int,
    power: tuple[str, ...],
    inject: tuple[str, ...],
    every: int,
    rate: tuple[str, ...],
    poisson: tuple[str, ...],
    schedule: tuple[Path, ...],
    potential: float,
    threshold: float | None,
    seed: int | None,
    backend: str,
    device: int | None,
    ledger_window: int,
    record: Path | None,
    as_json: bool,
    quiet: bool,
    nvtx: bool,
) -> None:
    """Run NETWORK: a file of this project, a connectome in CSR (.npz with indptr, indices, count, sign), or a built-in
    example (gpu-npu example lists them).

    WHAT is ids (1,2,3), an area by id or name (area:7, area:power), all, or a file of ids: .npy, or .npz, of which
    the array `stim`, the only one, or the one named in FILE.npz:NAME. Options that take WHAT may be repeated. What is
    random depends on the seed alone and is the same on every backend.

    Ctrl-C ends the run after the burst at hand, with the table, and a complete record, of what was run.
    """
    began = time.perf_counter()
    failure: OSError | None = None
    with ExitStack() as stack:
        recorder = stack.enter_context(Recorder(record)) if record is not None else None
        bar = stack.enter_context(Bar(not quiet))
        bar.step(f"reading {network_name}")
        connectome = network(network_name)
        if threshold is not None:
            connectome.write("threshold", np.flatnonzero(connectome.neurons.valid), threshold)
        if seed is not None:
            connectome.set_settings(replace(connectome.settings, random_seed=seed))
        stimuli = Stimuli(connectome, potential)
        driven = [stimuli.neurons(text, "--power") for text in power]
        for text in inject:
            stimuli.constant(text, every)
        for text in rate:
            stimuli.rate(text, connectome.settings.random_seed)
        for text in poisson:
            stimuli.poisson(text, connectome.settings.random_seed)
        for path in schedule:
            stimuli.schedule(path)

        bar.step(f"loading {network_name}")
        npu = stack.enter_context(
            NPU.from_connectome(connectome, fire_ledger_window=ledger_window, backend=backend, device=device, annotate=nvtx)
        )
        npu.set_power_neurons(np.concatenate([np.zeros(0, np.uint32), *driven]))
        loaded, memory = time.perf_counter() - began, npu.memory()
        this = Run(npu, stimuli, bursts, recorder)
        with Stop().listening() as stop:
            bar.step("running", bursts)
            try:
                this.go(stop, bar)
            except OSError as error:  # the disk is full: what was recorded is kept, what was done is told
                if recorder is None:
                    raise
                failure = error
            at_end = sum(npu.memory().values())
            if failure is None and not stop:
                bar.step("timing phases", min(bursts, PHASE_BURSTS))
                this.time_phases(stop, bar)
            if recorder is not None:
                bar.step(f"writing {record}")
                recorder.close()
        facts = {
            "version": gpu_npu.__version__,
            "network": network_name,
            "backend": npu.backend,
            "backend_reason": npu.backend_reason,
            "seed": npu.settings.random_seed,
            "neurons": npu.get_neuron_count(),
            "synapses": npu.get_synapse_count(),
            "memory_bytes": sum(memory.values()),
            "memory": memory,
            "memory_bytes_at_end": at_end,
            "load_seconds": loaded,
            "bursts_asked": bursts,
            "bursts": this.bursts,
            "interrupted": bool(stop),
            "fired": this.fired,
            **this.counters,
            "seconds": this.seconds,
            "bursts_per_second": this.rate,
            "burst_seconds": {"mean": this.mean, "p50": this.percentile(50), "p99": this.percentile(99)},
            "synaptic_per_second": this.counters["synaptic_injections"] / this.seconds if this.bursts else None,
            "phase_bursts": this.phase_bursts,
            "phase_seconds": this.phases,
            "targets": this.targets(),
            "record": None if record is None else str(record),
            "digest": this.digest,
        }
        silent = not this.fired and not stimuli and not npu.statistics()["power_neurons"]
    if as_json:
        click.echo(json.dumps(facts, indent=2))
    elif not quiet:
        _print(facts, this.picture(), silent)
    if failure is not None:
        fail(failure, EXIT_STATUS[OSError])
    if stop:
        raise SystemExit(128 + stop.signal)


def _micro(seconds: float | None) -> str:
    return "not measured" if seconds is None else f"{seconds * 1e6:,.1f}"


def _print(facts: dict[str, Any], picture: str, silent: bool) -> None:
    """The table, in 80 columns: 16 for the labels, 64 for a digest."""
    bursts, fired, memory, phases = facts["bursts"], facts["fired"], facts["memory"], facts["phase_seconds"]
    done = f"{bursts:,}" + (f" of {facts['bursts_asked']:,}" if bursts < facts["bursts_asked"] else "")
    grown = facts["memory_bytes_at_end"] - facts["memory_bytes"]
    pieces = ", ".join(f"{piece} {count:,}" for piece, count in memory.items()) + (f"; {grown:,} more after the run" if grown > 0 else "")
    rows = [
        ("network", facts["network"]),
        ("backend", f"{facts['backend']} ({facts['backend_reason']})"),
        ("neurons", f"{facts['neurons']:,}"),
        ("synapses", f"{facts['synapses']:,}"),
        ("bytes", f"{facts['memory_bytes']:,} ({pieces})"),
        ("seed", f"{facts['seed']}"),
        ("loaded in", f"{facts['load_seconds']:.2f} s"),
        ("bursts", done + (" (interrupted)" if facts["interrupted"] else "")),
    ]
    if bursts:
        share = f", {fired / bursts / facts['neurons']:.2%} of the neurons" if facts["neurons"] else ""
        rows += [
            ("fired", f"{fired:,} ({fired / bursts:,.1f} a burst{share})"),
            ("over time", picture if fired else "silence"),
            ("bursts/s", f"{facts['bursts_per_second']:,.1f}"),
            ("µs a burst", f"p50 {_micro(facts['burst_seconds']['p50'])}, p99 {_micro(facts['burst_seconds']['p99'])}"),
            ("synaptic events", f"{facts['synaptic_injections']:,} ({facts['synaptic_per_second']:,.0f}/s)"),
        ]
    if phases:
        text = ", ".join(f"{phase} {_micro(seconds)}" for phase, seconds in phases.items())
        rows += [("µs by phase", f"{text} (mean of {facts['phase_bursts']} further bursts, timed phase by phase)")]
    if facts["record"] is not None:
        rows += [("record", facts["record"])]
    rows += [("digest", facts["digest"])]
    if silent:
        rows += [("note", "nothing drives this network: it has no power neurons and nothing was injected; try --rate all:0.01:POTENTIAL")]
    table = Table(show_header=False, box=None, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for row in rows:
        table.add_row(*row)
    goals = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, show_edge=False)
    for heading in ("target", "", "measured", ""):
        goals.add_column(heading)
    for name, goal in facts["targets"].items():
        verdict = {True: "met", False: "NOT met", None: "not measured"}[goal["met"]]
        if name == "rate":
            measured = "" if goal["hertz"] is None else f"{goal['hertz']:,.1f} Hz"
            goals.add_row("bursts/s", f">= {goal['at_least_hertz']:g} Hz", measured, verdict)
        else:
            measured = "" if goal["seconds"] is None else f"{goal['seconds'] * 1e3:.3f} ms"
            goals.add_row(name, f"< {goal['below_seconds'] * 1e3:g} ms", measured, verdict)
    console = Console(highlight=False, markup=False)
    console.print(table)
    console.print()
    console.print(goals)
