"""A network over kernels, once for all devices: stores that have the arrays, and bursts that run on them.

Nothing here knows which device it drives. Everything is queued on the device in order; the host waits only for what it
asked to have back: a ring, which the device fills with what bursts fired and counted.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_npu.arrays import F32, U32, Flags
from gpu_npu.backends.base import Backend, BurstOutput, Chunk, FieldValues
from gpu_npu.backends.devices.base import Device
from gpu_npu.backends.executor.accumulators import Accumulators
from gpu_npu.backends.executor.bursts import Bursts
from gpu_npu.backends.executor.context import Context, Store
from gpu_npu.backends.executor.degeneration import Degeneration
from gpu_npu.backends.executor.fired import FireStore, bit_set
from gpu_npu.backends.executor.listing import list_rows
from gpu_npu.backends.executor.loading import load_rows
from gpu_npu.backends.executor.neurons import NeuronStore, area_flags
from gpu_npu.backends.executor.plasticity import Plasticity
from gpu_npu.backends.executor.ring import ring_of
from gpu_npu.backends.executor.rows import RowStore
from gpu_npu.backends.executor.schedule import ScheduleWindow
from gpu_npu.backends.executor.staging import Staging
from gpu_npu.backends.executor.tuning import Tuning
from gpu_npu.backends.flight import Flight
from gpu_npu.backends.kernel_limits import check_kernels
from gpu_npu.backends.layout import ARRAY, STRATEGIES, axis_lengths
from gpu_npu.backends.memory import GROUPS, arena_estimate
from gpu_npu.backends.shape import NetworkShape
from gpu_npu.connectome import Area, Connectome, PlasticityRule, Settings, SynapseBatch, SynapseSource
from gpu_npu.connectome.fields import LONGEST_DELAY

STATISTICS = ("rows_moved", "compactions", "bytes_compacted", "growths", "bytes_grown")


class Executor(Backend):
    """One network on one device."""

    def __init__(
        self, device: Device, tuning: Tuning, connectome: Connectome, shape: NetworkShape, synapses: SynapseSource | None = None
    ) -> None:
        """As `DevicePlatform.load`, which gives back what a load that fails has taken."""
        super().__init__()
        self.name = device.name
        sources = [connectome.synapses] if synapses is None else [connectome.synapses, synapses]
        given = sum(source.total for source in sources)
        self._device, self._tuning = device, tuning
        self._shape = replace(shape, synapse_capacity=max(shape.synapse_capacity, given))
        self._context = context = Context(device)
        self._state = context.state
        strategy = tuning.propagation or device.propagation
        self._state["strategy"], self._state["heavy_row"] = STRATEGIES.index(strategy), tuning.heavy_row
        lengths = axis_lengths(self._shape, apart=False, second=strategy == "owned", heavy_row=tuning.heavy_row)
        self._neurons = NeuronStore(context, lengths, connectome)
        self._accumulators = Accumulators(context, lengths, shape, packed=tuning.packed)
        self._fired = FireStore(context, lengths, shape)
        self._degeneration = Degeneration(context, lengths, self._neurons.areas)
        self._edit_bytes = Store(context, [ARRAY["edit_bytes"]], lengths)
        # Space for synapses to come; without any, the arena becomes just as long as the rows are.
        spare = arena_estimate(shape) if shape.synapse_capacity > given else 0
        self._rows = RowStore(context, self._shape, spare, self._edit_bytes.arrays["edit_bytes"])
        self._plasticity = Plasticity(context, lengths, self._rows, lambda: self._neurons.read("cortical_area"), self._fired)
        self._staging, self._schedule = Staging(context), ScheduleWindow(context)
        stimuli = self._staging, self._schedule
        ring = tuning.ring or ring_of(self._shape.neuron_capacity)
        self._bursts = Bursts(context, lengths, ring, self._fired, *stimuli, self._plasticity)
        self._stores = (self._neurons, self._accumulators, self._fired, self._edit_bytes, self._bursts)
        self._set_lengths(lengths)
        self.set_settings(connectome.settings)
        self._accumulators.expect(load_rows(self._rows, sources))
        self._rows.forget_statistics()
        device.zero(self._edit_bytes.arrays["edit_bytes"])
        device.wait()

    @property
    def description(self) -> str:
        return self._device.description

    # -- life ----------------------------------------------------------------------------------------------------
    def _set_lengths(self, lengths: Mapping[str, int]) -> None:
        """Tell the kernels how long the axes are."""
        names = {"neurons": "neuron", "words": "word", "tiles": "tile", "ledger_slots": "ledger_slot", "task_room": "task"}
        for name, axis in names.items():
            self._state[name] = lengths[axis]
        self._state["turn_mask"] = lengths["turn"] - 1
        self._state["ledger_reciprocal"] = (2**64 - 1) // lengths["ledger_slot"]

    def reserve(self, *, neuron_capacity: int, synapse_capacity: int, longest_delay: int = 1) -> None:
        neurons, synapses = max(neuron_capacity, self._shape.neuron_capacity), max(synapse_capacity, self._shape.synapse_capacity)
        longest = max(longest_delay, self._shape.longest_delay)
        shape = replace(self._shape, neuron_capacity=neurons, synapse_capacity=synapses, longest_delay=longest)
        owned = STRATEGIES[int(self._state["strategy"][0])] == "owned"
        lengths = axis_lengths(shape, apart=self._accumulators.apart, second=owned, heavy_row=self._tuning.heavy_row)
        growing: list[Store | Plasticity] = [*self._stores, self._plasticity]
        with self._device.scratch() as scratch:
            # All of it is there before anything changes.
            fresh = [{array.name: scratch.alloc(size, array.dtype) for array, size in store.larger(lengths)} for store in growing]
            self._rows.reserve(neurons, arena_estimate(shape))
            scratch.keep()
        for store, arrays in zip(growing, fresh, strict=True):
            if store is self._fired:
                self._fired.keep(longest, lengths, arrays)
            else:
                store.move_to(lengths, arrays)
        self._bursts.tasks_stale = self._bursts.tasks_stale or longest > self._shape.longest_delay
        self._rows.delays.keep(longest)
        self._shape = shape
        self._set_lengths(lengths)
        self._device.wait()

    def reset(self, state: FieldValues) -> None:
        self._degeneration.fall()
        self._plasticity.end_run()
        self._fired.reset()
        self._plasticity.reset()
        self._staging.clear()
        self._schedule.clear()
        self._neurons.reset(state)
        self._bursts.reset()
        self._device.wait()

    def flight(self) -> Flight:
        queues = self.fire_queue(), self.fire_queue(previous=True), self.candidates()
        waiting = (*self._staging.staged(), self._schedule.items(self.burst_count))
        return Flight(self.burst_count, *queues, self._fired.ledger(), *waiting, self._plasticity.learning(), self._fired.earlier())

    def resume(self, flight: Flight) -> None:
        self._bursts.resume(flight.burst)
        self._fired.resume(flight)
        self._staging.inject(*flight.staged)
        self._staging.force(flight.forced)
        self._schedule.add(*flight.scheduled)
        self._plasticity.resume(flight.learning)

    def close(self) -> None:
        """The device gives back what it allocated."""
        self._device.wait()
        for part in set(vars(self)) - {"name", "_device"}:
            delattr(self, part)
        self._device.close()

    # -- bursts --------------------------------------------------------------------------------------------------
    def inject(self, neurons: U32, potentials: F32) -> None:
        self._staging.inject(neurons, potentials)

    def inject_device(self, neurons: object, potentials: object) -> None:
        self._staging.inject_device(neurons, potentials, self._shape.neuron_capacity)

    def force(self, neurons: U32) -> None:
        self._staging.force(neurons)

    def schedule(self, bursts: NDArray[np.uint64], neurons: U32, potentials: F32 | None) -> None:
        self._schedule.add(bursts, neurons, potentials)

    def set_power(self, neurons: U32) -> None:
        self._neurons.set_power(neurons)

    @property
    def burst_count(self) -> int:
        return self._fired.burst

    def burst(self, number: int) -> BurstOutput:
        return self._bursts.one_by_phases(number, self._phases) if self._phases.on else self._bursts.one(number)

    def run(self, first: int, n: int) -> Generator[Chunk]:
        if self._phases.seconds is not None:  # phase by phase
            yield from super().run(first, n)
        else:
            yield from self._bursts.run(first + n - 1, self._phases)

    def fired_on_device(self) -> Any:
        return self._fired.on_device()

    # -- the network as a whole ----------------------------------------------------------------------------------
    def set_settings(self, settings: Settings) -> None:
        rules, state = settings.rules, self._state
        self._accumulators.set_unit(settings, self._neurons.areas)  # first, as it may need memory
        self._settings = settings
        state["burst_clock"] = rules.refractory_clock == "burst"
        state["reset_candidates"] = rules.reset == "candidates"
        state["rectify_input"] = rules.rectify_input
        state["potential_floor"], state["potential_ceiling"] = rules.potential_floor, rules.potential_ceiling
        state["power_amount"], state["random_seed"] = settings.power_amount, settings.random_seed

    def set_area(self, area: int, flags: Area) -> None:
        areas = self._neurons.areas
        with self._neurons.setting_area(area, flags):
            if area_flags(flags) != area_flags(areas.get(area, Area())):
                self._accumulators.set_unit(self._settings, {**areas, area: flags})
            self._degeneration.set({**areas, area: flags})

    # -- neurons -------------------------------------------------------------------------------------------------
    def add_neurons(self, neurons: U32, columns: FieldValues) -> None:
        if len(neurons):
            with self._plasticity.areas_change(columns["cortical_area"], neurons):
                self._neurons.add(neurons, columns)

    def delete_neurons(self, neurons: U32) -> Flags:
        return self._neurons.delete(neurons) if len(neurons) else np.zeros(0, np.bool_)

    def write(self, field: str, neurons: U32, values: NDArray[Any]) -> None:
        if len(neurons):
            with self._plasticity.areas_change(values, neurons) if field == "cortical_area" else nullcontext():
                self._neurons.write(field, neurons, values)

    def write_area(self, field: str, area: int, value: NDArray[Any]) -> int:
        areas = np.array([area, int(value[0])], np.uint32) if field == "cortical_area" else None
        with nullcontext() if areas is None else self._plasticity.areas_change(areas):
            return self._neurons.write_area(field, area, value)

    def read(self, field: str) -> NDArray[Any]:
        return self._neurons.read(field)

    # -- synapses ------------------------------------------------------------------------------------------------
    @property
    def delays(self) -> range:
        return range(1, (self._shape.longest_delay if self._plasticity.owes else LONGEST_DELAY) + 1)

    def add_synapses(self, batch: SynapseBatch) -> None:
        if len(batch):
            self._plasticity.heed()
            in_degree = self._accumulators.in_degree_with(batch, list_rows(self._rows))
            self._accumulators.make_room(in_degree)
            self._expect(batch.delay)
            self._plasticity.add_synapses(batch, lambda: self._rows.add(batch))
            self._accumulators.expect(in_degree)
            self._bursts.tasks_stale = True

    def remove_synapses(self, source: U32, target: U32) -> Flags:
        self._bursts.tasks_stale = True
        found = self._rows.edit(source, target, None)
        self._plasticity.remove_synapses(source, target, found)
        return found

    def reweight_synapses(self, source: U32, target: U32, weight: NDArray[Any]) -> Flags:
        return self._plasticity.edit_weights(source, lambda: self._rows.edit(source, target, weight))

    def set_delays(self, source: U32, target: U32, delay: NDArray[Any]) -> Flags:
        if not len(source):
            return np.zeros(0, np.bool_)
        self._expect(delay)
        return self._rows.set_delays(source, target, delay)

    def _expect(self, delay: NDArray[Any]) -> None:
        """There will be synapses with these delays."""
        self._rows.delays.expect(delay)
        self._shape = replace(self._shape, shortest_delay=min(self._shape.shortest_delay, int(self._rows.delays.known[0])))

    def synapses_from(self, sources: U32 | None = None) -> Iterator[SynapseBatch]:
        self._plasticity.pay_debts(sources)
        self._plasticity.heed()
        return list_rows(self._rows, sources)

    def synapses_to(self, targets: U32) -> SynapseBatch:
        self._plasticity.pay_debts()
        self._plasticity.heed()
        batches = list_rows(self._rows, wanted=bit_set(self._shape.neuron_capacity, targets))
        return SynapseBatch.concatenate([self._shape.no_synapse(), *batches])

    @property
    def synapse_count(self) -> int:
        return self._rows.count

    def compact(self) -> None:
        self._plasticity.clear_columns()
        self._rows.compact()
        self._plasticity.compact()

    # -- plasticity ----------------------------------------------------------------------------------------------
    def add_rule(self, handle: int, rule: PlasticityRule, silent_until: int) -> None:
        check_kernels(self._shape, [rule], self.name)
        self._bursts.tasks_stale = True
        self._plasticity.add(handle, rule, silent_until)

    def remove_rule(self, handle: int) -> None:
        self._plasticity.remove(handle)

    def residues(self) -> NDArray[np.int16]:
        return self._plasticity.residues()

    # -- looking inside ------------------------------------------------------------------------------------------
    def fire_queue(self, *, previous: bool = False) -> tuple[U32, F32]:
        return self._fired.fire_queue(previous=previous)

    def candidates(self) -> tuple[U32, F32]:
        return self._fired.candidates()

    def fired_in(self, burst: int) -> U32:
        return self._fired.fired_in(burst)

    def memory(self) -> dict[str, int]:
        pieces = dict.fromkeys(GROUPS, 0) | {"rows": self._rows.nbytes, "staging": self._staging.nbytes + self._schedule.nbytes}
        for store in (*self._stores, self._degeneration, self._rows.delays):
            for name, array in store.arrays.items():
                pieces[ARRAY[name].group] += array.nbytes
        return pieces | ({"plasticity": self._plasticity.nbytes} if self._plasticity.on else {})

    def edit_statistics(self) -> dict[str, int]:
        touched = {"bytes_touched": int(self._edit_bytes.fetched("edit_bytes", 1)[0])}
        return touched | {name: getattr(self._rows, name) for name in STATISTICS}
