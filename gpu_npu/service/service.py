"""What the service does for a request: the engine's side of it, without HTTP."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from numpy.typing import ArrayLike

import gpu_npu
from gpu_npu import NPU, BurstEngine, EngineStatus, NetworkError
from gpu_npu.checks import check_ids
from gpu_npu.npu.results import BurstResult
from gpu_npu.objects import OneLine, Unique, described

from .activity import AreaActivity
from .bodies import MOST_STEPS


@dataclass(frozen=True)
class AreaStatus:
    """Neurons that fired in an area since the service began."""

    id: int
    name: str
    fired: int


@dataclass(frozen=True, repr=False)
class ServiceStatus(OneLine):
    """The engine, and what it runs."""

    version: str
    network: str
    backend: str
    neurons: int
    synapses: int
    power_amount: float
    memory: dict[str, int]
    """Bytes on the device by piece."""
    process_bytes: int
    """Resident memory of the process; 0 where the system does not say."""
    areas: list[AreaStatus]
    engine: EngineStatus


class Busy(Exception):
    """The engine did not come to it in time, or has too much to do."""


@dataclass(frozen=True, repr=False)
class Seen(OneLine):
    """What was seen of a network between two bursts, under the names of ServiceStatus; the names of areas by id."""

    backend: str
    neurons: int
    synapses: int
    power_amount: float
    memory: dict[str, int]
    names: dict[int, str]


class Service(Unique):
    """An engine under a name, with a count of what fires where.

    moved(npu) is called between bursts, when neurons have come to another area. checkpoint: the file that checkpoints are
    written to, with these notes.
    """

    def __init__(
        self,
        engine: BurstEngine,
        network: str,
        moved: Callable[[NPU], object] = lambda npu: None,
        checkpoint: Path | None = None,
        notes: Mapping[str, Any] | None = None,
    ) -> None:
        self.engine, self.network, self._moved = engine, _printable(network), moved
        self._path, self._notes = checkpoint, notes
        self._written: Future[int] | None = None
        self._looking: Future[None] | None = None
        self._steps: list[tuple[Future[BurstResult], int]] = []
        self.activity = AreaActivity(engine.npu)
        engine.add_sink(self.activity, "areas")
        engine.submit(self._see).result()

    def __repr__(self) -> str:
        return described(self, f"{self.network!r} on {self.engine!r}")

    def look(self) -> Future[None]:
        """Look at the network again, between bursts; who asks while others wait for that waits with them."""
        if self._looking is None or self._looking.done():
            self._looking = self.engine.submit(self._see)
        return self._looking

    def _see(self, npu: NPU) -> None:
        names = {area: flags.name for area, flags in npu.areas.items()}
        self._seen = Seen(npu.backend, npu.get_neuron_count(), npu.get_synapse_count(), npu.power_amount, npu.memory(), names)

    def status(self) -> ServiceStatus:
        """How it goes: the engine as it is, and the network as `look` saw it last. It waits for no burst."""
        if self.engine.state in ("stopped", "failed"):  # then the NPU is there to be looked at
            self._see(self.engine.npu)
        seen, fired = self._seen, self.activity.fired()
        areas = [AreaStatus(area, seen.names.get(area, ""), fired.get(area, 0)) for area in sorted({*seen.names, *fired})]
        engine = self.engine.status()
        if engine.error is not None:
            engine = replace(engine, error=_printable(engine.error))
        return ServiceStatus(
            gpu_npu.__version__,
            self.network,
            seen.backend,
            seen.neurons,
            seen.synapses,
            seen.power_amount,
            seen.memory,
            resident(),
            areas,
            engine,
        )

    def step(self, n: int) -> Future[BurstResult]:
        """Compute bursts of a paused engine; the future has the result of the last. Busy where more than MOST_STEPS would be under
        way."""
        self._steps = [(future, count) for future, count in self._steps if not future.done()]
        if n + sum(count for _, count in self._steps) > MOST_STEPS:
            raise Busy(f"more than {MOST_STEPS:,} bursts of /step would be under way")
        future = self.engine.submit_steps(n)
        self._steps.append((future, n))
        return future

    def set_parameter(self, name: str, neurons: ArrayLike | None, area: int | None, values: Any) -> Future[int]:
        """Set a field of neurons, or of those of an area, between bursts; the future has of how many."""

        def change(npu: NPU) -> int:
            if area is not None:
                count = npu.set_area_parameter(name, area, values)
            else:
                ids = check_ids([] if neurons is None else neurons, npu.neuron_capacity, find=npu.annotations.finder)
                npu.set_parameter(name, ids, values)
                count = len(ids)
            if name == "cortical_area":
                self.activity.refresh()
                self._moved(npu)
            return count

        return self.engine.submit(change)

    def checkpoint(self) -> Future[int]:
        """Write a checkpoint; the future has its burst. NetworkError where there is no file for it."""
        if self._path is None:
            raise NetworkError("there is no file for a checkpoint; start the service with --checkpoint FILE")
        self._written = self.engine.checkpoint(self._path, self._notes)
        return self._written

    def last_checkpoint(self) -> int:
        """Pause, and write one after the one that is being written; returns its burst."""
        self.engine.pause()
        if self._written is not None:
            self._written.exception()
        return self.checkpoint().result()


def _printable(text: str) -> str:
    """What UTF-8 cannot hold as \\udcff: names of files may be any bytes."""
    return text.encode("utf-8", "backslashreplace").decode()


def resident() -> int:
    """Bytes of memory that this process has; 0 where the system does not say."""
    if not sys.platform.startswith("linux"):
        return 0
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
