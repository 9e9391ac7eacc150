"""The reference backend: plain NumPy, slow and obviously right; the oracle that every other backend is held to.

Its state is a Connectome of its own, and the Connectome's edits are its edits. A burst costs a few passes over all
synapses (about 100 ms at 10 million).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_npu.arrays import F32, U32, Indices
from gpu_npu.backends.base import Backend, BurstOutput, FieldValues
from gpu_npu.backends.flight import Flight
from gpu_npu.backends.reference.bursts import Bursts, degenerate
from gpu_npu.backends.reference.fired import FireStore
from gpu_npu.backends.reference.plasticity import Plasticity
from gpu_npu.backends.reference.staging import Staging
from gpu_npu.backends.scheduled import ScheduleStore
from gpu_npu.connectome import Area, Connectome, PlasticityRule, Settings, SynapseBatch
from gpu_npu.connectome.fields import LONGEST_DELAY, NEURON_FIELDS, STATE_FIELDS
from gpu_npu.errors import NpuError

BATCH = 1 << 20
"""Synapses a batch of synapses_from."""

DESCRIPTION = f"plain NumPy {np.__version__} on one core: the oracle"


class Reference(Backend):
    """The network and its bursts in plain NumPy on the host."""

    name = "reference"

    def __init__(self, network: Connectome, ledger_window: int, longest_delay: int = 1) -> None:
        super().__init__()
        self._resident: Connectome | None = network
        self._edits = dict.fromkeys(("bytes_touched", "rows_moved", "compactions", "bytes_compacted", "growths"), 0)
        self._staging, self._fired, self._plasticity = Staging(), FireStore(ledger_window, longest_delay), Plasticity()
        self._bursts = Bursts(self._staging, self._fired, self._plasticity)

    @property
    def description(self) -> str:
        return DESCRIPTION

    # -- life ----------------------------------------------------------------------------------------------------
    def reserve(self, *, neuron_capacity: int, synapse_capacity: int, longest_delay: int = 1) -> None:
        network = self._network
        self._fired.longest_delay = max(self._fired.longest_delay, longest_delay)
        if neuron_capacity > network.neuron_capacity:
            self._plasticity.release()
        self._edits["growths"] += neuron_capacity > network.neuron_capacity or synapse_capacity > network.synapse_capacity
        network.reserve(neurons=max(neuron_capacity, network.neuron_capacity), synapses=max(synapse_capacity, network.synapse_capacity))

    def reset(self, state: FieldValues) -> None:
        degenerate(self._network, self._fired.queue()[0])
        for field in STATE_FIELDS:
            self._column(field)[:] = state[field]
        self._forget()

    def flight(self) -> Flight:
        queues = self.fire_queue(), self.fire_queue(previous=True), self.candidates()
        ledger = tuple(self.fired_in(burst) for burst in sorted(self._fired.ledger))
        waiting = (*self._staging.staged(), self._staging.schedule.after(self.burst_count))
        learning = self._plasticity.learning(
            self.burst_count,
            self._network.neuron_capacity,
            self.residues(),
            self._plasticity.delivered(self._network.synapses.weight, self._in_order(np.flatnonzero(self._network.synapses.valid))),
        )
        return Flight(self.burst_count, *queues, ledger, *waiting, learning, self._fired.earlier())

    def resume(self, flight: Flight) -> None:
        self._fired.resume(flight)
        self.inject(*flight.staged)
        self.force(flight.forced)
        self._staging.schedule.add(*flight.scheduled)
        slots = self._in_order(np.flatnonzero(self._network.synapses.valid))
        self._plasticity.resume(flight.learning, slots)
        self._plasticity.resume_held(self._network.synapses.weight, slots, flight.learning.delivered)

    def close(self) -> None:
        self._resident = None
        self._forget()

    def _forget(self) -> None:
        """As before the first burst: nothing staged, nothing fired."""
        self._staging.clear()
        self._staging.schedule = ScheduleStore()
        self._fired.reset()
        self._plasticity.forget()

    @property
    def _network(self) -> Connectome:
        if self._resident is None:
            raise NpuError("this backend is closed")
        return self._resident

    def _column(self, field: str) -> NDArray[Any]:
        array: NDArray[Any] = getattr(self._network.neurons, field)
        return array

    # -- bursts --------------------------------------------------------------------------------------------------
    def inject(self, neurons: U32, potentials: F32) -> None:
        self._staging.inject(neurons, potentials)

    def inject_device(self, neurons: object, potentials: object) -> None:
        self._staging.inject_device(neurons, potentials, self._network.neuron_capacity)

    def force(self, neurons: U32) -> None:
        self._staging.force(neurons)

    def schedule(self, bursts: NDArray[np.uint64], neurons: U32, potentials: F32 | None) -> None:
        self._staging.schedule.add(bursts, neurons, potentials)

    def set_power(self, neurons: U32) -> None:
        self._bursts.power = neurons.copy()

    @property
    def burst_count(self) -> int:
        return self._fired.burst

    def burst(self, number: int) -> BurstOutput:
        return self._bursts.one(self._network, number, self._phases)

    def fired_on_device(self) -> U32:
        return self._fired.queue()[0].copy()

    # -- the network as a whole ----------------------------------------------------------------------------------
    def set_settings(self, settings: Settings) -> None:
        self._network.set_settings(settings)

    def set_area(self, area: int, flags: Area) -> None:
        self._network.set_area(area, flags)

    # -- neurons -------------------------------------------------------------------------------------------------
    def add_neurons(self, neurons: U32, columns: FieldValues) -> None:
        if len(neurons):
            self._plasticity.edit_areas(self._network, columns["cortical_area"], neurons)
        self._network.create_neurons(neurons, **columns)

    def delete_neurons(self, neurons: U32) -> NDArray[np.bool_]:
        return self._network.delete_neurons(neurons)

    def write(self, field: str, neurons: U32, values: NDArray[Any]) -> None:
        if field == "cortical_area" and len(neurons):
            self._plasticity.edit_areas(self._network, values, neurons)
        self._column(field)[neurons] = values

    def write_area(self, field: str, area: int, value: NDArray[Any]) -> int:
        members = np.flatnonzero(self._column("valid") & (self._column("cortical_area") == area))
        if field == "cortical_area":
            self._plasticity.edit_areas(self._network, np.array([area, int(value[0])], np.uint32))
        self._column(field)[members] = value
        return len(members)

    def read(self, field: str) -> NDArray[Any]:
        return self._column(field).copy()

    # -- synapses ------------------------------------------------------------------------------------------------
    @property
    def delays(self) -> range:
        return range(1, LONGEST_DELAY + 1)

    def add_synapses(self, batch: SynapseBatch) -> None:
        network = self._network
        if network.synapses.count + len(batch) > network.synapse_capacity:
            self.compact()  # slots of removed synapses are not free until then
        network.add_synapses(*batch.columns())
        self._edits["bytes_touched"] += len(batch) * self._synapse_bytes

    def remove_synapses(self, source: U32, target: U32) -> NDArray[np.bool_]:
        found = self._network.remove_synapses(source, target)
        self._edits["bytes_touched"] += int(found.sum())
        return found

    def reweight_synapses(self, source: U32, target: U32, weight: NDArray[Any]) -> NDArray[np.bool_]:
        slots = self._network.find_synapses(source, target)
        self._plasticity.clear_residue(slots[slots >= 0])
        self._plasticity.edit_weights(slots[slots >= 0])
        found = self._network.reweight_synapses(source, target, weight)
        self._edits["bytes_touched"] += int(found.sum()) * weight.itemsize
        return found

    def set_delays(self, source: U32, target: U32, delay: NDArray[Any]) -> NDArray[np.bool_]:
        found = self._network.set_delays(source, target, delay)
        self._edits["bytes_touched"] += int(found.sum()) * delay.itemsize
        return found

    def synapses_from(self, sources: U32 | None = None) -> Iterator[SynapseBatch]:
        wanted = np.full(self._network.neuron_capacity, sources is None)
        if sources is not None:
            wanted[sources] = True
        synapses = self._network.synapses
        slots = self._in_order(np.flatnonzero(synapses.valid & wanted[synapses.source]))
        for start in range(0, len(slots), BATCH):
            yield self._network.synapses.take(slots[start : start + BATCH])

    def synapses_to(self, targets: U32) -> SynapseBatch:
        wanted = np.zeros(self._network.neuron_capacity, np.bool_)
        wanted[targets] = True
        synapses = self._network.synapses
        return self._network.synapses.take(self._in_order(np.flatnonzero(synapses.valid & wanted[synapses.target])))

    def _in_order(self, slots: Indices) -> Indices:
        """By source, then target, then age: the sort is stable and slots are in order of age."""
        synapses = self._network.synapses
        return slots[np.lexsort((synapses.target[slots], synapses.source[slots]))]

    @property
    def synapse_count(self) -> int:
        return self._network.synapse_count

    # -- plasticity ----------------------------------------------------------------------------------------------
    def add_rule(self, handle: int, rule: PlasticityRule, silent_until: int) -> None:
        self._plasticity.add(handle, rule, silent_until)

    def remove_rule(self, handle: int) -> None:
        self._plasticity.remove(handle)

    def residues(self) -> NDArray[np.int16]:
        return self._plasticity.residue(self._in_order(np.flatnonzero(self._network.synapses.valid)))

    def compact(self) -> None:
        before = self._network.synapses.count
        self._plasticity.compact(self._network.synapses.valid)
        self._network.compact()
        self._edits["compactions"] += 1
        self._edits["bytes_compacted"] += (before - self._network.synapses.count) * self._synapse_bytes

    # -- looking inside ------------------------------------------------------------------------------------------
    def fire_queue(self, *, previous: bool = False) -> tuple[U32, F32]:
        ids, potentials = self._fired.queue(2 if previous else 1)
        return ids.copy(), potentials.copy()

    def candidates(self) -> tuple[U32, F32]:
        ids, potentials = self._fired.candidates
        return ids.copy(), potentials.copy()

    def fired_in(self, burst: int) -> U32:
        return self._fired.ledger[burst].copy()

    @property
    def _synapse_bytes(self) -> int:
        return self._network.synapses.slot_bytes

    def memory(self) -> dict[str, int]:
        columns = [self._column(field) for field in (*NEURON_FIELDS, "valid", "created")]
        queues = (*(array for queue in self._fired.queues.values() for array in queue), *self._fired.candidates, self._bursts.power)
        return {
            "rows": self._network.synapse_capacity * self._synapse_bytes,
            "neurons": sum(column.nbytes for column in columns),
            "ledger": sum(ids.nbytes for ids in self._fired.ledger.values()),
            "staging": self._staging.nbytes,
            "queues": sum(array.nbytes for array in queues),
        }

    def edit_statistics(self) -> dict[str, int]:
        return dict(self._edits)
