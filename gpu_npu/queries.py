"""What can be asked of an NPU between two bursts. Nothing here changes anything; what is fetched is the asker's own copy."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gpu_npu.annotate import Annotated, annotated
from gpu_npu.arrays import U32, sorted_unique
from gpu_npu.backends.base import Backend
from gpu_npu.checks import as_array, check_area_id, check_ids
from gpu_npu.connectome import (
    NEURON_FIELDS,
    Area,
    Connectome,
    PairRule,
    PlasticityRule,
    Settings,
    SynapseArray,
    SynapseBatch,
    WindowRule,
)
from gpu_npu.connectome.sums import fixed_point_bits
from gpu_npu.connectome.validation import check_field, field_named
from gpu_npu.edits import PendingSynapses
from gpu_npu.fire import FireCandidateList, FireLedger, FireQueue
from gpu_npu.guard import guarded
from gpu_npu.views import NeuronArrayView


class Queries(Annotated):
    """The part of an NPU that looks inside."""

    _resident: Backend | None
    _closed_at: int
    _reason: str
    _window: int
    _neuron_count: int
    _neuron_capacity: int
    _synapse_capacity: int
    _weight_dtype: type[np.uint8] | type[np.uint16]
    _psp_dtype: type[np.uint8] | type[np.uint16]
    _settings: Settings
    _areas: dict[int, Area]
    _plasticity: dict[int, PlasticityRule]
    _pending: PendingSynapses

    @abstractmethod
    def _open(self) -> Backend: ...

    @abstractmethod
    def _ready(self) -> Backend: ...

    @abstractmethod
    def _power(self) -> U32: ...

    @abstractmethod
    def _used_areas(self) -> Mapping[int, Area]: ...

    @guarded
    @annotated("transfer")
    def get_parameter(self, name: str, neurons: ArrayLike | None = None) -> NDArray[Any]:
        """A field of these ids, or of all reserved ids: shape (n,), coordinates (n, 3)."""
        field_named(name)
        ids = None if neurons is None else check_ids(neurons, self._neuron_capacity)
        values = self._ready().read(name)
        return values if ids is None else values[ids]

    @guarded
    @annotated("transfer")
    def outgoing_synapses(self, neurons: ArrayLike) -> SynapseBatch:
        """Synapses that leave these neurons, ascending by source, then target, then age."""
        ids = sorted_unique(check_ids(neurons, self._neuron_capacity))
        return self._gathered(self._ready().synapses_from(ids))

    @guarded
    @annotated("transfer")
    def incoming_synapses(self, neurons: ArrayLike) -> SynapseBatch:
        """Synapses that end in these neurons, in the same order."""
        ids = sorted_unique(check_ids(neurons, self._neuron_capacity))
        return self._ready().synapses_to(ids)

    def _gathered(self, batches: Iterable[SynapseBatch]) -> SynapseBatch:
        return SynapseBatch.concatenate([SynapseBatch.empty(self._weight_dtype, self._psp_dtype), *batches])

    @property
    def backend(self) -> str:
        """Name of the backend."""
        return self._open().name

    @property
    def backend_reason(self) -> str:
        """Why this backend, and what it runs on."""
        return f"{self._reason}: {self._open().description}"

    @property
    def burst_count(self) -> int:
        """Number of the last burst; 0 before the first."""
        backend = self._resident  # once: another thread may close
        return self._closed_at if backend is None else backend.burst_count

    def get_burst_count(self) -> int:
        """Number of the last burst; 0 before the first."""
        return self.burst_count

    def get_neuron_count(self) -> int:
        """Neurons that exist: created and not deleted."""
        return self._neuron_count

    @guarded
    def get_synapse_count(self) -> int:
        """Synapses added and not removed."""
        return self._synapse_count()

    def _synapse_count(self) -> int:
        return self._open().synapse_count + len(self._pending)

    @property
    def neuron_capacity(self) -> int:
        """Ids reserved."""
        return self._neuron_capacity

    @property
    def synapse_capacity(self) -> int:
        """Synapses reserved."""
        return self._synapse_capacity

    @guarded
    def neurons_in_area(self, area: int) -> U32:
        """Ids of the neurons of an area."""
        return self._neurons_in_area(area)

    @annotated("transfer")
    def _neurons_in_area(self, area: int) -> U32:
        area = check_area_id(area)
        backend = self._ready()
        return np.flatnonzero((backend.read("cortical_area") == area) & backend.read("valid")).astype(np.uint32)

    @guarded
    @annotated("transfer")
    def neurons_at(self, coordinates: ArrayLike, area: int | None = None) -> U32:
        """Ids of the neurons at any of these places, shape (3,) or (n, 3), in one area or in all."""
        wanted = as_array(coordinates, "coordinates")
        wanted = check_field("coordinates", wanted, len(wanted) if wanted.ndim == 2 else 1)
        backend = self._ready()
        ids = np.flatnonzero(backend.read("valid")).astype(np.uint32) if area is None else self._neurons_in_area(area)
        return ids[np.isin(_places(backend.read("coordinates")[ids]), _places(wanted))]

    @property
    def neuron_array(self) -> NeuronArrayView:
        """The neurons under the names of the first API too; every field is a copy fetched when it is looked at."""
        return NeuronArrayView(self._neuron_capacity, self._read)

    @property
    @guarded
    @annotated("transfer")
    def synapse_array(self) -> SynapseArray:
        """The synapses under the names of the first API: a copy of all of them as they stand, fetched now, ascending by source,
        then target, then age."""
        synapses = SynapseArray(self._synapse_capacity, self._neuron_capacity, self._weight_dtype, self._psp_dtype)
        for batch in self._ready().synapses_from():
            synapses.append(batch)
        return synapses

    @property
    @guarded
    @annotated("transfer")
    def fire_candidate_list(self) -> FireCandidateList:
        """The candidates of the last burst."""
        return FireCandidateList(*self._ready().candidates())

    @property
    def fire_queue(self) -> FireQueue:
        """What fired in the last burst, with potentials, coordinates and areas; it is delivered in the next burst."""
        return self._queue(previous=False)

    @property
    def previous_fire_queue(self) -> FireQueue:
        """What fired in the burst before the last."""
        return self._queue(previous=True)

    @guarded
    @annotated("transfer")
    def _queue(self, *, previous: bool) -> FireQueue:
        backend = self._ready()
        ids, potentials = backend.fire_queue(previous=previous)
        coordinates, areas = backend.read("coordinates")[ids], backend.read("cortical_area")[ids]
        burst = max(0, self.burst_count - 1) if previous else self.burst_count
        return FireQueue(ids, potentials, burst, coordinates, areas)

    @guarded
    @annotated("transfer")
    def _read(self, name: str) -> NDArray[Any]:
        return self._ready().read(name)

    @guarded
    @annotated("transfer")
    def _fired_in(self, which: Callable[[range], Iterable[int]]) -> list[tuple[int, U32]]:
        """(burst, fired ids) of some of the bursts that the ledger holds."""
        backend, last = self._ready(), self.burst_count
        return [(burst, backend.fired_in(burst)) for burst in which(range(max(1, last - self._window + 1), last + 1))]

    @property
    def fire_ledger(self) -> FireLedger:
        """The fired ids of the last `fire_ledger_window` bursts."""
        return FireLedger(self._window, self.get_burst_count, self._fired_in)

    def get_fire_history(self, burst: int) -> U32:
        """Fired ids of a burst; NetworkError outside the ledger's window, which it names."""
        return self.fire_ledger[burst]

    def get_recent_history(self, count: int) -> list[tuple[int, U32]]:
        """(burst, fired ids) of the last `count` bursts in the ledger, newest first."""
        return self.fire_ledger.recent(count)

    @guarded
    def statistics(self) -> dict[str, int]:
        """Counts, capacities, and what edits have cost since load (bytes touched, rows moved, compactions, growths)."""
        return {
            "burst_count": self.burst_count,
            "neurons": self._neuron_count,
            "neuron_capacity": self._neuron_capacity,
            "synapses": self._synapse_count(),
            "synapse_capacity": self._synapse_capacity,
            "areas": len(self._used_areas()),
            "power_neurons": len(self._power()),
            "fixed_point_bits": fixed_point_bits(self._areas),
            "fire_ledger_window": self._window,
            **self._ready().edit_statistics(),
        }

    @guarded
    def memory(self) -> dict[str, int]:
        """Bytes on the device by piece: "rows" (all of the synapses), "neurons" (all that is kept per id), "ledger", ..."""
        return self._ready().memory()

    @guarded
    def to_connectome(self) -> Connectome:
        """The network as it stands, on the host: neurons with their state, synapses, areas, settings, window and pair rules,
        capacities.

        Not part of it: queues, ledger, what is staged, the burst number, the list of power neurons, what rules remember
        and rules written in Python.
        """
        return self._to_connectome()

    @annotated("transfer")
    def _to_connectome(self) -> Connectome:
        backend = self._ready()
        network = Connectome(
            self._neuron_capacity,
            self._synapse_capacity,
            weight_dtype=self._weight_dtype,
            psp_dtype=self._psp_dtype,
            settings=self._settings,
            areas=self._areas,
            plasticity=[rule for rule in self._plasticity.values() if isinstance(rule, (WindowRule, PairRule))],
        )
        created, valid = backend.read("created"), backend.read("valid")
        ids = np.flatnonzero(created)
        network.create_neurons(ids, **{name: backend.read(name)[ids] for name in NEURON_FIELDS})
        network.delete_neurons(np.flatnonzero(created & ~valid))
        for batch in backend.synapses_from():
            network.synapses.append(batch)
        return network


def _places(coordinates: NDArray[np.uint32]) -> NDArray[np.void]:
    """(n, 3) coordinates as n comparable values."""
    return np.ascontiguousarray(coordinates).view([("x", "u4"), ("y", "u4"), ("z", "u4")])[:, 0]
