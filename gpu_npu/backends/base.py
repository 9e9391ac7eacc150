"""The contract of platforms and backends: what is resident, what a burst is, what an edit is.

A backend owns all neuron and synapse state from load to close. The NPU above it has checked every argument: arrays
are contiguous, of the dtype stated, in range, and all-or-nothing decisions are already made. Ids are uint32.
Everything takes effect in the next burst. Lists of synapses come back ascending by source, then target, then age.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_npu.annotate import Ranges
from gpu_npu.arrays import F32, U32
from gpu_npu.backends.flight import Flight
from gpu_npu.backends.shape import NetworkShape
from gpu_npu.connectome import Area, Connectome, PlasticityRule, Settings, SynapseBatch, SynapseSource
from gpu_npu.objects import OneLine, Unique, described

FieldValues = Mapping[str, NDArray[Any]]
"""Field name -> array of shape (n,) or (n, 3), as in `gpu_npu.connectome.fields`."""
PHASES = ("injection", "propagation", "dynamics", "archival", "transfer")


@dataclass(frozen=True, repr=False)
class BurstOutput(OneLine):
    """What comes back from a burst: fired ids (uint32, ascending, host, owned by the caller), a number for each of COUNTERS,
    and when it was over by a clock of the device, in nanoseconds; only differences of it mean anything."""

    fired: U32
    counters: tuple[int, ...]
    clock: int = field(default=0, compare=False)


@dataclass(frozen=True, repr=False)
class Chunk(OneLine):
    """Consecutive bursts of a run.

    first : number of the first of them.
    begin : int64 (n + 1,); burst first + i fired `fired[begin[i] : begin[i + 1]]`.
    fired : uint32, ids, ascending within a burst; owned by the caller.
    counters : uint64 (n, 5), a column for each of COUNTERS.
    clock : int64 (n,), as of BurstOutput.
    """

    first: int
    begin: NDArray[np.int64]
    fired: U32
    counters: NDArray[np.uint64]
    clock: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.clock)

    def outputs(self) -> Iterator[tuple[int, BurstOutput]]:
        """(burst, what came back from it), in turn."""
        begin = self.begin.tolist()
        for i, (counters, clock) in enumerate(zip(self.counters.tolist(), self.clock.tolist(), strict=True)):
            yield self.first + i, BurstOutput(self.fired[begin[i] : begin[i + 1]], tuple(counters), clock)


class Phases:
    """Each phase of a burst timed or shown apart, where that is asked for.

    seconds : by phase (PHASES), summed since timing began; None: nothing is timed.
    ranges : in which a profiler is shown each phase; None: it is not.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] | None = None
        self.ranges: Ranges | None = None

    @property
    def on(self) -> bool:
        """Whether phases are told apart."""
        return self.seconds is not None or self.ranges is not None

    @contextmanager
    def phase(self, name: str, burst: int) -> Iterator[None]:
        """A phase of a burst. Where it is timed, its work is over at the end."""
        with nullcontext() if self.ranges is None else self.ranges.range(name, burst):
            start = time.perf_counter()
            yield
            if self.seconds is not None:
                self.seconds[name] += time.perf_counter() - start


class Platform(Unique, ABC):
    """What networks run on. It says what it is and how much memory a network would take there, and loads one."""

    name: str

    def __repr__(self) -> str:
        return described(self, self.description)

    @property
    @abstractmethod
    def description(self) -> str:
        """One line for people: the device, the build, the workers."""

    @abstractmethod
    def free_and_total(self) -> tuple[int, int]:
        """(free, total) bytes."""

    @abstractmethod
    def plan(self, connectome: Connectome, shape: NetworkShape, synapses: SynapseSource | None = None) -> tuple[dict[str, int], int]:
        """What `load` with the same arguments would take: bytes by piece, as `Backend.memory` then says, and what the load takes
        beside them for a moment. Every synapse is read once; what plasticity rules take is not counted."""

    @abstractmethod
    def load(self, connectome: Connectome, shape: NetworkShape, synapses: SynapseSource | None = None) -> Backend:
        """A backend that holds this network and more synapses, younger than those of the connectome. Neurons that are not valid
        in the connectome are not valid there. A source that breaks its word raises from here; nothing is held then."""

    @abstractmethod
    def close(self) -> None:
        """Give back what there is without a network. A backend that was loaded gives everything back when it closes."""


class Backend(Unique, ABC):
    """One network, resident and running."""

    name: str

    def __init__(self) -> None:
        self._phases = Phases()

    def __repr__(self) -> str:
        return described(self, self.description)

    @property
    @abstractmethod
    def description(self) -> str:
        """One line for people: the device, the build, the workers."""

    # -- life ----------------------------------------------------------------------------------------------------
    @abstractmethod
    def reserve(self, *, neuron_capacity: int, synapse_capacity: int, longest_delay: int = 1) -> None:
        """Grow to at least these capacities, and keep spikes under way for at least so many bursts, one of `delays`; nothing else
        changes."""

    @abstractmethod
    def reset(self, state: FieldValues) -> None:
        """Back to burst 0 with this state (STATE_FIELDS, full length): no previous fire queue, no candidates, empty
        ledger, nothing staged. Weights, synapses, parameters and the power set stay."""

    @abstractmethod
    def flight(self) -> Flight:
        """All that a run under way holds beside the network, copied; equal on every backend."""

    @abstractmethod
    def resume(self, flight: Flight) -> None:
        """Go on from there: called once, on a backend that was loaded with the network as it stood and given its rules, with their
        handles and `silent_until` of `flight.learning`, and before anything else."""

    @abstractmethod
    def close(self) -> None:
        """Give all memory back. Any later call is an error."""

    # -- bursts --------------------------------------------------------------------------------------------------
    @abstractmethod
    def inject(self, neurons: U32, potentials: F32) -> None:
        """Stage external potential for the next burst, after what is staged already. Repeated ids add in order."""

    @abstractmethod
    def inject_device(self, neurons: object, potentials: object) -> None:
        """The same from arrays on the backend's own device (DLPack or __cuda_array_interface__): uint32, ascending
        (equal ids allowed, added in order), and float32, contiguous; they are copied before this returns. Errors are
        NetworkError or NeuronIndexError and stage nothing."""

    @abstractmethod
    def force(self, neurons: U32) -> None:
        """Stage neurons to be forced in the next burst."""

    @abstractmethod
    def schedule(self, bursts: NDArray[np.uint64], neurons: U32, potentials: F32 | None) -> None:
        """Stage for bursts to come: inject, or (None) force, neuron i in burst i. In its burst it comes after what is staged
        with `inject`, and in the order scheduled."""

    @abstractmethod
    def set_power(self, neurons: U32) -> None:
        """The set of power neurons (ascending, unique) from the next burst on."""

    @abstractmethod
    def burst(self, number: int) -> BurstOutput:
        """Compute burst `number`: that after `burst_count`."""

    def run(self, first: int, n: int) -> Generator[Chunk]:
        """Compute n bursts from `first` on, in chunks. The device may be ahead of what was yielded, even of where the caller
        stops to ask: `burst_count` says how far. Nothing else may be asked of the backend before the iterator is closed."""
        for number in range(first, first + n):
            ranges = self._phases.ranges
            with nullcontext() if ranges is None else ranges.range("chunk", number):
                out = self.burst(number)
            yield Chunk(
                number,
                np.array([0, len(out.fired)], np.int64),
                out.fired,
                np.array([out.counters], np.uint64),
                np.array([out.clock], np.int64),
            )

    @property
    @abstractmethod
    def burst_count(self) -> int:
        """Number of the last burst that was computed; 0 before the first."""

    @abstractmethod
    def fired_on_device(self) -> Any:
        """Fired ids of the last burst as a DLPack-capable uint32 array on the backend's device; valid until the next burst."""

    # -- each phase apart (slower; same results) ---------------------------------------------------------------
    @property
    def phase_seconds(self) -> dict[str, float] | None:
        """Seconds by phase (PHASES) summed since `time_phases(True)`; else None."""
        return None if self._phases.seconds is None else dict(self._phases.seconds)

    def time_phases(self, on: bool) -> None:
        """Time each phase apart, or stop and forget."""
        self._phases.seconds = dict.fromkeys(PHASES, 0.0) if on else None

    def annotate(self, ranges: Ranges | None) -> None:
        """Show each phase to a profiler in these ranges, or stop."""
        self._phases.ranges = ranges

    # -- the network as a whole ----------------------------------------------------------------------------------
    @abstractmethod
    def set_settings(self, settings: Settings) -> None:
        """Rules, contribution_scale, power_amount, random_seed."""

    @abstractmethod
    def set_area(self, area: int, flags: Area) -> None:
        """Flags of an area; an area never set has the defaults of `Area()`."""

    # -- neurons -------------------------------------------------------------------------------------------------
    @abstractmethod
    def add_neurons(self, neurons: U32, columns: FieldValues) -> None:
        """Create reserved ids that do not exist yet (never created, not deleted); every field of NEURON_FIELDS given."""

    @abstractmethod
    def delete_neurons(self, neurons: U32) -> NDArray[np.bool_]:
        """Unique ids; says for each whether it was valid."""

    @abstractmethod
    def write(self, field: str, neurons: U32, values: NDArray[Any]) -> None:
        """Set a field of unique ids; values has one row an id."""

    @abstractmethod
    def write_area(self, field: str, area: int, value: NDArray[Any]) -> int:
        """Set a field of all valid neurons of an area to one value (shape (1,) or (1, 3)); returns how many neurons."""

    @abstractmethod
    def read(self, field: str) -> NDArray[Any]:
        """A field of all ids, or "valid" (bool: exists and is not deleted) or "created" (bool: exists or was deleted)."""

    # -- synapses ------------------------------------------------------------------------------------------------
    @property
    @abstractmethod
    def delays(self) -> range:
        """The delays that synapses may have here."""

    @abstractmethod
    def add_synapses(self, batch: SynapseBatch) -> None:
        """Add in the order given (the order is the age)."""

    @abstractmethod
    def remove_synapses(self, source: U32, target: U32) -> NDArray[np.bool_]:
        """One by one in the order given: the oldest valid synapse of each pair; says whether there was one."""

    @abstractmethod
    def reweight_synapses(self, source: U32, target: U32, weight: NDArray[Any]) -> NDArray[np.bool_]:
        """Like remove_synapses, setting the weight (of the network's weight dtype)."""

    @abstractmethod
    def set_delays(self, source: U32, target: U32, delay: NDArray[Any]) -> NDArray[np.bool_]:
        """Like reweight_synapses, of the delay."""

    @abstractmethod
    def synapses_from(self, sources: U32 | None = None) -> Iterator[SynapseBatch]:
        """Valid synapses leaving these sources (unique, ascending; None: all), in batches of bounded size."""

    @abstractmethod
    def synapses_to(self, targets: U32) -> SynapseBatch:
        """Valid synapses that end in these targets (unique)."""

    @property
    @abstractmethod
    def synapse_count(self) -> int:
        """Valid synapses."""

    # -- plasticity ----------------------------------------------------------------------------------------------
    # Rules act at the end of a burst, after archival, in the order added. A weight that an edit sets loses its residue
    # (docs/plasticity.md); a new synapse has residue 0; a synapse that is in the mapping of no pair rule when rules act
    # loses its residue then. `reset` keeps rules, weights and residues; for every rule all bursts before it are silent.
    @abstractmethod
    def add_rule(self, handle: int, rule: PlasticityRule, silent_until: int) -> None:
        """Let this rule act from burst silent_until + 1 on, after those that were added before; bursts up to `silent_until`, the last
        one computed, are silent for it. `handle` is new. NetworkError where this backend has no such rule: nothing changed."""

    @abstractmethod
    def remove_rule(self, handle: int) -> None:
        """The rule acts no more, and what it remembers is forgotten."""

    @abstractmethod
    def residues(self) -> NDArray[np.int16]:
        """What the pair rules keep beside the weight of each synapse, in units of 2**-16: one for each synapse that
        `synapses_from()` lists, in its order."""

    @abstractmethod
    def compact(self) -> None:
        """Give back what removed synapses and moved rows waste. Changes no result."""

    # -- looking inside ------------------------------------------------------------------------------------------
    @abstractmethod
    def fire_queue(self, *, previous: bool = False) -> tuple[U32, F32]:
        """Ids (ascending) and firing potentials of the last burst, or of the one before it."""

    @abstractmethod
    def candidates(self) -> tuple[U32, F32]:
        """The last fire candidate list: ids (ascending) and candidate potentials I (before rectification)."""

    @abstractmethod
    def fired_in(self, burst: int) -> U32:
        """Fired ids of a burst that is inside the ledger's window."""

    @abstractmethod
    def memory(self) -> dict[str, int]:
        """Bytes allocated on the device by piece. "rows" is everything of the synapses, "neurons" everything kept per
        id; "ledger", "staging" and others stand apart."""

    @abstractmethod
    def edit_statistics(self) -> dict[str, int]:
        """Since load: "bytes_touched" by edits of rows; apart from them "rows_moved" to other blocks, "compactions" and
        "bytes_compacted", "growths" of the memory for rows and "bytes_grown" (copied by them)."""
