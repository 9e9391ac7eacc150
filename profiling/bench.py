"""The benchmarks of a backend: correct first, then microseconds a burst, synaptic events a second, bytes, edits.

    python -m profiling.bench [--backend cuda] [--device N] [--quick] [--budget SECONDS] [--only WORKLOAD] [--json FILE]

The golden cases must pass on the same device before anything is timed, and the digest of each network that is small
enough must be another backend's. Sizes follow the free memory and the time there is: every workload has its share of what
is left of the budget. Times are of the host's clock around calls that end with the result on the host, after bursts to
warm up; everything is measured twice ("first", "again"), and noise is how far the two medians are apart.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib
import json
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from gpu_npu import NPU, BurstResult, Digest, NpuError
from gpu_npu.backends.executor import STRATEGIES
from gpu_npu.connectome.generators import seed_example
from gpu_npu.io import load
from profiling import probe, workloads
from profiling.workloads import ROOT, Network, Wrong, arm, silent, write

Row = dict[str, Any]
Step = Callable[[NPU], object]
Ahead = Callable[[NPU, int], object]
"""Stages what so many bursts to come are driven with."""
FIRING = 0.005
ACTIVITIES = (0.0001, 0.001, 0.01, 0.05, 0.2, 0.5)
BATCHES = (1, 1_000, 100_000)
FLY = {"threshold": 60.0, "leak_coefficient": 0.25, "refractory_period": 2}
FLY_DATA = ("flywire_right.npz", "flyref_right_gust.npz")
CHECKED_BURSTS = 12
CHECKED_SYNAPSES = {"cpu": 20_000_000, "reference": 3_000_000}
"""The largest network that is also run on this backend, for its digest."""
SYNAPSE_BYTES = 16
"""A synapse needs at most so much while it is loaded (rows, and what building them takes beside)."""
RATES = ("red_", "copy")
"""How the names of the probes begin that say what a burst may take."""
SYNTHETIC = {0.00156: 3_000_000_000, 0.05: 1_800_000_000}
"""Connection probability -> synapses of the published records, of which as many are taken as there is time and memory for."""


class Skipped(Exception):
    """A workload for which there is no time, memory or data."""


@dataclass
class Suite:
    """What the workloads share: the backend under test, the clock, and what making a network was seen to cost."""

    backend: str
    device: int | None
    quick: bool
    budget: float
    data: Path
    rates: Sequence[Row]
    """Of profiling.probe, for what a burst may take."""
    strategy: str | None = None
    """Of propagation; None: what suits the device."""
    started: float = field(default_factory=time.perf_counter)
    seconds_a_synapse: float = 0.0
    share: float = 0.0
    """Seconds of the workload at hand."""

    def left(self) -> float:
        return self.budget - (time.perf_counter() - self.started)

    def synapses(self, wanted: int, full: int) -> int:
        """`wanted` with --quick, else at most `full`: as many as the time allows; fewer where memory is short."""
        device = workloads.open_device("cpu" if self.backend == "reference" else self.backend, self.device)
        room = int(0.8 * device.free_and_total()[0]) // SYNAPSE_BYTES
        device.close()
        if self.quick:
            return rounded(min(wanted, room))
        if not self.seconds_a_synapse:
            with self.loaded(lambda: silent(20_000, 20), {}):
                pass
        return rounded(min(int(0.6 * self.share / self.seconds_a_synapse), room, full))

    def make(self) -> Any:
        """For `NPU(backend=...)`"""
        return workloads.maker(self.backend, self.device, self.strategy)

    @contextlib.contextmanager
    def loaded(self, build: Callable[[], Network], row: Row) -> Iterator[tuple[NPU, Network]]:
        """The network on the backend; notes sizes, times and bytes."""
        start = time.perf_counter()
        network = build()
        made = time.perf_counter()
        with network.on(self.make()) as npu:
            end = time.perf_counter()
            synapses, neurons, memory = npu.get_synapse_count(), npu.get_neuron_count(), npu.memory()
            if network.synapses is not None:  # a small one says more of what any load takes
                self.seconds_a_synapse = min(self.seconds_a_synapse or 1.0, (end - start) / synapses)
            row |= {"neurons": neurons, "synapses": synapses, "make_s": made - start, "load_s": end - made}
            row |= {"load_synapses_per_s": synapses / (end - made), "memory": memory}
            row |= {"bytes_per_synapse": memory["rows"] / max(synapses, 1), "bytes_per_neuron": memory["neurons"] / max(neurons, 1)}
            yield npu, network

    def witness(self, synapses: int) -> str | None:
        """The backend whose digest must be the same; None where the network is too large for any."""
        others = ("reference",) if self.backend in ("cpu", "reference") else ("cpu", "reference")
        for other in others:
            if other != self.backend and synapses <= CHECKED_SYNAPSES[other] and _runs(other):
                return other
        return None

    def check(
        self,
        npu: NPU,
        network: Network,
        row: Row,
        *,
        prepare: Step | None = None,
        every: Step | None = None,
        ahead: Ahead | None = None,
    ) -> None:
        """The digest of the first bursts: the same by `run`, run again, burst by burst, and on another backend."""

        def start(subject: NPU) -> None:
            subject.reset()
            if prepare is not None:
                prepare(subject)

        def digest(subject: NPU) -> str:
            start(subject)
            if ahead is not None:
                ahead(subject, CHECKED_BURSTS)
            return subject.run(CHECKED_BURSTS, digest=True).digest

        row["digest"], row["digest_bursts"] = digest(npu), CHECKED_BURSTS
        if digest(npu) != row["digest"]:
            raise Wrong(f"{CHECKED_BURSTS} bursts fire other neurons when they are run again")
        start(npu)
        alone = []
        for _ in range(CHECKED_BURSTS):
            if every is not None:
                every(npu)
            alone.append(npu.process_burst())
        if _digest(alone) != row["digest"]:
            raise Wrong(f"run fires other neurons than {CHECKED_BURSTS} times process_burst")
        row["agrees_with"] = other = self.witness(row["synapses"])
        if other is not None:
            with network.on(workloads.maker(other)) as witness:
                if digest(witness) != row["digest"]:
                    raise Wrong(f"fires other neurons than {other}")

    def time(self, npu: NPU, row: Row, every: Step | None = None, ahead: Ahead | None = None, *, seconds: float, most: int = 1000) -> None:
        """Bursts one by one, bursts by `run`, and phase by phase; each for a part of the seconds. `every`: before each burst;
        `ahead`: before each run, its time counted."""
        stimulus = every or (lambda subject: None)
        for _ in range(3 * workloads.GROUPS):
            stimulus(npu)
            npu.process_burst()
        passes: list[list[float]] = []
        fired = events = count = 0
        for _ in range(2):
            times: list[float] = []
            end = time.perf_counter() + 0.3 * seconds
            while len(times) < most and (len(times) < 10 or time.perf_counter() < end):
                stimulus(npu)
                start = time.perf_counter()
                result = npu.process_burst()
                times.append(1e6 * (time.perf_counter() - start))
                fired, events, count = fired + result.neuron_count, events + result.synaptic_injections, count + 1
            passes.append(times)
        both = np.concatenate(passes)
        medians = [float(np.median(times)) for times in passes]
        row |= {"fired": fired / count, "events": events / count}
        row["burst"] = {
            "p50_us": float(np.median(both)),
            "p99_us": float(np.percentile(both, 99)),
            "first_us": medians[0],
            "again_us": medians[1],
            "noise": abs(medians[0] - medians[1]) / min(medians),
            "bursts": count,
        }
        row["run"] = self._time_run(npu, row["burst"]["p50_us"], 0.3 * seconds, ahead)
        best = row["run"]["p50_us"]
        row["events_per_s"] = 1e6 * row["events"] / best
        row["limit_us"], row["red_per_s"] = limit(row, self.rates)
        row["times_limit"] = best / row["limit_us"]
        npu.time_phases(True)
        bursts = 0
        end = time.perf_counter() + 0.1 * seconds
        while bursts < 100 and (bursts < 5 or time.perf_counter() < end):
            stimulus(npu)
            npu.process_burst()
            bursts += 1
        row["phases_us"] = {name: 1e6 * value / bursts for name, value in (npu.phase_seconds or {}).items()}
        npu.time_phases(False)

    @staticmethod
    def _time_run(npu: NPU, burst_us: float, seconds: float, ahead: Ahead | None) -> Row:
        """Microseconds a burst inside `run`, over chunks of some milliseconds: by the host's clock, chunk by chunk, and by the
        device's, burst by burst."""
        chunk = max(workloads.GROUPS, min(2000, int(0.02 / (1e-6 * burst_us))) // workloads.GROUPS * workloads.GROUPS)
        passes: list[list[float]] = []
        stamps = []
        for _ in range(2):
            times: list[float] = []
            end = time.perf_counter() + seconds / 2
            while len(times) < 50 and (len(times) < 3 or time.perf_counter() < end):
                start = time.perf_counter()
                if ahead is not None:
                    ahead(npu, chunk)
                run = npu.run(chunk)
                times.append(1e6 * (time.perf_counter() - start) / chunk)
                stamps.append(np.diff(run.clock) / 1000)
            passes.append(times)
        medians = [float(np.median(times)) for times in passes]
        both, each = np.concatenate(passes), np.concatenate(stamps)
        return {
            "p50_us": float(np.median(both)),
            "slowest_us": float(both.max()),
            "first_us": medians[0],
            "again_us": medians[1],
            "noise": abs(medians[0] - medians[1]) / min(medians),
            "stamp_p50_us": float(np.median(each)),
            "stamp_p99_us": float(np.percentile(each, 99)),
            "chunk": chunk,
            "chunks": len(both),
        }


def limit(row: Row, rates: Sequence[Row]) -> tuple[float, float]:
    """(microseconds a burst of this workload may take, RED rate) by the rates of profiling.probe.

    10 us + events / (0.6 RED) + 64 bytes * neurons / copy: RED the best rate over as much memory as the accumulators (8
    bytes a neuron) take, or the next more that was measured.
    """
    copied = 1e9 * max(rate["gigabytes_per_s"] for rate in rates if rate["probe"] == "copy")
    reds = [rate for rate in rates if rate["probe"].startswith("red_") and not rate["probe"].endswith("merge")]
    footprint, largest = 8 * row["neurons"] / 2**20, max(red["megabytes"] for red in reds)
    size = min((red["megabytes"] for red in reds if red["megabytes"] >= footprint), default=largest)
    best = float(max(red["additions_per_s"] for red in reds if red["megabytes"] == size))
    return 10 + 1e6 * (row["events"] / (0.6 * best) + 64 * row["neurons"] / copied), best


def rounded(count: int) -> int:
    """1, 2 or 5 and zeros, not above count: runs with a little more or less time are then of equal size."""
    digits = 10 ** max(0, len(str(count)) - 1)
    return next((step * digits for step in (5, 2, 1) if step * digits <= count), 0)


def _digest(results: Sequence[BurstResult]) -> str:
    digest = Digest()
    for result in results:
        digest.update(result.burst, result.fired_neurons)
    return digest.hexdigest()


def _runs(backend: str) -> bool:
    try:
        with NPU(1, backend=workloads.maker(backend)):
            return True
    except NpuError:
        return False


# -- workloads: each a generator of rows -------------------------------------------------------------------------------
Work = Callable[[Suite], Iterator[Row]]


def seed(suite: Suite) -> Iterator[Row]:
    """The built-in example `seed`: 22,590 neurons, 500,000 synapses."""
    row: Row = {"name": "seed"}
    with suite.loaded(lambda: Network(seed_example()), row) as (npu, network):
        suite.check(npu, network, row)
        npu.run(50)  # from there on as many fire as ever will
        suite.time(npu, row, seconds=suite.share)
    yield row


def latency(suite: Suite) -> Iterator[Row]:
    """A burst with next to nothing to do, alone and with one neuron injected before it."""
    row: Row = {"name": "latency"}
    with suite.loaded(lambda: silent(64, 4), row) as (npu, network):
        suite.check(npu, network, row, prepare=functools.partial(arm, fired=4))
        suite.time(npu, row, seconds=suite.share / 2, most=5000)
        yield row
        other = {key: value for key, value in row.items() if key not in ("run", "limit_us", "times_limit")}
        other["name"] = "latency, one injected"
        times = []
        for _ in range(200 if suite.quick else 2000):
            start = time.perf_counter()
            npu.inject([3], 1.0)
            npu.process_burst()
            times.append(1e6 * (time.perf_counter() - start))
        other["burst"] = {"p50_us": float(np.median(times)), "p99_us": float(np.percentile(times, 99)), "bursts": len(times)}
        other["events_per_s"] = 1e6 * other["events"] / other["burst"]["p50_us"]
        yield other


def fly(suite: Suite) -> Iterator[Row]:
    """The right hemisphere of a fly's brain, its gustatory inputs driven in every burst."""
    file, stimulus = (suite.data / name for name in FLY_DATA)
    if not (file.is_file() and stimulus.is_file()):
        raise Skipped(f"{' and '.join(FLY_DATA)} are not in {suite.data.name}; --data says where they are")
    with np.load(stimulus) as stored:
        ids = stored["stim"].astype(np.uint32)

    def drive(npu: NPU) -> None:
        npu.inject(ids, FLY["threshold"])

    def ahead(npu: NPU, bursts: int) -> None:
        coming = npu.get_burst_count() + 1 + np.arange(bursts, dtype=np.uint64)
        npu.schedule(np.repeat(coming, len(ids)), np.tile(ids, bursts), FLY["threshold"])

    row: Row = {"name": "fly hemisphere"}
    with suite.loaded(lambda: Network(load(file, **FLY)), row) as (npu, network):
        suite.check(npu, network, row, every=drive, ahead=ahead)
        ahead(npu, 50)
        npu.run(50)
        suite.time(npu, row, drive, ahead, seconds=suite.share)
    yield row


def _exactly(suite: Suite, row: Row, neurons: int, degree: int, fired: int, *, each_psp: bool) -> None:
    with suite.loaded(lambda: silent(neurons, degree, each_psp=each_psp), row) as (npu, network):
        suite.check(npu, network, row, prepare=functools.partial(arm, fired=fired))
        suite.time(npu, row, seconds=suite.share / 3)
    if row["fired"] != fired:
        raise Wrong(f"{row['fired']} neurons fire in a burst, not {fired}")


def synthetic(probability: float) -> Work:
    def work(suite: Suite) -> Iterator[Row]:
        neurons = max(200, round((suite.synapses(2_000_000, SYNTHETIC[probability]) / probability) ** 0.5))
        row: Row = {"name": f"synthetic {probability:g}"}
        _exactly(suite, row, neurons, max(1, round(neurons * probability)), max(1, round(neurons * FIRING)), each_psp=False)
        yield row

    work.__doc__ = f"Connection probability {probability:g}, {FIRING:.1%} fire in each burst, one psp."
    return work


def million(suite: Suite) -> Iterator[Row]:
    """1,000,000 neurons, up to 1,000 synapses each, 1 % fire in each burst."""
    neurons = 20_000 if suite.quick else 1_000_000
    degree = min(1000, suite.synapses(2_000_000, 1_000_000_000) // neurons)
    if not degree:
        raise Skipped("no time or memory for a synapse a neuron")
    row: Row = {"name": "million"}
    _exactly(suite, row, neurons, degree, neurons // 100, each_psp=True)
    yield row


def activity(suite: Suite) -> Iterator[Row]:
    """One network, from 0.01 % to half of its neurons firing in each burst."""
    neurons = 20_000 if suite.quick else 1_000_000
    degree = min(100, suite.synapses(1_000_000, 100_000_000) // neurons)
    if not degree:
        raise Skipped("no time or memory for a synapse a neuron")
    base: Row = {}
    with suite.loaded(lambda: silent(neurons, degree), base) as (npu, network):
        for part in ACTIVITIES:
            row = {**base, "name": f"activity {part:.2%}"}
            fired = max(1, round(neurons * part))
            suite.check(npu, network, row, prepare=functools.partial(arm, fired=fired))
            suite.time(npu, row, seconds=suite.share / 3 / len(ACTIVITIES))
            if row["fired"] != fired:
                raise Wrong(f"{row['fired']} neurons fire in a burst, not {fired}")
            yield row


def size(neurons: int) -> Work:
    def work(suite: Suite) -> Iterator[Row]:
        degree = min(20 if suite.quick else 100, suite.synapses(max(neurons, 4_000_000), 1_000_000_000) // neurons)
        if not degree:
            raise Skipped("no time or memory for a synapse a neuron")
        row: Row = {"name": f"size {neurons:.0e}".replace("e+0", "e")}
        _exactly(suite, row, neurons, degree, neurons // 100, each_psp=True)
        yield row

    work.__doc__ = f"{neurons:,} neurons, up to 100 synapses each, 1 % fire in each burst."
    return work


def edits(suite: Suite) -> Iterator[Row]:
    """Synapses added, reweighted and removed in batches; with the burst behind them, in which they hold."""
    neurons = 10_000 if suite.quick else 1_000_000
    degree = min(100, suite.synapses(500_000, 100_000_000) // neurons)
    if not degree:
        raise Skipped("no time or memory for a synapse a neuron")
    row: Row = {"name": "edits"}
    with suite.loaded(lambda: silent(neurons, degree, spare=4 * max(BATCHES)), row) as (npu, _):
        rng, before = np.random.default_rng(1), npu.get_synapse_count()
        row["edits_per_s"], row["edit_us"] = {}, {}
        part = suite.share / 3 / len(BATCHES)
        for batch in BATCHES:
            rows: dict[str, list[float]] = {"add": [], "reweight": [], "remove": []}
            end = time.perf_counter() + part
            while len(rows["add"]) < 200 and (len(rows["add"]) < 3 or time.perf_counter() < end):
                pairs = rng.integers(0, neurons, (2, batch), dtype=np.uint32)
                weights = rng.integers(1, 256, batch, dtype=np.uint8)
                for name, edit in (
                    ("add", lambda p=pairs, w=weights: npu.add_synapses(p[0], p[1], w, 1)),
                    ("reweight", lambda p=pairs, w=weights: npu.update_weights(p[0], p[1], 255 - w)),
                    ("remove", lambda p=pairs: npu.remove_synapses(p[0], p[1])),
                ):
                    npu.process_burst()
                    start = time.perf_counter()
                    done = edit()
                    npu.process_burst()
                    rows[name].append(time.perf_counter() - start)
                    if done is not None and not done.all():
                        raise Wrong(f"{name}: {np.count_nonzero(~done)} of {batch} synapses just added were not found")
            for name, times in rows.items():
                median = float(np.median(times))
                row["edits_per_s"][f"{name} {batch}"], row["edit_us"][f"{name} {batch}"] = batch / median, 1e6 * median
        if npu.get_synapse_count() != before:
            raise Wrong(f"{npu.get_synapse_count():,} synapses are left of {before:,}")
    yield row


WORKLOADS: dict[str, tuple[Work, float]] = {
    "seed": (seed, 1),
    "latency": (latency, 0.5),
    "fly": (fly, 1.5),
    "size-10000": (size(10_000), 0.3),
    "size-100000": (size(100_000), 0.7),
    "edits": (edits, 1.5),
    "activity": (activity, 2.5),
    "size-1000000": (size(1_000_000), 1),
    "million": (million, 4),
    **{f"synthetic-{probability:g}": (synthetic(probability), 3) for probability in SYNTHETIC},
    "size-10000000": (size(10_000_000), 3),
}
"""Name -> what yields its rows, and its share of the time. Small networks first: they say what a load takes."""


# -- the suite ---------------------------------------------------------------------------------------------------------
def golden(backend: str, device: int | None, names: Sequence[str] = ()) -> int:
    """Run these golden cases, or all, on the backend; how many. AssertionError where one differs."""
    folder = str(ROOT / "tests")
    if folder not in sys.path:
        sys.path.append(folder)
    golden_cases = importlib.import_module("golden_cases")
    make = workloads.maker(backend, device)
    cases = names or golden_cases.CASES
    for name in cases:
        subject = make()
        try:
            golden_cases.run_case(golden_cases.load_case(name), subject)
        finally:
            subject.close()
    return len(cases)


def run(suite: Suite, names: Sequence[str], report: Row, save: Callable[[], None], console: Console) -> bool:
    """Fill the report, saving it after each workload; whether everything that ran was right."""
    started = time.perf_counter()
    try:
        report["golden"] = {"cases": golden(suite.backend, suite.device), "passed": True}
    except (AssertionError, NpuError) as error:
        report["golden"] = {"passed": False, "problem": str(error).strip()[:2000]}
        console.print("[red]the golden cases do not pass; nothing is timed[/]")
        save()
        return False
    console.print(f"golden cases pass ({report['golden']['cases']}, {time.perf_counter() - started:.1f} s)")
    save()
    right, rows = True, report["workloads"]
    suite.started = time.perf_counter()
    for number, name in enumerate(names):
        work, weight = WORKLOADS[name]
        weights = [WORKLOADS[later][1] for later in names[number:]]
        suite.share = max(0.0, suite.left()) * weight / sum(weights)
        start = time.perf_counter()
        problem: Row | None = None
        try:
            for row in work(suite):
                rows.append({"workload": name, "status": "ran", **row})
                console.print(f"{row['name']}: {time.perf_counter() - start:.1f} s")
        except Skipped as reason:
            problem = {"status": "skipped", "problem": str(reason)}
        except (Wrong, NpuError, MemoryError) as error:
            problem = {"status": "failed", "problem": str(error)[:2000], "trace": traceback.format_exc(limit=-3)[-2000:]}
            right = False
        if problem is not None:
            rows.append({"workload": name, "name": name, **problem})
            console.print(f"{name} {problem['status']}: {problem['problem']}", style="red" if problem["status"] == "failed" else None)
        rows[-1]["seconds"] = time.perf_counter() - start
        save()
    report["complete"] = True
    save()
    return right


def measured_rates(backend: str, device: int | None, quick: bool, file: Path | None) -> list[Row]:
    """RED and copy rates: of a file of profiling.probe where it is there and whole, else measured now in some seconds."""
    if file is not None and file.is_file():
        rows: list[Row] = json.loads(file.read_text(encoding="utf-8"))["rows"]
        rates = [row for row in rows if row["status"] == "ran" and row["probe"].startswith(RATES)]
        if any(row["probe"] == "copy" for row in rates):  # the last one: all were measured
            return rates
    opened = workloads.open_device("cpu" if backend == "reference" else backend, device, probe.program())
    try:
        return probe.run(opened, quick=quick, budget=1.0 if quick else 6.0, only=RATES)
    finally:
        opened.close()


def table(report: Row) -> Table:
    """What people look at first."""
    told = Table(title=f"{report['device']}, commit {report['commit'][:12]}, {report['date']}", title_justify="left")
    for name in (
        "workload",
        "neurons",
        "synapses",
        "fired",
        "events",
        "burst µs p50",
        "p99",
        "run µs",
        "p99",
        "noise",
        "times limit",
        "deliver µs",
        "dynamics µs",
        "G events/s",
        "B/syn",
        "load s",
    ):
        told.add_column(name, justify="left" if name == "workload" else "right")
    for row in report["workloads"]:
        if row["status"] != "ran":
            told.add_row(row["name"], f"{row['status']}: {row['problem']}"[:60])
            continue
        sizes = (f"{row['neurons']:,}", f"{row['synapses']:,}")
        tail = (f"{row['bytes_per_synapse']:.2f}", f"{row['load_s']:.2f}")
        if "burst" in row:
            burst, in_run = row["burst"], row.get("run", {})
            noise = f"{burst['noise']:.0%}" if "noise" in burst else ""
            run_us = (f"{in_run['p50_us']:,.1f}", f"{in_run['stamp_p99_us']:,.1f}") if in_run else ("", "")
            times = f"{row['times_limit']:.2f}" if "times_limit" in row else ""
            burst_us = (f"{burst['p50_us']:,.1f}", f"{burst['p99_us']:,.1f}")
            middle = (f"{row['fired']:,.0f}", f"{row['events']:,.0f}", *burst_us, *run_us, noise, times)
            phases = [f"{row['phases_us'][phase]:,.1f}" for phase in ("propagation", "dynamics")]
            told.add_row(row["name"], *sizes, *middle, *phases, f"{row['events_per_s'] / 1e9:.3f}", *tail)
        else:
            told.add_row(row["name"], *sizes, *[""] * 11, *tail)
            for what, rate in row["edits_per_s"].items():
                told.add_row(f"  {what}", "", "", "", f"{rate:,.0f}/s", f"{row['edit_us'][what]:,.1f}")
    return told


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m profiling.bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--backend", choices=workloads.BACKENDS, default="cuda", help="(%(default)s)")
    parser.add_argument("--device", type=int, help="number of the GPU")
    parser.add_argument("--quick", action="store_true", help="small networks: a couple of minutes on a CPU")
    parser.add_argument("--budget", type=float, help="seconds for the workloads (300; with --quick 100)")
    parser.add_argument("--only", action="append", choices=tuple(WORKLOADS), metavar="WORKLOAD", help=f"of {', '.join(WORKLOADS)}")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="folder with the fly hemisphere")
    parser.add_argument("--strategy", choices=STRATEGIES, help="of propagation, where it can serve, in place of what suits the device")
    parser.add_argument("--rates", type=Path, metavar="FILE", help="of profiling.probe on this device; else some are measured first")
    parser.add_argument("--commit", help="where there is no repository to ask")
    parser.add_argument("--json", type=Path, help="write the figures here, workload by workload")
    options = parser.parse_args(arguments)
    workloads.check_output(parser, options.json, ("--rates", options.rates))
    try:
        report: Row = {"benchmark": "suite", **workloads.facts(options.backend, options.device, options.commit), "quick": options.quick}
        report["strategy"] = options.strategy
        rates = measured_rates(options.backend, options.device, options.quick, options.rates)
    except (NpuError, Wrong, OSError, ValueError) as error:
        print(f"Error: {error}".splitlines()[0], file=sys.stderr)
        return 2
    report |= {"complete": False, "rates": rates, "workloads": []}
    budget = options.budget or (100 if options.quick else 300)
    suite = Suite(options.backend, options.device, options.quick, budget, options.data, rates, options.strategy)
    console = Console(width=None if sys.stdout.isatty() else 200)

    def save() -> None:
        if options.json:
            write(options.json, report)

    right = run(suite, options.only or list(WORKLOADS), report, save, console)
    console.print(table(report))
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
