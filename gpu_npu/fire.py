"""What bursts fired: results, the lists inside a burst, the ledger and the digest of a run.

All arrays here are the reader's own host copies; lists of ids are uint32 and ascending.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_npu.arrays import F32, U32
from gpu_npu.errors import NetworkError
from gpu_npu.objects import OneLine, Unique, described
from gpu_npu.sha256 import Sha256

History = list[tuple[int, U32]]
"""(burst, fired ids), in turn."""


@dataclass(frozen=True, repr=False)
class BurstResult(OneLine):
    """The result of one burst: its number, the ids that fired, and counters (docs/glossary.md explains the words).

    sensory_injections : potentials injected into valid neurons.  power_injections : power neurons that received power.
    synaptic_injections : synapses that delivered to valid neurons.
    neurons_processed : candidates.  neurons_in_refractory : candidates that could not fire during their refractory period.
    """

    burst: int
    fired_neurons: U32
    neuron_count: int
    power_injections: int
    sensory_injections: int
    synaptic_injections: int
    neurons_processed: int
    neurons_in_refractory: int


@dataclass(frozen=True, repr=False)
class RunResult(OneLine):
    """The result of the n bursts of a `NPU.run`.

    Attributes
    ----------
    first_burst : number of the first of them.
    fired_counts : int64 (n,), neurons that fired in each.
    synaptic_injections : terms delivered in all of them.
    digest : SHA-256 (hex) of the run, see `Digest`.
    clock : int64 (n,), nanoseconds of a clock of the device when each of them was over; only differences mean anything.
    """

    first_burst: int
    fired_counts: NDArray[np.int64]
    synaptic_injections: int
    digest: str
    clock: NDArray[np.int64]

    @property
    def bursts(self) -> int:
        """How many bursts were run."""
        return len(self.fired_counts)

    @property
    def fired_total(self) -> int:
        """Fired neurons, summed over the bursts."""
        return int(self.fired_counts.sum())


class Digest:
    """SHA-256 over bursts in turn, silent ones too: u64 burst, u64 count, the fired ids as u32, little endian.

    Two runs are the same when their digests are. A resumable one can say its `state`, with which another goes on, in another
    process too.
    """

    def __init__(self, *, resumable: bool = False, state: bytes | None = None) -> None:
        self._sha: Any = Sha256(state) if resumable or state is not None else hashlib.sha256()

    def update(self, burst: int, fired_neurons: U32) -> None:
        """Append one burst: its number and its fired ids (ascending)."""
        self._sha.update(struct.pack("<QQ", burst, len(fired_neurons)) + np.ascontiguousarray(fired_neurons, dtype="<u4").tobytes())

    def state(self) -> bytes:
        """From which `Digest(state=...)` goes on. NetworkError where it is not resumable."""
        if not isinstance(self._sha, Sha256):
            raise NetworkError("this digest keeps no state to go on from", python="Digest(resumable=True) does")
        return self._sha.state()

    def update_many(self, first: int, begin: NDArray[np.int64], fired_neurons: U32) -> None:
        """Append consecutive bursts: burst first + i fired fired_neurons[begin[i] : begin[i + 1]]."""
        counts = np.diff(begin)
        words = np.zeros(4 * len(counts) + len(fired_neurons), "<u4")
        headers = begin[:-1] + 4 * np.arange(len(counts))
        numbers = np.stack((np.arange(first, first + len(counts)), counts), axis=1).astype("<u8")
        words[(headers[:, None] + np.arange(4)).ravel()] = numbers.view("<u4").ravel()
        is_id = np.ones(len(words), np.bool_)
        is_id[(headers[:, None] + np.arange(4)).ravel()] = False
        words[is_id] = fired_neurons
        self._sha.update(words.tobytes())

    def __repr__(self) -> str:
        return described(self, self.hexdigest())

    def hexdigest(self) -> str:
        """The digest of what was appended so far."""
        return str(self._sha.hexdigest())


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
        if burst not in held:
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
        if count < 0:
            raise NetworkError(f"count {count} is negative; ask for 0 bursts or more")
        return self._read(lambda held: reversed(held[max(0, len(held) - count) :]))
