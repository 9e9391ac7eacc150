"""What an NPU hands out to look at: neurons as arrays, the lists inside a burst, the ledger.

All arrays are the reader's own host copies; lists of ids are uint32 and ascending.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_npu.arrays import F32, U32
from gpu_npu.checks import check_integer
from gpu_npu.connectome import NEURON_FIELDS
from gpu_npu.errors import NetworkError
from gpu_npu.objects import OneLine, Unique, described

History = list[tuple[int, U32]]
"""(burst, fired ids), in turn."""
_FIELDS = {name: name for name in (*NEURON_FIELDS, "valid", "created")} | {f.seed_name: f.name for f in NEURON_FIELDS.values()}


class NeuronArrayView(Unique):
    """The neurons of an NPU under the field names and under the names of the first API (thresholds, leak_rates, cortical_areas, ...).

    Every look fetches the whole field as it then is: a host copy of shape (capacity,), coordinates (capacity, 3), that
    is the reader's own. Writing to it changes nothing; `NPU.set_parameter` does.
    """

    instead = "npu.to_connectome().neurons is a copy"

    def __init__(self, capacity: int, read: Callable[[str], NDArray[Any]]) -> None:
        self.capacity = capacity
        self._read = read

    def __repr__(self) -> str:
        return described(self, f"the neurons of an NPU (capacity {self.capacity:,}), each field fetched when it is looked at")

    @property
    def count(self) -> int:
        """Ids created so far, deleted ones included."""
        return int(np.count_nonzero(self._read("created")))

    def __getattr__(self, name: str) -> NDArray[Any]:
        if name not in _FIELDS:
            raise AttributeError(f"neurons have no field {name!r}; these are: {', '.join(_FIELDS)}")
        return self._read(_FIELDS[name])

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *_FIELDS})


def _position(neurons: U32, neuron: int) -> int | None:
    """Index of an id in ascending ids, or None."""
    at = int(np.searchsorted(neurons, neuron))
    return at if at < len(neurons) and neurons[at] == neuron else None


@dataclass(frozen=True, repr=False)
class FireCandidateList(OneLine):
    """The candidates of a burst: `neurons` and what was injected into each, `potentials` (float32, ext + synaptic)."""

    neurons: U32
    potentials: F32

    def __len__(self) -> int:
        return len(self.neurons)

    def __contains__(self, neuron: int) -> bool:
        return _position(self.neurons, neuron) is not None

    def get(self, neuron: int) -> float | None:
        """Potential of a neuron, or None where it is not in the list."""
        at = _position(self.neurons, neuron)
        return None if at is None else float(self.potentials[at])


@dataclass(frozen=True, repr=False)
class FireQueue(FireCandidateList):
    """The neurons that fired in burst `burst`: ids, firing potentials, coordinates (n, 3) and areas, in the same order."""

    burst: int
    coordinates: U32
    cortical_areas: U32

    def in_area(self, area: int) -> U32:
        """The neurons of one area that fired."""
        return np.asarray(self.neurons[self.cortical_areas == area])


class FireLedger(Unique):
    """The sliding window over the last bursts, read on demand from where it is kept; a silent burst is an empty entry."""

    instead = "dict(ledger) is a copy of what it holds"

    def __init__(self, window: int, burst_count: Callable[[], int], read: Callable[[Callable[[range], Iterable[int]]], History]) -> None:
        """read: what some of the bursts that are held then have fired; all at once, whatever other threads do."""
        self.window = window
        self._burst_count = burst_count
        self._read = read

    def __repr__(self) -> str:
        held = self.bursts
        return described(self, f"bursts {held[0]:,} to {held[-1]:,} in a window of {self.window:,}" if held else "no burst yet")

    @property
    def bursts(self) -> range:
        """Numbers of the bursts that the ledger holds, oldest first."""
        last = self._burst_count()
        return range(max(1, last - self.window + 1), last + 1)

    def __len__(self) -> int:
        return len(self.bursts)

    def __getitem__(self, burst: int) -> U32:
        """Fired ids of one burst. NetworkError outside the window, which it names."""
        return self._read(lambda held: [self._inside(burst, held)])[0][1]

    def _inside(self, burst: int, held: range) -> int:
        if check_integer(burst, "burst") not in held:
            inside = f"it holds bursts {held[0]} to {held[-1]}" if held else "it is empty: no burst has run"
            raise NetworkError(
                f"burst {burst} is not in the fire ledger: {inside}, with a window of {self.window:,} bursts",
                python="make the NPU with a larger fire_ledger_window",
            )
        return burst

    def __iter__(self) -> Iterator[tuple[int, U32]]:
        """(burst, fired ids), oldest first. NetworkError for one that has left the window by its turn."""
        for burst in self.bursts:
            yield burst, self[burst]

    def recent(self, count: int) -> History:
        """(burst, fired ids) of the last `count` bursts that the ledger holds, newest first."""
        wanted = check_integer(count, "count")
        return self._read(lambda held: reversed(held[max(0, len(held) - wanted) :]))
