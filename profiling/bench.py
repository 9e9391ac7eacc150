"""The benchmarks of a backend: correct first, then microseconds a burst, synaptic events a second, bytes, edits.

    python -m profiling.bench [--backend cuda] [--device N] [--quick] [--budget SECONDS] [--only WORKLOAD] [--json FILE]

The golden cases must pass on the same device before anything is timed, and the digest of each network that is small
enough must be another backend's. Sizes follow the free memory and the time there is: every workload has its share of what
is left of the budget. Times are of the host's clock around calls that end with the result on the host, after bursts to
warm up; everything is measured twice ("first", "again"), and noise is how far the two medians are apart.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import json
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from gpu_npu import NPU, NpuError
from gpu_npu.backends.executor import STRATEGIES
from gpu_npu.connectome.generators import seed_example
from gpu_npu.io import load
from profiling import probe, workloads
from profiling.suite import Row, Skipped, Suite
from profiling.workloads import ROOT, Network, Wrong, arm, silent, write

FIRING = 0.005
ACTIVITIES = (0.0001, 0.001, 0.01, 0.05, 0.2, 0.5)
BATCHES = (1, 1_000, 100_000)
FLY = {"threshold": 60.0, "leak_coefficient": 0.25, "refractory_period": 2}
FLY_DATA = ("flywire_right.npz", "flyref_right_gust.npz")
RATES = ("red_", "copy")
"""How the names of the probes begin that say what a burst may take."""
SYNTHETIC = {0.00156: 3_000_000_000, 0.05: 1_800_000_000}
"""Connection probability -> synapses of the published records, of which as many are taken as there is time and memory for."""


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
    folder = str(ROOT / "tests" / "helpers")
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
                console.print(f"{row['name']}, {row['synapses']:,} synapses: {time.perf_counter() - start:.1f} s")
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
    parser.add_argument("--full", action="store_true", help="networks as large as memory allows, not as the time that is left suggests")
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
        report["full"] = options.full
        report["strategy"] = options.strategy
        rates = measured_rates(options.backend, options.device, options.quick, options.rates)
    except (NpuError, Wrong, OSError, ValueError) as error:
        print(f"Error: {error}".splitlines()[0], file=sys.stderr)
        return 2
    report |= {"complete": False, "rates": rates, "workloads": []}
    budget = options.budget or (100 if options.quick else 300)
    suite = Suite(options.backend, options.device, options.quick, budget, options.data, rates, options.strategy, options.full)
    console = Console(width=None if sys.stdout.isatty() else 200)

    def save() -> None:
        if options.json:
            write(options.json, report)

    right = run(suite, options.only or list(WORKLOADS), report, save, console)
    console.print(table(report))
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
