"""What the benchmarks share: a network on the backend under test, checked before it is timed, and the clock."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from gpu_npu import NPU, BurstResult, Digest, NpuError
from profiling import workloads
from profiling.workloads import Network, Wrong, silent

Row = dict[str, Any]
Step = Callable[[NPU], object]
Ahead = Callable[[NPU, int], object]
"""Stages what so many bursts to come are driven with."""
CHECKED_BURSTS = 12
CHECKED_SYNAPSES = {"cpu": 20_000_000, "reference": 3_000_000}
"""The largest network that is also run on this backend, for its digest."""
SYNAPSE_BYTES = 16
"""A synapse needs at most so much while it is loaded (rows, and what building them takes beside)."""


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
    whole: bool = False
    """Whether networks are as large as the records ask, however long they take."""
    started: float = field(default_factory=time.perf_counter)
    seconds_a_synapse: float = 0.0
    share: float = 0.0
    """Seconds of the workload at hand."""

    def left(self) -> float:
        return self.budget - (time.perf_counter() - self.started)

    def synapses(self, wanted: int, full: int) -> int:
        """`wanted` with --quick, else `full`, or as many as the time allows without --full; fewer where memory is short."""
        device = workloads.open_device("cpu" if self.backend == "reference" else self.backend, self.device)
        room = int(0.8 * device.free_and_total()[0]) // SYNAPSE_BYTES
        device.close()
        if self.quick:
            return rounded(min(wanted, room))
        if self.whole:
            return rounded(min(room, full))
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
