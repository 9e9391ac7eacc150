"""What the service does for a request: the engine's side of it, without HTTP."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import gpu_npu
from gpu_npu import NPU, BurstEngine, EngineError, EngineStatus, NetworkError
from gpu_npu.objects import OneLine, Unique, described

from .activity import AreaActivity

P = ParamSpec("P")
T = TypeVar("T")

TURN = 10.0
"""Seconds in which a call must have had its turn between bursts."""


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
    """The burst thread did not come to it in time."""


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
        self.activity = AreaActivity(engine.npu)
        engine.add_sink(self.activity, "areas")

    def __repr__(self) -> str:
        return described(self, f"{self.network!r} on {self.engine!r}")

    def call(self, function: Callable[Concatenate[NPU, P], T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """function(npu, ...) between bursts, and its result. Busy where its turn does not come in TURN seconds: it is
        not made then, or its end is not waited for."""
        future = self.engine.submit(function, *args, **kwargs)
        try:
            return future.result(TURN)
        except FutureTimeout as error:
            if future.done():  # just so, or the error is the function's own
                return future.result()
            future.cancel()
            raise Busy(f"the engine was busy for {TURN:g} seconds") from error

    def status(self) -> ServiceStatus:
        """How it goes."""

        def facts(npu: NPU) -> tuple[str, int, int, float, dict[str, int], dict[int, str]]:
            names = {area: flags.name for area, flags in npu.areas.items()}
            return npu.backend, npu.get_neuron_count(), npu.get_synapse_count(), npu.power_amount, npu.memory(), names

        try:
            backend, neurons, synapses, power_amount, memory, names = self.call(facts)
        except EngineError:  # it is ending: then the NPU is there to be looked at
            with suppress(EngineError):
                self.engine.wait(TURN)
            if self.engine.state not in ("stopped", "failed"):
                raise
            backend, neurons, synapses, power_amount, memory, names = facts(self.engine.npu)
        fired = self.activity.fired()
        areas = [AreaStatus(area, names.get(area, ""), fired.get(area, 0)) for area in sorted({*names, *fired})]
        engine = self.engine.status()
        if engine.error is not None:
            engine = replace(engine, error=_printable(engine.error))
        return ServiceStatus(
            gpu_npu.__version__, self.network, backend, neurons, synapses, power_amount, memory, resident(), areas, engine
        )

    def set_parameter(self, name: str, neurons: list[int | str] | None, area: int | None, values: Any) -> int:
        """Set a field of neurons, or of those of an area; returns of how many."""

        def change(npu: NPU) -> int:
            if area is not None:
                count = npu.set_area_parameter(name, area, values)
            else:
                npu.set_parameter(name, neurons or [], values)
                count = len(neurons or [])
            if name == "cortical_area":
                self.activity.refresh()
                self._moved(npu)
            return count

        return self.call(change)

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
