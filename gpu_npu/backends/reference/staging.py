"""What is injected or forced in the next burst, and in later ones."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_npu.arrays import F32, U32, sorted_union
from gpu_npu.backends.flight import Scheduled
from gpu_npu.backends.scheduled import ScheduleStore
from gpu_npu.checks import LARGEST, SMALLEST_NORMAL, settle
from gpu_npu.errors import NetworkError, NeuronIndexError

MOST_ROUNDS = 64
"""Of additions to many neurons at a time, where some are injected into several times."""


class Staging:
    """External potentials in the order staged, forced neurons, and the schedule."""

    def __init__(self) -> None:
        self.schedule = ScheduleStore()
        self.clear()

    def clear(self) -> None:
        """Nothing is staged for the next burst."""
        self._staged: list[tuple[U32, F32]] = []
        self._forced: list[U32] = []

    @property
    def nbytes(self) -> int:
        """Bytes of what is staged."""
        return sum(ids.nbytes + values.nbytes for ids, values in self._staged) + sum(ids.nbytes for ids in self._forced)

    def inject(self, neurons: U32, potentials: F32) -> None:
        """Stage potentials."""
        self._staged.append((neurons.copy(), potentials.copy()))

    def inject_device(self, neurons: object, potentials: object, capacity: int) -> None:
        """Stage from arrays on the host, all in range and finite; else nothing is staged."""
        ids, values = _host_array("neurons", neurons, np.uint32), _host_array("potentials", potentials, np.float32)
        if len(ids) != len(values):
            raise NetworkError(f"{len(ids)} neurons but {len(values)} potentials: give one potential a neuron")
        if np.any(ids >= capacity):
            at = int(np.argmax(ids >= capacity))
            raise NeuronIndexError.outside(f"neurons[{at}]", int(ids[at]), capacity)
        if np.any(ids[1:] < ids[:-1]):
            at = int(np.argmax(ids[1:] < ids[:-1])) + 1
            raise NetworkError(f"neurons[{at}] = {ids[at]} comes after {ids[at - 1]}: sort the ids ascending")
        if not np.isfinite(values).all():
            at = int(np.argmin(np.isfinite(values)))
            raise NetworkError(f"potentials[{at}] = {values[at]} is not finite")
        self.inject(ids, settle(values))

    def force(self, neurons: U32) -> None:
        """Stage neurons to be forced."""
        self._forced.append(neurons.copy())

    def take_scheduled(self, burst: int) -> None:
        """What is scheduled for this burst comes after what is staged."""
        _, who, how_much = self.schedule.upto(burst)
        self.schedule.forget(burst)
        self.inject(who[~np.isnan(how_much)], how_much[~np.isnan(how_much)])
        self.force(who[np.isnan(how_much)])

    def staged(self) -> tuple[tuple[U32, F32], U32]:
        """(ids and potentials in the order staged; ids to force, ascending, each once)."""
        none = Scheduled.none()
        ids = np.concatenate([*(ids for ids, _ in self._staged), none.neuron])
        potentials = np.concatenate([*(values for _, values in self._staged), none.potential])
        return (ids, potentials), sorted_union(*self._forced, none.neuron)


def add_in_order(sums: F32, ids: U32, values: F32) -> None:
    """sums[ids[i]] = settle(sums[ids[i]] + values[i]), one after the other. Round r adds the r-th value of every id that has so
    many; beyond MOST_ROUNDS, where few ids are left, they are taken in turn."""
    by_id = np.argsort(ids, kind="stable")
    ids, values = ids[by_id], values[by_id]
    rank = np.arange(len(ids)) - np.searchsorted(ids, ids)
    rest = rank >= MOST_ROUNDS
    by_rank = np.argsort(rank[~rest], kind="stable")
    here, added = ids[~rest][by_rank], values[~rest][by_rank]
    bounds = np.searchsorted(rank[~rest][by_rank], np.arange(min(int(rank.max(initial=-1)) + 1, MOST_ROUNDS) + 1)).tolist()
    for begin, end in pairwise(bounds):
        sums[here[begin:end]] = settle(sums[here[begin:end]] + added[begin:end])
    ids, values = ids[rest], values[rest]
    starts = np.flatnonzero(np.diff(ids, prepend=-1)).tolist() if len(ids) else []
    for begin, end in pairwise([*starts, len(ids)]):
        sums[ids[begin]] = _added(sums[ids[begin]], values[begin:end])


def _added(total: np.float32, values: F32) -> np.float32:
    """total = settle(total + value) for each value in turn: NumPy's running sum, up to where a step has something to settle."""
    at, most = 0, MOST_ROUNDS
    while at < len(values):
        with np.errstate(over="ignore", invalid="ignore"):
            running = np.add.accumulate(np.concatenate((np.array([total]), values[at : at + most])))[1:]
        magnitude = np.abs(running)
        settles = ~(((magnitude >= SMALLEST_NORMAL) & (magnitude <= LARGEST)) | (magnitude == 0))
        if not settles.any():
            total, at, most = running[-1], at + most, 2 * most
            continue
        first = int(np.argmax(settles))
        total = settle(running[first : first + 1])[0]
        at, most = at + first + 1, MOST_ROUNDS
        for value in values[at : at + MOST_ROUNDS].tolist():  # where one settles others may, too
            exact = np.float32(float(total) + value)  # exact: a sum of two float32 rounds twice to the same
            total = np.float32(0) if abs(exact) < SMALLEST_NORMAL else min(max(exact, -LARGEST), LARGEST)
        at += MOST_ROUNDS
    return np.float32(settle(np.array([total]))[0])


def _host_array(what: str, value: object, dtype: type[np.generic]) -> NDArray[Any]:
    """A one-dimensional contiguous array in host memory, taken by DLPack, never converted."""
    try:
        array: NDArray[Any] = value if isinstance(value, np.ndarray) else np.from_dlpack(value)  # type: ignore[arg-type]
    except (AttributeError, TypeError, ValueError, BufferError, RuntimeError) as error:
        raise NetworkError(f"{what}: {type(value).__name__} is not an array in host memory that DLPack can pass ({error})") from error
    if array.dtype != dtype or array.ndim != 1 or not array.flags.c_contiguous:
        raise NetworkError(
            f"{what}: a contiguous one-dimensional {np.dtype(dtype)} array is needed, not {array.dtype} of shape {array.shape}"
            f"{'' if array.flags.c_contiguous else ', strided'}"
        )
    return array
