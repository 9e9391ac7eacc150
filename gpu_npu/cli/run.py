"""gpu-npu run: bursts of a network, and a table of what happened."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import click
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

import gpu_npu
from gpu_npu import NPU, BurstResult, CheckpointError, Digest, Snapshot
from gpu_npu.connectome import COUNTERS
from gpu_npu.io.outputs import check_outputs
from gpu_npu.recordings import Recorder

from .checkpoints import Checkpoints, Parts, noted, outputs
from .networks import REPLACED, backend_options, file_of, network
from .picture import Activity
from .progress import Bar
from .status import EXIT_STATUS, fail
from .stimulus import Stimuli, files_named

TARGETS = {"propagation": 0.5e-3, "dynamics": 2e-3, "burst": 5e-3}
"""Seconds; what the project set out to stay below."""
TARGET_HZ = 30.0
PHASE_BURSTS, PHASE_SECONDS = 100, 2.0
"""The separate stretch in which phases are timed: so many bursts, or so long."""
TIMES_KEPT = 2**20
"""Bursts whose times the percentiles are made from, the last ones."""
STRETCH_SECONDS, STRETCH_ITEMS, LONGEST_STRETCH = 0.1, 2**18, 4096
"""Bursts between two looks at the host: for so long, with so many injections, so many."""


class Stop:
    """Set by Ctrl-C and SIGTERM, which so end a run between two bursts; a second Ctrl-C ends it at once."""

    def __init__(self) -> None:
        self.signal = 0

    def __bool__(self) -> bool:
        return self.signal != 0

    @contextmanager
    def listening(self) -> Iterator[Stop]:
        """Take both signals within the block; in a thread other than the main one none is taken."""
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


class _Stretch(NamedTuple):
    """So many bursts, and what is injected in them, item by item: into which neuron in which burst."""

    bursts: int
    burst: NDArray[np.int64]
    neuron: NDArray[np.uint32]
    potential: NDArray[np.float32]


class Run:
    """Bursts with their stimuli, and what they add up to."""

    def __init__(
        self,
        npu: NPU,
        stimuli: Stimuli,
        bursts: int,
        recorder: Recorder | Parts | None = None,
        checkpoints: Checkpoints | None = None,
        begun: Mapping[str, Any] | None = None,
        network: str = "",
    ) -> None:
        """begun: what an earlier process noted of this run. network: its name."""
        self.network = network
        self._npu, self._stimuli, self._recorder, self._checkpoints = npu, stimuli, recorder, checkpoints
        begun = begun or {}
        self.asked, self.bursts, self.fired = bursts, int(begun.get("bursts", 0)), int(begun.get("fired", 0))
        self.before = self.bursts
        """Bursts of the run before this process; only later ones have times."""
        self.seconds, self.synaptic = 0.0, 0
        self._times = np.zeros(max(min(bursts - self.before, TIMES_KEPT), 0))
        self.activity = Activity(begun.get("columns"), int(begun.get("column_bursts", 1)), self.bursts)
        self.counters = {name: int(begun.get("counters", {}).get(name, 0)) for name in COUNTERS}
        self._digest = Digest(resumable=checkpoints is not None, state=bytes.fromhex(begun["digest"]) if begun else None)
        self.phases: dict[str, float] | None = None
        self.phase_bursts = 0

    def go(self, stop: Stop, bar: Bar) -> None:
        """All bursts, or those before a stop, in stretches that the device computes on its own: short enough that a stop is
        heard within a tenth of a second."""
        length = 1
        while self.bursts < self.asked and not stop:
            begin = time.perf_counter()
            self._stretch(min(length, self._to_next_checkpoint()))
            took = time.perf_counter() - begin
            if took < STRETCH_SECONDS / 4:
                length = min(2 * length, LONGEST_STRETCH)
            elif took > STRETCH_SECONDS:
                length = max(length // 2, 1)
            if self._checkpoints is not None and self.bursts % self._checkpoints.every == 0:
                self.checkpoint()
            bar.at(self.bursts)

    def _to_next_checkpoint(self) -> int:
        left = self.asked - self.bursts
        return left if self._checkpoints is None else min(left, self._checkpoints.every - self.bursts % self._checkpoints.every)

    def _stretch(self, most: int) -> None:
        """The next bursts, at most so many: their time is from the stimulus at hand to the fired ids at hand."""
        stimuli = self._stimuli_of(most)
        watched = 0.0

        def watch(result: BurstResult) -> None:
            nonlocal watched
            begin = time.perf_counter()
            self._note(result)
            watched += time.perf_counter() - begin

        start = time.perf_counter()
        if len(stimuli.burst):
            self._npu.schedule(stimuli.burst, stimuli.neuron, stimuli.potential)
        result = self._npu.run(stimuli.bursts, watch=watch)
        seconds = time.perf_counter() - start - watched
        self.synaptic += result.synaptic_injections
        apart = np.diff(result.clock) * 1e-9
        self.seconds += max(seconds, float(apart.sum()))
        # The first burst of a stretch has no other before it: it has the rest of the time.
        times = np.concatenate(([max(seconds - float(apart.sum()), 0.0)], apart))
        self._times[np.arange(self.timed - len(times), self.timed) % len(self._times)] = times

    def _stimuli_of(self, most: int) -> _Stretch:
        """What is injected in the next bursts: as many of them as their stimulus leaves room for."""
        neuron, potential, counts = [], [], list[int]()
        count, bursts, first = 0, 0, self._npu.burst_count + 1
        while bursts < most and (count < STRETCH_ITEMS or not bursts):
            before = count
            for neurons, potentials in self._stimuli.before(first + bursts):
                neuron.append(neurons)
                potential.append(potentials)
                count += len(neurons)
            counts.append(count - before)
            bursts += 1
        if not count:
            return _Stretch(bursts, np.zeros(0, np.int64), np.zeros(0, np.uint32), np.zeros(0, np.float32))
        return _Stretch(bursts, np.repeat(np.arange(first, first + bursts), counts), np.concatenate(neuron), np.concatenate(potential))

    def _note(self, result: BurstResult) -> None:
        """One burst more."""
        if self._recorder is not None:
            self._recorder(result)
        self._digest.update(result.burst, result.fired_neurons)
        self.activity.add(result.neuron_count)
        self.fired += result.neuron_count
        for name in COUNTERS:
            self.counters[name] += getattr(result, name)
        self.bursts += 1

    def checkpoint(self) -> None:
        """Begin to write one, with all that another process needs to go on."""
        if self._checkpoints is None:
            return
        if isinstance(self._recorder, Parts):
            self._recorder.cut()
        stimuli, arrays = self._stimuli.written()
        note = {
            "network": self.network,
            "asked": self.asked,
            "bursts": self.bursts,
            "fired": self.fired,
            "columns": list(self.activity.counts),
            "column_bursts": self.activity.width,
            "counters": dict(self.counters),  # they go on while this is written
            "digest": self._digest.state().hex(),
            "stimuli": stimuli,
            "every": self._checkpoints.every,
            "record": None if self._recorder is None else str(self._recorder.path),
        }
        self._checkpoints.take(self._npu, note, arrays)

    @property
    def timed(self) -> int:
        """Bursts of this process."""
        return self.bursts - self.before

    def time_phases(self, stop: Stop, bar: Bar) -> None:
        """Further bursts, timed phase by phase; they count for nothing else."""
        most = min(self.timed, PHASE_BURSTS)
        end = time.perf_counter() + PHASE_SECONDS
        self._npu.time_phases(True)
        while self.phase_bursts < most and not stop and time.perf_counter() < end:
            for neurons, potentials in self._stimuli.before(self._npu.burst_count + 1):
                self._npu.inject(neurons, potentials)
            self._npu.process_burst()
            self.phase_bursts += 1
            bar.at(self.phase_bursts)
        if self.phase_bursts:
            self.phases = {phase: total / self.phase_bursts for phase, total in (self._npu.phase_seconds or {}).items()}
        self._npu.time_phases(False)

    @property
    def digest(self) -> str:
        """Of all bursts so far, those before --resume among them."""
        return self._digest.hexdigest()

    def percentile(self, q: float) -> float | None:
        """Of the time of a burst, in seconds."""
        return float(np.percentile(self._times[: self.timed], q)) if self.timed else None

    @property
    def mean(self) -> float | None:
        """Of the time of a burst, in seconds."""
        return self.seconds / self.timed if self.timed else None

    @property
    def rate(self) -> float | None:
        """Bursts a second."""
        return self.timed / self.seconds if self.timed else None

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
@click.argument("network_name", metavar="[NETWORK]", required=False)
@click.option("--bursts", type=click.IntRange(min=1), help="Bursts of the run, with those before --resume.  [default: 1000; as begun]")
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
@click.option(
    "--record", type=click.Path(path_type=Path), metavar="FILE", help=f"Write the fired ids of every burst to this .npz file; {REPLACED}."
)
@click.option("--checkpoint-every", type=click.IntRange(min=1), metavar="N", help="Write a checkpoint every N bursts, and at the end.")
@click.option(
    "--checkpoint", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help=f"Where to; {REPLACED}.  [default: NETWORK.ckpt]"
)
@click.option(
    "--resume",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Go on from this checkpoint, as the run was begun, in place of NETWORK.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON in place of the table.")
@click.option("--quiet", is_flag=True, help="Print no table and no progress.")
@click.option("--nvtx", is_flag=True, help="Show builds, loads, bursts and phases to a profiler, as NVTX ranges.")
@click.pass_context
def run(
    context: click.Context,
    network_name: str | None,
    bursts: int | None,
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
    checkpoint_every: int | None,
    checkpoint: Path | None,
    resume: Path | None,
    as_json: bool,
    quiet: bool,
    nvtx: bool,
) -> None:
    """Run NETWORK: a file of this project, a connectome in CSR (.npz with indptr, indices, count, sign), or a built-in
    example (gpu-npu example lists them).

    WHAT is ids (1,2,5-8), an area by id or name (area:7, area:power), all, or a file of ids. Such a file is text with an id
    or a range on a line, an .npy array of ids or a mask of booleans, or an .npz with such an array: the one named in
    FILE.npz:NAME, else `stim`, else the only one. Options that take WHAT may be repeated. Random draws depend on the seed
    only and are the same on every backend.

    Ctrl-C ends the run after the current burst and prints the table of what was run; a record is complete up to there.

    A run with --checkpoint-every can go on with --resume after it ended, was interrupted or was killed, on any backend. It
    keeps the network, the stimulation and the options that it was begun with, and ends with the digest of a run that never
    stopped. Its --record is in parts, FILE.<first burst>.npz, one for each checkpoint.

    No output may be an input of the same command; but the file of --checkpoint may be that of --resume.
    """
    began = time.perf_counter()
    failure: OSError | None = None
    if resume is not None:
        _refuse_what_was_begun(context)
    elif network_name is None:
        raise click.UsageError("Missing argument 'NETWORK', or --resume FILE")
    with ExitStack() as stack:
        bar = stack.enter_context(Bar(not quiet))
        bar.step(f"reading {network_name or resume}")
        snapshot: Snapshot | None = None
        begun: dict[str, Any] = {}
        if resume is not None:
            snapshot = Snapshot.read(resume)
            begun = noted(resume, snapshot)
            network_name = str(begun.get("network", resume.name))
            record = record or (Path(begun["record"]) if begun.get("record") else None)
            checkpoint_every = checkpoint_every or begun.get("every")
        if checkpoint is not None and checkpoint_every is None:
            raise click.UsageError("--checkpoint says where to; how often? Give --checkpoint-every N")
        bursts = bursts or int(begun.get("asked", 1000))
        if bursts < int(begun.get("bursts", 0)):
            raise click.BadParameter(f"{bursts:,} are less than the {begun['bursts']:,} that the run has behind it", param_hint="--bursts")
        name = str(network_name)
        if checkpoint_every is not None:
            checkpoint = checkpoint or resume or Path(f"{Path(name).stem}.ckpt")
        first = 1 if snapshot is None else snapshot.burst + 1
        in_parts = checkpoint is not None or snapshot is not None
        inputs = file_of(name) if resume is None else [("--resume", resume)]
        for option, texts in (("--power", power), ("--inject", inject), ("--rate", rate), ("--poisson", poisson)):
            inputs += files_named(texts, option)
        inputs += [("--schedule", path) for path in schedule]
        check_outputs(outputs(record, first if in_parts else None, checkpoint, resume), inputs)
        checkpoints: Checkpoints | None = None
        if checkpoint is not None and checkpoint_every is not None:
            checkpoints = stack.enter_context(Checkpoints(checkpoint, checkpoint_every))
        recorder: Recorder | Parts | None = None
        if record is not None:
            recorder = Parts(record, first) if in_parts else Recorder(record)
            stack.enter_context(recorder)
        driven = []
        if snapshot is not None:
            connectome = snapshot.network
            stimuli = Stimuli(connectome, potential)
            try:
                stimuli.read(begun.get("stimuli", []), snapshot.extra)
            except (KeyError, TypeError, AttributeError) as error:
                raise CheckpointError(f"{resume}: its notes of stimuli cannot be read: {error!r}") from error
        else:
            connectome = network(name)
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

        bar.step(f"loading {name}")
        if snapshot is not None:
            npu = stack.enter_context(NPU.from_snapshot(snapshot, backend=backend, device=device, annotate=nvtx))
        else:
            npu = stack.enter_context(
                NPU.from_connectome(connectome, fire_ledger_window=ledger_window, backend=backend, device=device, annotate=nvtx)
            )
            npu.set_power_neurons(np.concatenate([np.zeros(0, np.uint32), *driven]))
        loaded, memory = time.perf_counter() - began, npu.memory()
        this = Run(npu, stimuli, bursts, recorder, checkpoints, begun, name)
        with Stop().listening() as stop:
            bar.step("running", bursts)
            try:
                this.go(stop, bar)
            except OSError as error:  # the disk is full: what was recorded is kept, what was done is told
                if recorder is None:
                    raise
                failure = error
            at_end = sum(npu.memory().values())
            if checkpoints is not None and failure is None:
                bar.step(f"writing {checkpoints.path}")
                if this.timed and this.bursts % checkpoints.every:
                    this.checkpoint()
                checkpoints.wait()
                failure = checkpoints.error
            if failure is None and not stop:
                bar.step("timing phases", min(bursts, PHASE_BURSTS))
                this.time_phases(stop, bar)
            if recorder is not None:
                bar.step(f"writing {record}")
                try:
                    recorder.close()
                except OSError as error:
                    failure = failure or error
        facts = {
            "version": gpu_npu.__version__,
            "network": name,
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
            "bursts_before": this.before,
            "interrupted": bool(stop),
            "fired": this.fired,
            **this.counters,
            "seconds": this.seconds,
            "bursts_per_second": this.rate,
            "burst_seconds": {"mean": this.mean, "p50": this.percentile(50), "p99": this.percentile(99)},
            "synaptic_per_second": this.synaptic / this.seconds if this.timed else None,
            "phase_bursts": this.phase_bursts,
            "phase_seconds": this.phases,
            "targets": this.targets(),
            "record": recorder.pattern if isinstance(recorder, Parts) else None if record is None else str(record),
            "checkpoint": None if checkpoints is None else str(checkpoints.path),
            "digest": this.digest,
        }
        silent = not this.fired and not stimuli and not npu.statistics()["power_neurons"]
    if as_json:
        click.echo(json.dumps(facts, indent=2))
    elif not quiet:
        _print(facts, this.activity.picture(), silent)
    if failure is not None:
        fail(failure, EXIT_STATUS[OSError])
    if stop:
        raise SystemExit(128 + stop.signal)


BEGUN_WITH = ("network_name", "power", "inject", "every", "rate", "poisson", "schedule", "potential", "threshold", "seed", "ledger_window")
"""What is in a checkpoint, and cannot be given again."""


def _refuse_what_was_begun(context: click.Context) -> None:
    given = [p for p in context.command.params if p.name in BEGUN_WITH and context.params[p.name] not in (None, ())]
    for parameter in given:
        if context.get_parameter_source(str(parameter.name)) is not click.core.ParameterSource.DEFAULT:
            what = "NETWORK" if parameter.name == "network_name" else parameter.opts[0]
            raise click.UsageError(f"{what} cannot be given with --resume: the run goes on as it was begun")


def _micro(seconds: float | None) -> str:
    return "not measured" if seconds is None else f"{seconds * 1e6:,.1f}"


def _print(facts: dict[str, Any], picture: str, silent: bool) -> None:
    """The table, in 80 columns: 16 for the labels, 64 for a digest."""
    before = facts["bursts_before"]
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
        ("bursts", done + (f", {before:,} before --resume" if before else "") + (" (interrupted)" if facts["interrupted"] else "")),
    ]
    if bursts:
        share = f", {fired / bursts / facts['neurons']:.2%} of the neurons" if facts["neurons"] else ""
        rows += [
            ("fired", f"{fired:,} ({fired / bursts:,.1f} a burst{share})"),
            ("over time", picture if fired else "silence"),
        ]
    if bursts > before:
        rows += [
            ("bursts/s", f"{facts['bursts_per_second']:,.1f}"),
            ("µs a burst", f"p50 {_micro(facts['burst_seconds']['p50'])}, p99 {_micro(facts['burst_seconds']['p99'])}"),
            ("synaptic events", f"{facts['synaptic_injections']:,} ({facts['synaptic_per_second']:,.0f}/s)"),
        ]
    if phases:
        text = ", ".join(f"{phase} {_micro(seconds)}" for phase, seconds in phases.items())
        rows += [("µs by phase", f"{text} (mean of {facts['phase_bursts']} further bursts, timed phase by phase)")]
    if facts["record"] is not None:
        rows += [("record", facts["record"])]
    if facts["checkpoint"] is not None:
        rows += [("checkpoint", facts["checkpoint"])]
    rows += [("digest", facts["digest"])]
    if silent:
        rows += [("note", "nothing drives this network: it has no power neurons and nothing was injected; try --rate all:0.01:POTENTIAL")]
    table = Table(show_header=False, box=None, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column(no_wrap=True, min_width=15)
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
