"""What bursts say: the result of one, of a run, and the digest of a run. Ids are uint32 and ascending, host copies of the reader's own."""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_npu.arrays import U32
from gpu_npu.checks import check_flag, check_kind
from gpu_npu.errors import NetworkError
from gpu_npu.objects import OneLine, described

from .sha256 import Sha256


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
    clock : int64 (n,), nanoseconds of a clock of the device when each of them was over; only differences mean anything.
    """

    first_burst: int
    fired_counts: NDArray[np.int64]
    synaptic_injections: int
    clock: NDArray[np.int64]
    sha256: str | None = None
    """The digest, where one was asked for."""

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of the run, see `Digest`. NetworkError where `run` was not asked for it."""
        if self.sha256 is None:
            raise NetworkError("this run was not asked for a digest", python="npu.run(n, digest=True)")
        return self.sha256

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
        if state is not None:
            check_kind(state, bytes, "state")
        self._sha: Any = Sha256(state) if check_flag(resumable, "resumable") or state is not None else hashlib.sha256()

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
