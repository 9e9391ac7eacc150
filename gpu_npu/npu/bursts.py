"""The part of an NPU that computes bursts, and what is staged for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gpu_npu.annotate import Ranges
from gpu_npu.arrays import U32, sorted_unique
from gpu_npu.backends.base import BurstOutput, Chunk
from gpu_npu.checks import as_array, check_callable, check_count, check_flag, check_potentials
from gpu_npu.connectome.fields import COUNTERS
from gpu_npu.errors import CapacityError, NetworkError

from .calls import guarded
from .resident import Part
from .results import BurstResult, Digest, RunResult

_DLPACK_CPU = 1


class Bursts(Part):
    """Bursts, and what is staged for them."""

    @guarded
    def process_burst(self, power_neurons: ArrayLike | None = None) -> BurstResult:
        """Compute the next burst. power_neurons: the power neurons of this burst alone, in place of the set ones."""
        resident = self._resident
        power = resident.power() if power_neurons is None else sorted_unique(resident.ids(power_neurons, "power_neurons"))
        return self._burst(power)[0]

    def _burst(self, power: U32) -> tuple[BurstResult, int]:
        """The next burst, with these power neurons, and when it was over by the device's clock."""
        resident = self._resident
        backend = resident.ready()
        resident.set_power(power)
        number = backend.burst_count + 1
        if resident.ranges is None:
            out = backend.burst(number)
        else:
            with resident.ranges.range("burst", number):
                out = backend.burst(number)
                resident.ranges.mark("fired", len(out.fired))
        return _result(number, out), out.clock

    @guarded
    def run(
        self,
        n: int,
        callback: Callable[[BurstResult], object] | None = None,
        *,
        watch: Callable[[BurstResult], object] | None = None,
        digest: bool = False,
    ) -> RunResult:
        """n bursts in turn.

        callback: sees the result of each burst before the next begins, and may inject, edit and query. Without one the
        device computes many bursts on its own: much faster, the same results; what is to be injected meanwhile is told
        before, with `schedule`.
        watch: sees each result in turn too, but the device may be ahead of it: it cannot touch the NPU. However slow it
        is, memory stays bounded and nothing is lost; where it raises, some bursts are computed that it has not seen.
        digest: the result has a digest of what fired. The host makes it, out of every fired id.
        """
        n = check_count(n, "n")
        callback, watch = check_callable(callback, "callback"), check_callable(watch, "watch")
        first, synaptic, sha = self._resident.burst_count + 1, 0, Digest() if check_flag(digest, "digest") else None
        try:
            fired_counts, clock = np.zeros(n, np.int64), np.zeros(n, np.int64)
        except (MemoryError, ValueError) as error:
            raise CapacityError(f"n: the result of {n:,} bursts is more than the memory of this machine; run fewer at a time") from error
        if callback is not None:
            for i in range(n):
                result, clock[i] = self._burst(self._resident.power())
                fired_counts[i] = result.neuron_count
                synaptic += result.synaptic_injections
                if sha is not None:
                    sha.update(result.burst, result.fired_neurons)
                if watch is not None:
                    self._resident.guard.hand_out(watch, result)
                self._resident.guard.hand_out(callback, result)
            return RunResult(first, fired_counts, synaptic, clock, None if sha is None else sha.hexdigest())
        for chunk in self._chunks(n):
            here = slice(chunk.first - first, chunk.first - first + len(chunk))
            fired_counts[here], clock[here] = np.diff(chunk.begin), chunk.clock
            synaptic += int(chunk.counters[:, 2].sum())
            if sha is not None:
                sha.update_many(chunk.first, chunk.begin, chunk.fired)
            if watch is not None:
                for burst, out in chunk.outputs():
                    watch(_result(burst, out))
        return RunResult(first, fired_counts, synaptic, clock, None if sha is None else sha.hexdigest())

    def _chunks(self, n: int) -> Iterator[Chunk]:
        """n bursts computed without the host; until the iterator is closed the NPU belongs to it."""
        backend = self._resident.ready()
        self._resident.set_power(self._resident.power())
        with closing(backend.run(backend.burst_count + 1, n)) as chunks:
            yield from chunks

    @guarded
    def schedule(self, bursts: Any, neurons: ArrayLike, potentials: Any) -> None:
        """Stage external potential for bursts to come, so that `run` need not ask: potentials[i], or one for all, into
        neurons[i] in burst bursts[i], or in one burst for all. In its burst it adds after what `inject` has staged, in the
        order scheduled. `reset` forgets it."""
        ids = self._resident.ids(neurons)
        self._resident.ready().schedule(self._coming(bursts, len(ids)), ids, check_potentials(potentials, len(ids)))

    @guarded
    def schedule_force(self, bursts: Any, neurons: ArrayLike) -> None:
        """Stage neurons to be forced (see `force_fire`) in bursts to come: neurons[i] in burst bursts[i], or all in one."""
        ids = self._resident.ids(neurons)
        self._resident.ready().schedule(self._coming(bursts, len(ids)), ids, None)

    def _coming(self, bursts: Any, count: int) -> NDArray[np.uint64]:
        """Burst numbers, one for each of `count` items; all still to come."""
        given = as_array(bursts, "bursts")
        if given.dtype.kind not in "iu" or given.shape not in ((), (count,)):
            each = f"one burst number for all, or one for each of {count:,} neurons"
            raise NetworkError(f"bursts: an array of {given.dtype} of shape {given.shape}, where {each} is needed")
        last = self._resident.burst_count
        if given.size and not last < int(given.min()) <= int(given.max()) < 2**62:
            at = int(given.min()) if int(given.min()) <= last else int(given.max())
            raise NetworkError(f"bursts: burst {at} cannot be scheduled: it must come after the last burst, {last}, and before 2^62")
        return np.ascontiguousarray(np.broadcast_to(given, (count,)).astype(np.uint64))

    @guarded
    def inject(self, neurons: Any, potentials: Any) -> None:
        """Stage external potential for the next burst: ids (repeated ones add in order) and one potential, or one for each.

        Two arrays on the backend's device (uint32 ascending, float32, contiguous) are taken there, without a way
        through the host. Deleted and missing neurons are passed over in the burst.
        """
        backend = self._resident.ready()
        if _on_device(neurons) or _on_device(potentials):
            with self._resident.range("injection"):
                backend.inject_device(neurons, potentials)
            return
        ids = self._resident.ids(neurons)
        backend.inject(ids, check_potentials(potentials, len(ids)))

    @guarded
    def force_fire(self, neurons: ArrayLike) -> None:
        """Stage neurons to fire in the next burst whatever their potential (firing potential 100)."""
        self._resident.ready().force(self._resident.ids(neurons))

    @guarded
    def fired_on_device(self) -> Any:
        """Fired ids of the last burst where they are: a DLPack-capable uint32 array, valid until the next burst of any thread."""
        return self._resident.ready().fired_on_device()

    @guarded
    def time_phases(self, on: bool) -> None:
        """Time each phase of a burst apart from now on (slower; same results), or stop and forget."""
        self._resident.ready().time_phases(check_flag(on, "on"))

    @property
    @guarded
    def phase_seconds(self) -> dict[str, float] | None:
        """Seconds by phase since `time_phases(True)`; None when that is off."""
        return self._resident.ready().phase_seconds

    @guarded
    def annotate(self, on: bool) -> None:
        """Show to a profiler, from now on, what is done: builds, loads, bursts phase by phase, edits and transfers, as NVTX
        ranges (`gpu_npu.annotate`; slower; same results); or stop. BackendUnavailableError without the package nvtx."""
        backend = self._resident.ready()
        self._resident.ranges = (self._resident.ranges or Ranges()) if check_flag(on, "on") else None
        backend.annotate(self._resident.ranges)


def _result(burst: int, out: BurstOutput) -> BurstResult:
    return BurstResult(
        burst=burst,
        fired_neurons=out.fired,
        neuron_count=len(out.fired),
        **dict(zip(COUNTERS, out.counters, strict=True)),
    )


def _on_device(values: object) -> bool:
    """Whether the backend should take this array where it is: it lies on a device, or offers its memory by DLPack alone."""
    if isinstance(values, np.ndarray):
        return False
    if hasattr(values, "__cuda_array_interface__"):
        return True
    device = getattr(values, "__dlpack_device__", None)
    return device is not None and (device()[0] != _DLPACK_CPU or not hasattr(values, "__array__"))
