"""What can be asked of an NPU between two bursts. Nothing here changes anything; what is fetched is the asker's own copy."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gpu_npu.arrays import U32, sorted_unique
from gpu_npu.checks import as_array, check_area_id
from gpu_npu.connectome import Annotations, Area, Connectome, PlasticityRule, Settings, SynapseArray, SynapseBatch
from gpu_npu.connectome.validation import check_field, field_named

from .calls import annotated, guarded
from .resident import Part
from .views import FireCandidateList, FireLedger, FireQueue, NeuronArrayView


class Queries(Part):
    """The part of an NPU that looks inside."""

    @guarded
    @annotated("transfer")
    def get_parameter(self, name: str, neurons: ArrayLike | None = None) -> NDArray[Any]:
        """A field of these ids, or of all reserved ids: shape (n,), coordinates (n, 3)."""
        field_named(name)
        ids = None if neurons is None else self._resident.ids(neurons)
        values = self._resident.ready().read(name)
        return values if ids is None else values[ids]

    @guarded
    @annotated("transfer")
    def outgoing_synapses(self, neurons: ArrayLike) -> SynapseBatch:
        """Synapses that leave these neurons, ascending by source, then target, then age."""
        ids = sorted_unique(self._resident.ids(neurons))
        return self._gathered(self._resident.shown(self._resident.ready().synapses_from(ids)))

    @guarded
    @annotated("transfer")
    def incoming_synapses(self, neurons: ArrayLike) -> SynapseBatch:
        """Synapses that end in these neurons, in the same order."""
        ids = sorted_unique(self._resident.ids(neurons))
        return next(self._resident.shown([self._resident.ready().synapses_to(ids)]))

    def _gathered(self, batches: Iterable[SynapseBatch]) -> SynapseBatch:
        return SynapseBatch.concatenate([self._resident.shape.no_synapse(), *batches])

    @property
    def backend(self) -> str:
        """Name of the backend."""
        return self._resident.open().name

    @property
    def backend_reason(self) -> str:
        """Why this backend, and what it runs on."""
        return f"{self._resident.reason}: {self._resident.open().description}"

    @property
    def annotations(self) -> Annotations:
        """The labels of its neurons, and what else is known of them."""
        return self._resident.annotations

    @property
    def burst_count(self) -> int:
        """Number of the last burst; 0 before the first."""
        return self._resident.burst_count

    def get_burst_count(self) -> int:
        """Number of the last burst; 0 before the first."""
        return self.burst_count

    def get_neuron_count(self) -> int:
        """Neurons that exist: created and not deleted."""
        return self._resident.neuron_count

    @guarded
    def get_synapse_count(self) -> int:
        """Synapses added and not removed."""
        return self._resident.synapse_count()

    @property
    def neuron_capacity(self) -> int:
        """Ids reserved."""
        return self._resident.shape.neuron_capacity

    @property
    def synapse_capacity(self) -> int:
        """Synapses reserved."""
        return self._resident.shape.synapse_capacity

    @property
    def settings(self) -> Settings:
        """Rules, contribution_scale, power_amount, random_seed."""
        return self._resident.settings

    @property
    def power_amount(self) -> float:
        """Potential that every power neuron receives in a burst."""
        return self._resident.settings.power_amount

    @property
    @guarded
    def areas(self) -> Mapping[int, Area]:
        """Area id -> flags as they now are, read-only: areas whose flags were set, then others that have neurons, ascending,
        with those of `Area()`."""
        return MappingProxyType(self._resident.areas())

    @property
    def plasticity(self) -> Mapping[int, PlasticityRule]:
        """Handle -> rule as they now are, in the order in which they act, read-only; a rule has a `name` and `parameters`."""
        return MappingProxyType(self._resident.rules.copy())

    @guarded
    @annotated("transfer")
    def synapse_residues(self) -> NDArray[np.int16]:
        """What pair rules keep beside each weight, in units of 2**-16: one for each synapse of `synapse_array`, in its order."""
        return self._resident.ready().residues()

    @guarded
    def neurons_in_area(self, area: int) -> U32:
        """Ids of the neurons of an area."""
        return self._resident.neurons_in_area(check_area_id(area))

    @guarded
    @annotated("transfer")
    def neurons_at(self, coordinates: ArrayLike, area: int | None = None) -> U32:
        """Ids of the neurons at any of these places, shape (3,) or (n, 3), in one area or in all."""
        wanted = as_array(coordinates, "coordinates")
        wanted = check_field("coordinates", wanted, len(wanted) if wanted.ndim == 2 else 1)
        backend = self._resident.ready()
        if area is None:
            ids = np.flatnonzero(backend.read("valid")).astype(np.uint32)
        else:
            ids = self._resident.neurons_in_area(check_area_id(area))
        return ids[np.isin(_places(backend.read("coordinates")[ids]), _places(wanted))]

    @property
    def neuron_array(self) -> NeuronArrayView:
        """The neurons under the names of the first API too; every field is a copy fetched when it is looked at."""
        return NeuronArrayView(self._resident.shape.neuron_capacity, self._read)

    @property
    @guarded
    @annotated("transfer")
    def synapse_array(self) -> SynapseArray:
        """The synapses under the names of the first API: a copy of all of them as they stand, fetched now, ascending by source,
        then target, then age."""
        shape = self._resident.shape
        synapses = SynapseArray(
            shape.synapse_capacity, shape.neuron_capacity, shape.weight_dtype, shape.psp_dtype, shape.delay_dtype
        )
        for batch in self._resident.shown(self._resident.ready().synapses_from()):
            synapses.append(batch)
        return synapses

    @property
    @guarded
    @annotated("transfer")
    def fire_candidate_list(self) -> FireCandidateList:
        """The candidates of the last burst."""
        return FireCandidateList(*self._resident.ready().candidates())

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
        backend = self._resident.ready()
        ids, potentials = backend.fire_queue(previous=previous)
        coordinates, areas = backend.read("coordinates")[ids], backend.read("cortical_area")[ids]
        burst = max(0, self.burst_count - 1) if previous else self.burst_count
        return FireQueue(ids, potentials, burst, coordinates, areas)

    @guarded
    @annotated("transfer")
    def _read(self, name: str) -> NDArray[Any]:
        return self._resident.ready().read(name)

    @guarded
    @annotated("transfer")
    def _fired_in(self, which: Callable[[range], Iterable[int]]) -> list[tuple[int, U32]]:
        """(burst, fired ids) of some of the bursts that the ledger holds."""
        backend, last = self._resident.ready(), self.burst_count
        held = range(max(1, last - self._resident.shape.ledger_window + 1), last + 1)
        return [(burst, backend.fired_in(burst)) for burst in which(held)]

    @property
    def fire_ledger(self) -> FireLedger:
        """The fired ids of the last `fire_ledger_window` bursts."""
        return FireLedger(self._resident.shape.ledger_window, self.get_burst_count, self._fired_in)

    def get_fire_history(self, burst: int) -> U32:
        """Fired ids of a burst; NetworkError outside the ledger's window, which it names."""
        return self.fire_ledger[burst]

    def get_recent_history(self, count: int) -> list[tuple[int, U32]]:
        """(burst, fired ids) of the last `count` bursts in the ledger, newest first."""
        return self.fire_ledger.recent(count)

    @guarded
    def statistics(self) -> dict[str, int]:
        """Counts, capacities, and what edits have cost since load (bytes touched, rows moved, compactions, growths)."""
        resident, shape = self._resident, self._resident.shape
        return {
            "burst_count": resident.burst_count,
            "neurons": resident.neuron_count,
            "neuron_capacity": shape.neuron_capacity,
            "synapses": resident.synapse_count(),
            "synapse_capacity": shape.synapse_capacity,
            "areas": len(resident.areas()),
            "power_neurons": len(resident.power()),
            "fixed_point_bits": resident.arithmetic_with().bits,
            "fire_ledger_window": shape.ledger_window,
            **resident.ready().edit_statistics(),
        }

    @guarded
    def memory(self) -> dict[str, int]:
        """Bytes on the device by piece: "rows" (all of the synapses), "neurons" (all that is kept per id), "ledger", ..."""
        return self._resident.ready().memory()

    @guarded
    def to_connectome(self) -> Connectome:
        """The network as it stands, on the host: neurons with their state, synapses, areas, settings, window and pair rules,
        capacities.

        Not part of it: queues, ledger, what is staged, the burst number, the list of power neurons, what rules remember
        and rules written in Python.
        """
        return self._resident.to_connectome()


def _places(coordinates: NDArray[np.uint32]) -> NDArray[np.void]:
    """(n, 3) coordinates as n comparable values."""
    return np.ascontiguousarray(coordinates).view([("x", "u4"), ("y", "u4"), ("z", "u4")])[:, 0]
