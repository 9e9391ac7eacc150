"""A burst over kernels, once for all devices: the arrays, the schedule of a burst, staging, edits and queries.

Nothing here knows which device it drives. Everything is queued on the device in order; the host waits only for what it
asked to have back: a ring, which the device fills with what bursts fired and counted.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_npu.arrays import F32, U32
from gpu_npu.backends.base import Backend, BurstOutput, Chunk, Columns, Flight, Platform
from gpu_npu.backends.devices.base import Device, Launch, Lent
from gpu_npu.backends.layout import (
    ARRAYS,
    CONTROL,
    FLAG,
    HEAVY_ROW,
    QUEUE_HEADER,
    RECORD,
    RING_HEADER,
    STATE_DTYPE,
    STRATEGIES,
    lengths,
    queue_stride,
)
from gpu_npu.backends.memory import arena_estimate, cell_bits, count_bits, estimate_bytes, load_bytes
from gpu_npu.backends.plasticity import Plasticity, bit_set
from gpu_npu.backends.rows import FEW, MAX_IN_DEGREE, RowStore
from gpu_npu.backends.schedule import Schedule
from gpu_npu.backends.shape import NetworkShape
from gpu_npu.backends.staging import Staging
from gpu_npu.checks import settle
from gpu_npu.connectome import NEURON_FIELDS, Area, Connectome, PlasticityRule, Settings, SynapseBatch, SynapseSource
from gpu_npu.connectome.fields import COUNTERS
from gpu_npu.connectome.sums import fixed_point_bits
from gpu_npu.errors import CapacityError, DeviceMemoryError, NetworkError

RING = (4096, 2**18)
"""Bursts, and fired ids, that a launch may compute before the host looks at them: 1.3 MB of host memory, twice."""
LAUNCH_NANOSECONDS = 100_000_000
"""After this time a launch begins no further burst: Ctrl-C is heard, and no watchdog of a display driver bites."""

AT_ONCE = 2**30
"""Bursts that run without a look at the clock of plasticity, which counts in 32 bits."""

_AREA_FLAGS = FLAG["nonuniform"] | FLAG["mp_driven"]
_BURST_FLAGS = FLAG["injected"] | FLAG["forced"]
_ARRAY = {array.name: array for array in ARRAYS}
_SYNAPTIC = tuple(COUNTERS).index("synaptic_injections")


def _area_flags(area: Area) -> int:
    return (0 if area.psp_uniform else FLAG["nonuniform"]) | (FLAG["mp_driven"] if area.mp_driven_psp else 0)


class _Ring:
    """What a launch leaves for the host: for each burst a record, for all of them the fired ids."""

    def __init__(self, device: Device, state: NDArray[np.void], bursts: int, ids: int) -> None:
        self.bursts, self.ids = bursts, ids
        self._first_id = RING_HEADER + bursts * RECORD
        array, self._host = device.mapped(self._first_id + ids, np.uint32)
        room = (array, np.uint32(bursts), np.uint32(ids))
        self.last, self.read, self.nanoseconds = np.zeros(1, np.uint64), np.zeros(1, np.uint64), np.zeros(1, np.uint64)
        args = (state, self.last, self.read, *room, self.nanoseconds)
        self.run = {
            (learns, alone): Launch("run_learning_bursts" if learns else "run_bursts", args, single=alone)
            for learns in (False, True)
            for alone in (False, True)
        }
        """By whether synapses learn, and whether one block does it alone."""
        self.archive, self.finish = Launch("archive_fired", (state, *room)), Launch("finish_burst", (state, *room), single=True)

    def one(self) -> tuple[int, U32 | None, list[int]]:
        """How many fired in the one burst of the launch, who (None: they did not fit), and the counters and the clock."""
        record = self._host[RING_HEADER : RING_HEADER + RECORD]
        count = int(record[0])
        fired = None if self._host[2] else self._host[self._first_id : self._first_id + count].copy()
        return count, fired, record[2 : 4 + 2 * len(COUNTERS)].view(np.uint64).tolist()

    def chunk(self, first: int) -> tuple[Chunk, bool]:
        """All bursts of the launch, the first of them being `first`; and whether the ids of the last did not fit."""
        bursts, ids, unread = self._host[:3].tolist()
        records = self._host[RING_HEADER : RING_HEADER + bursts * RECORD].reshape(bursts, RECORD)
        begin = np.zeros(bursts + 1, np.int64)
        np.cumsum(records[:, 0], out=begin[1:])
        if unread:
            begin[-1] = ids
        numbers = records[:, 2 : 4 + 2 * len(COUNTERS)].copy().view(np.uint64)
        fired = self._host[self._first_id : self._first_id + ids].copy()
        return Chunk(first, begin, fired, numbers[:, : len(COUNTERS)], numbers[:, len(COUNTERS)].astype(np.int64)), bool(unread)


@dataclass(frozen=True)
class Tuning:
    """What changes speed and memory only.

    propagation : its strategy, one of layout.STRATEGIES; None: what suits the device.
    packed : whether arrivals may be counted inside the accumulators.
    heavy_row : a row of more synapses is the work of several warps.
    ring : bursts and fired ids that a launch may compute before the host looks at them.
    """

    propagation: str | None = None
    packed: bool = True
    heavy_row: int = HEAVY_ROW
    ring: tuple[int, int] = RING


class DevicePlatform(Platform):
    """A device that runs kernels. It holds one network at a time."""

    def __init__(self, device: Device, tuning: Tuning = Tuning()) -> None:
        self.name = device.name
        self.device, self.tuning = device, tuning

    @property
    def description(self) -> str:
        return self.device.description

    def memory(self) -> tuple[int, int]:
        return self.device.memory()

    def plan(self, connectome: Connectome, shape: NetworkShape, synapses: SynapseSource | None = None) -> tuple[dict[str, int], int]:
        return load_bytes(connectome, shape, synapses, owned=(self.tuning.propagation or self.device.propagation) == "owned")

    def load(self, connectome: Connectome, shape: NetworkShape, synapses: SynapseSource | None = None) -> Executor:
        if self.device.allocated:
            raise NetworkError(f"{self.description}: a network is loaded there already; close it, or take another Platform")
        free, _ = self.memory()
        executor = Executor(self.device, self.tuning)
        try:
            executor.load(connectome, shape, synapses)
        except DeviceMemoryError as problem:
            executor.close()
            raise DeviceMemoryError(
                f"{self.description}: the network needs about {estimate_bytes(shape):,} bytes and {free:,} are free: "
                f"reserve fewer neurons ({shape.neuron_capacity:,}) or synapses ({shape.synapse_capacity:,}), or take a larger device"
            ) from problem
        except BaseException:
            executor.close()
            raise
        return executor

    def close(self) -> None:
        self.device.close()


class Executor(Backend):
    """One network on one device."""

    def __init__(self, device: Device, tuning: Tuning) -> None:
        self.name = device.name
        self._device, self._tuning = device, tuning
        self._state = np.zeros(1, STATE_DTYPE)
        self._state["strategy"] = STRATEGIES.index(tuning.propagation or device.propagation)
        self._state["heavy_row"] = tuning.heavy_row
        self._state["resident_neurons"] = max(device.cache_bytes * 3 // 4 // _ARRAY["accumulator"].dtype.itemsize, 1)
        self._untold = False  # the tasks of the last queue are those of rows before an edit
        self._arrays: dict[str, Any] = {}
        self._areas: dict[int, Area] = {}
        self._power: U32 = np.zeros(0, np.uint32)
        self._burst = self._fired_count = self._previous_count = 0
        self._events = 0  # synapses that delivered in the last burst
        self._in_degree_bound = 0  # no target has more valid synapses than this

    @property
    def description(self) -> str:
        return self._device.description

    # -- life ----------------------------------------------------------------------------------------------------
    def load(self, connectome: Connectome, shape: NetworkShape, more: SynapseSource | None) -> None:
        """What makes this a backend: called once, by DevicePlatform."""
        sources = [connectome.synapses] if more is None else [connectome.synapses, more]
        given, synapse_capacity = sum(source.total for source in sources), shape.synapse_capacity
        self._neurons, self._synapse_capacity = shape.neuron_capacity, max(synapse_capacity, given)
        self._window, self._slots = shape.ledger_window, max(shape.ledger_window, 2)  # of this burst and the one before, at least
        self._shape = shape
        self._dtypes = (np.dtype(connectome.weight_dtype), np.dtype(connectome.psp_dtype))
        self._no_synapses = SynapseBatch.empty(connectome.weight_dtype, connectome.psp_dtype)
        self._state["weight_bytes"], self._state["psp_bytes"] = (dtype.itemsize for dtype in self._dtypes)
        length = self._lengths(split=False)
        for array in ARRAYS:
            if array.group != "rows":
                self._arrays[array.name] = self._device.alloc(length[array.per] * array.width, array.dtype)
        self._staging, self._schedule = Staging(self._device, self._state), Schedule(self._device, self._state)
        self._rings = [_Ring(self._device, self._state, *self._tuning.ring) for _ in range(2)]

        neurons = connectome.neurons
        self._areas = dict(connectome.areas)
        for name in NEURON_FIELDS:
            if name in self._arrays:
                self._device.upload(self._arrays[name], self._padded(name, getattr(neurons, name)))
        flags = np.zeros(self._neurons, np.uint8)
        flags[: len(neurons.valid)] = (
            neurons.valid * FLAG["valid"]
            | neurons.created * FLAG["created"]
            | neurons.mp_charge_accumulation * FLAG["accumulates"]
            | self._flags_of_areas(neurons.cortical_area)
        )
        self._device.upload(self._arrays["flags"], flags)

        # Space for synapses to come; without any, the arena becomes just as long as the rows are.
        spare = arena_estimate(shape) if synapse_capacity > given else 0
        self._rows = RowStore(self._device, self._state, self._neurons, spare, *self._dtypes)
        self._plasticity = Plasticity(
            self._device,
            self._state,
            self._rows,
            neurons=self._neurons,
            largest=256 ** self._dtypes[0].itemsize - 1,
            areas_of=lambda: self._fetch("cortical_area", self._neurons),
            last_burst=lambda: self._burst,
        )
        self._bind()
        self.set_settings(connectome.settings)
        in_degree = self._rows.build(sources)
        self._count_arrivals(int(self._state["fraction_bits"][0]), in_degree)
        self._in_degree_bound = in_degree
        self._rows.forget_statistics()
        self._device.zero(self._arrays["edit_bytes"])
        self._device.wait()

    def _lengths(self, *, split: bool) -> dict[str, int]:
        return self._lengths_of(self._neurons, self._synapse_capacity, split)

    def _lengths_of(self, neurons: int, synapses: int, split: bool) -> dict[str, int]:
        owned, heavy_row = self._state["strategy"][0] == STRATEGIES.index("owned"), self._tuning.heavy_row
        return lengths(neurons, synapses=synapses, ledger_slots=self._slots, arena_bytes=0, split=split, owned=owned, heavy_row=heavy_row)

    def _padded(self, name: str, values: NDArray[Any]) -> NDArray[Any]:
        """A field for all ids, flat; ids past the end of `values` have the default."""
        field = NEURON_FIELDS[name]
        out = np.full(self._neurons * field.width, field.default, field.dtype)
        out[: values.size] = values.ravel()
        return out

    def _bind(self) -> None:
        """Write where everything lies into the State that kernels are given."""
        length = self._lengths(split=False)
        for name, array in self._arrays.items():
            self._state[name] = self._device.address(array) if array.nbytes else 0
        self._state["neurons"], self._state["words"], self._state["tiles"] = self._neurons, length["word"], length["tile"]
        self._state["ledger_slots"], self._state["task_room"] = self._slots, length["two tasks"] // 2
        # A burst phase by phase; the State is read when they run.
        self._steps = {
            "propagation": [Launch("propagation", (self._state,))],
            "dynamics": [Launch("neuron_dynamics", (self._state,))],
            "archival": [self._rings[0].archive],
        }
        self._tally = [Launch("forget_tally", (self._state,), single=True), Launch("tally", (self._state,))]
        self._learning = [Launch("plan_visits", (self._state,)), Launch("visit_synapses", (self._state,))]
        self._inject_from_schedule = Launch("inject_from_schedule", (self._state,))

    def reserve(self, *, neuron_capacity: int, synapse_capacity: int) -> None:
        synapses, neurons = max(synapse_capacity, self._synapse_capacity), max(neuron_capacity, self._neurons)
        shape = replace(self._shape, neuron_capacity=neurons, synapse_capacity=synapses)
        split = self._arrays["arrivals"].nbytes > 0
        before, after = self._lengths(split=split), self._lengths_of(neurons, synapses, split)
        resident = [array for array in ARRAYS if array.group != "rows" and after[array.per] > before[array.per]]
        fresh = self._device.alloc_all([(after[array.per] * array.width, array.dtype) for array in resident])
        plastic: dict[str, Any] = {}
        try:
            plastic = self._plasticity.reserve(neurons)
            self._rows.reserve(neurons, arena_estimate(shape))
        except BaseException:
            self._device.release(*fresh, *plastic.values())
            raise
        self._move_to(neurons, {array.name: new for array, new in zip(resident, fresh, strict=True)}, before, after)
        self._synapse_capacity = synapses
        self._plasticity.move_to(neurons, plastic)
        self._bind()
        self._device.wait()

    def _move_to(self, neurons: int, larger: dict[str, Any], before: dict[str, int], after: dict[str, int]) -> None:
        """Copy all that is kept per id to larger arrays, and give the old ones back."""
        old_count = self._neurons
        parts = {"ledger word": self._slots, "two neurons": 2, "two tiles": 2, "two queues": 2, "two tasks": 2}
        for name, new in larger.items():
            array = _ARRAY[name]
            count = parts.get(array.per, 1)
            length, apart = before[array.per] * array.width // count, after[array.per] * array.width // count
            for part in range(count):
                self._device.copy(new, part * apart, self._arrays[name], part * length, length)
        self._device.wait()
        for name in larger:
            self._device.free(self._arrays[name])
        self._arrays.update(larger)
        self._neurons = neurons
        for field in NEURON_FIELDS.values():
            if field.default and field.name in larger:
                tail = np.full((neurons - old_count) * field.width, field.default, field.dtype)
                self._device.upload(larger[field.name], tail, old_count * field.width)

    def reset(self, state: Columns) -> None:
        self._plasticity.settle()
        self._burst = self._fired_count = self._previous_count = 0
        self._plasticity.reset()
        self._staging.clear()
        self._schedule.clear()
        for name, values in state.items():
            self._device.upload(self._arrays[name], np.ascontiguousarray(values))
        for name in ("queue", "tile_count", "fired_bits", "candidate_bits", "control"):
            self._device.zero(self._arrays[name])
        self._device.wait()

    def flight(self) -> Flight:
        first = max(1, self._burst - self._window + 1)
        ledger = tuple(self.fired_in(burst) for burst in range(first, self._burst + 1))
        queues = self.fire_queue(), self.fire_queue(previous=True), self.candidates()
        waiting = (*self._staging.staged(), self._schedule.items(self._burst))
        return Flight(self._burst, *queues, ledger, *waiting, self._plasticity.memory())

    def resume(self, flight: Flight) -> None:
        self._burst, words = flight.burst, int(self._state["words"][0])
        self._fired_count, self._previous_count = len(flight.fired[0]), len(flight.previous[0])
        self._untold = True
        control = np.zeros(self._arrays["control"].size, np.uint64)
        control[0] = flight.burst
        self._device.upload(self._arrays["control"], control)
        for burst, (ids, potentials) in ((flight.burst, flight.fired), (flight.burst - 1, flight.previous)):
            self._device.upload(self._arrays["queue"], ids, self._queue_at(burst))
            self._device.upload(self._arrays["queue_potential"], potentials, burst % 2 * self._neurons)
            psp = np.floor(np.clip(potentials, 0, 255).astype(np.float64) + 0.5).astype(np.uint8)
            self._device.upload(self._arrays["queue_psp"], psp, burst % 2 * self._neurons)
        # The other queue is the next burst's to fill: its header is that of an empty one.
        self._device.upload(self._arrays["queue"], np.array([len(flight.fired[0])], np.uint32), self._queue_at() - QUEUE_HEADER)
        for burst, ids in enumerate(flight.ledger, flight.burst - len(flight.ledger) + 1):
            self._device.upload(self._arrays["fired_bits"], bit_set(self._neurons, ids), burst % self._slots * words)
        ids, potentials = flight.candidates
        inputs: F32 = np.zeros(self._neurons, np.float32)
        inputs[ids] = potentials
        self._device.upload(self._arrays["input"], inputs)
        self._device.upload(self._arrays["candidate_bits"], bit_set(self._neurons, ids))
        self._device.wait()
        self._staging.inject(*flight.staged)
        self._staging.force(flight.forced)
        self._schedule.add(*flight.scheduled)
        self._plasticity.resume(flight.memory)

    def close(self) -> None:
        """The device gives back what it allocated, whatever part of a load had been reached."""
        self._device.wait()
        self._arrays.clear()
        for part in ("_rows", "_staging", "_schedule", "_rings", "_plasticity"):
            vars(self).pop(part, None)
        self._device.close()

    # -- bursts --------------------------------------------------------------------------------------------------
    def inject(self, neurons: U32, potentials: F32) -> None:
        self._staging.inject(neurons, potentials)

    def inject_device(self, neurons: object, potentials: object) -> None:
        self._staging.inject_device(neurons, potentials, self._neurons)

    def force(self, neurons: U32) -> None:
        self._staging.force(neurons)

    def schedule(self, bursts: NDArray[np.uint64], neurons: U32, potentials: F32 | None) -> None:
        self._schedule.add(bursts, neurons, potentials)

    def set_power(self, neurons: U32) -> None:
        with self._device.lent() as lent:
            given = ((ids, bits) for ids, bits in ((self._power, 0), (neurons, FLAG["power"])) if len(ids))
            flags = ((lent.uploaded(ids), np.full(len(ids), bits, np.uint8)) for ids, bits in given)
            launches = [self._flags_written(lent, ids, FLAG["power"], bits) for ids, bits in flags]
            self._power = np.union1d(self._power, neurons)  # until it is done, any of them may have the flag
            self._device.launch(launches)
        self._power = neurons.copy()

    @property
    def burst_count(self) -> int:
        return self._burst

    def burst(self, number: int) -> BurstOutput:
        if self._seconds is None and self._ranges is None:
            begun = self._burst
            try:
                self._schedule.open(number)
                self._launch(self._rings[0], number, self._opening())
                self._staging.clear()
                return self._collect()
            except BaseException:
                self._catch_up(begun)
                raise
        with self._phase("injection", number):
            self._schedule.open(number)
            self._launch_apart([*self._opening(), self._inject_from_schedule])
            self._staging.clear()
        for phase, launches in self._steps.items():
            with self._phase(phase, number):
                after = [*(self._learning if self._plasticity.on else ()), self._rings[0].finish] if phase == "archival" else []
                self._launch_apart(launches + after)
        with self._phase("transfer", number):
            return self._collect()

    def _launch(self, ring: _Ring, last: int, before: list[Launch]) -> None:
        """Bursts up to `last`, as far as the ring and the time of a launch reach."""
        ring.last[0], ring.read[0], ring.nanoseconds[0] = last, self._burst, LAUNCH_NANOSECONDS
        little = self._neurons <= self._device.alone and self._events <= 4 * self._device.alone
        self._device.launch([*before, ring.run[self._plasticity.on, little]])

    def _opening(self) -> list[Launch]:
        """What comes before the next burst: what is staged, and the tasks of the last queue afresh where rows were edited since they
        were written. What may need memory comes before anything changes, and what only a burst may change is last."""
        launches = self._staging.launches()
        self._untold = self._untold or self._plasticity.stale
        self._plasticity.begin()
        stale, self._untold = self._untold, False
        return launches + self._tally if stale else launches

    def _launch_apart(self, launches: list[Launch]) -> None:
        """The launches of a phase that is looked at. A profiler sees for itself how long they take; a clock has to wait."""
        self._device.launch(launches)
        if self._seconds is not None:
            self._device.wait()

    def _collect(self) -> BurstOutput:
        """What the burst just launched left, after the one wait of it."""
        self._device.wait()
        count, fired, numbers = self._rings[0].one()
        self._burst += 1
        self._previous_count, self._fired_count, self._events = self._fired_count, count, numbers[_SYNAPTIC]
        if fired is None:
            fired = self._fetch("queue", count, self._queue_at())
        return BurstOutput(fired, tuple(numbers[: len(COUNTERS)]), numbers[len(COUNTERS)])

    def run(self, first: int, n: int) -> Generator[Chunk]:
        if self._seconds is not None:  # phase by phase
            yield from super().run(first, n)
            return
        last = first + n - 1
        while self._burst < last:
            scheduled = self._schedule.open(self._burst + 1)
            yield from self._run(min(last, scheduled, self._burst + AT_ONCE))

    def _run(self, last: int) -> Iterator[Chunk]:
        """Bursts up to `last`. While the host has one ring, the device fills the other; who reads slowly holds it up, and
        nothing is lost. A launch that ends early leaves the rest to the next."""
        free, pending, reached = list(self._rings), deque[tuple[_Ring, Any]](), self._burst
        chunk: Chunk | None = None
        begun = self._burst
        try:
            before = self._opening()
            while True:
                while free and reached < last:
                    ring = free.pop()
                    reached = min(last, reached + ring.bursts)
                    self._launch(ring, last, before)
                    if before:
                        self._staging.clear()
                        before = []
                    pending.append((ring, self._device.mark()))
                if chunk is not None:
                    yield chunk
                if not pending:
                    return
                ring, mark = pending.popleft()
                with nullcontext() if self._ranges is None else self._ranges.range("chunk", self._burst + 1):
                    self._device.wait(mark)
                    chunk = self._read(ring)
                free.append(ring)
                if not pending:
                    reached = self._burst
        except BaseException:
            self._catch_up(begun)
            raise

    def _catch_up(self, begun: int) -> None:
        """A signal, or a reader that left, has ended what began after burst `begun` anywhere; what was launched has gone on. The
        device says which burst was its last: if any came after `begun`, the first has taken what was staged, else none has."""
        self._device.wait()
        self._untold = True
        self._burst = int(self._fetch("control", 1)[CONTROL.index("burst")])
        if self._burst == begun:
            return
        self._staging.clear()
        self._fired_count = int(self._fetch("queue", 1, self._queue_at() - QUEUE_HEADER)[0])
        self._previous_count = len(self.fired_in(self._burst - 1))

    def _read(self, ring: _Ring) -> Chunk | None:
        """The bursts of a launch; None where there are none, because the one before it had left a burst unread."""
        chunk, unread = ring.chunk(self._burst + 1)
        if not len(chunk):
            return None
        self._burst += len(chunk)
        counts = np.diff(chunk.begin)
        if unread:  # the last burst's ids are in its queue still
            count = int(self._fetch("queue", 1, self._queue_at() - QUEUE_HEADER)[0])
            fired = np.concatenate((chunk.fired, self._fetch("queue", count, self._queue_at())))
            chunk = Chunk(chunk.first, np.append(chunk.begin[:-1], len(fired)), fired, chunk.counters, chunk.clock)
            counts[-1] = count
        self._previous_count = int(counts[-2]) if len(counts) > 1 else self._fired_count
        self._fired_count, self._events = int(counts[-1]), int(chunk.counters[-1, _SYNAPTIC])
        return chunk

    def _queue_at(self, burst: int | None = None) -> int:
        """Where the ids that fired in a burst (the last, or the one before it) begin."""
        return (self._burst if burst is None else burst) % 2 * queue_stride(self._neurons) + QUEUE_HEADER

    def fired_on_device(self) -> Any:
        return self._device.view(self._arrays["queue"], self._queue_at(), self._fired_count)

    # -- the network as a whole ----------------------------------------------------------------------------------
    def set_settings(self, settings: Settings) -> None:
        rules, state = settings.rules, self._state
        self._settings = settings
        state["burst_clock"] = rules.refractory_clock == "burst"
        state["rectify_input"] = rules.rectify_input
        state["potential_floor"], state["potential_ceiling"] = rules.potential_floor, rules.potential_ceiling
        state["power_amount"], state["random_seed"] = settings.power_amount, settings.random_seed
        self._set_units(self._areas)

    def _set_units(self, areas: dict[int, Area]) -> None:
        bits = fixed_point_bits(areas)
        self._count_arrivals(bits, self._in_degree_bound)
        self._state["fraction_bits"] = bits
        unit = np.float32(float(self._settings.contribution_scale) * 2.0**-bits)
        self._state["unit"] = settle(np.array([unit], np.float32))

    def _count_arrivals(self, fraction_bits: int, in_degree: int) -> None:
        """Arrivals are counted in the low bits of the accumulators where sum and count provably fit 63 bits together, else
        apart. Called before the change that makes it necessary, as it may need memory."""
        bits = count_bits(self._shape)
        apart = not self._tuning.packed or fraction_bits > 0 or in_degree >= 1 << bits
        allocated = self._arrays["arrivals"].nbytes > 0
        if apart != allocated and self._neurons:
            fresh = self._device.alloc(self._neurons if apart else 0, np.uint32)
            self._device.wait()
            self._device.free(self._arrays["arrivals"])
            self._arrays["arrivals"] = fresh
            self._state["arrivals"] = self._device.address(fresh) if apart else 0
        self._state["arrival_bits"] = 0 if apart else bits
        self._state["cell_bits"] = 0 if apart else cell_bits(self._shape, in_degree)

    def set_area(self, area: int, flags: Area) -> None:
        areas = {**self._areas, area: flags}
        with self._device.lent() as lent:
            writing, _ = self._area_written(lent, area, valid_only=False, mask=_AREA_FLAGS, bits=_area_flags(flags))
            self._set_units(areas)
            self._device.launch([writing])
        self._areas = areas

    def _flags_of_areas(self, areas: U32) -> NDArray[np.uint8]:
        """The bits that a neuron has from its area."""
        known, inverse = np.unique(areas, return_inverse=True)
        bits = np.array([_area_flags(self._areas.get(area, Area())) for area in known.tolist()], np.uint8)
        return bits[inverse] if len(known) else np.zeros(0, np.uint8)

    # -- neurons -------------------------------------------------------------------------------------------------
    def add_neurons(self, neurons: U32, columns: Columns) -> None:
        if not len(neurons):
            return
        self._plasticity.areas_change(columns["cortical_area"], neurons)
        flags = np.where(columns["mp_charge_accumulation"], FLAG["accumulates"], 0).astype(np.uint8)
        flags |= FLAG["valid"] | FLAG["created"] | self._flags_of_areas(columns["cortical_area"])
        columns = {name: np.ascontiguousarray(values) for name, values in columns.items() if name in self._arrays}
        consecutive = int(neurons[-1]) - int(neurons[0]) == len(neurons) - 1 and bool((neurons[1:] > neurons[:-1]).all())
        with self._device.lent() as lent:
            ids = lent.uploaded(neurons)
            launches = [self._flags_written(lent, ids, 0xFF & ~(FLAG["power"] | _BURST_FLAGS), flags)]
            if not consecutive:
                launches += [self._scattered(lent, name, ids, values) for name, values in columns.items()]
            else:
                for name, values in columns.items():
                    self._device.upload(self._arrays[name], values.ravel(), int(neurons[0]) * NEURON_FIELDS[name].width)
            self._device.launch(launches)

    def delete_neurons(self, neurons: U32) -> NDArray[np.bool_]:
        if not len(neurons):
            return np.zeros(0, np.bool_)
        with self._device.lent() as lent:
            before = lent.alloc(len(neurons), np.uint8)
            self._device.launch([self._flags_written(lent, lent.uploaded(neurons), FLAG["valid"], None, before)])
            return np.asarray(self._device.fetched(before, len(neurons)) & FLAG["valid"] != 0)

    def write(self, field: str, neurons: U32, values: NDArray[Any]) -> None:
        if field == "mp_charge_accumulation":
            self._write_flags(neurons, FLAG["accumulates"], np.where(values, FLAG["accumulates"], 0).astype(np.uint8))
            return
        if not len(neurons):
            return
        if field == "cortical_area":
            self._plasticity.areas_change(values, neurons)
        with self._device.lent() as lent:
            ids = lent.uploaded(neurons)
            launches = [self._scattered(lent, field, ids, np.ascontiguousarray(values))]
            if field == "cortical_area":
                launches.append(self._flags_written(lent, ids, _AREA_FLAGS, self._flags_of_areas(values)))
            self._device.launch(launches)

    def write_area(self, field: str, area: int, value: NDArray[Any]) -> int:
        if field == "mp_charge_accumulation":
            return self._write_area(area, mask=FLAG["accumulates"], bits=FLAG["accumulates"] if value[0] else 0)
        mask, bits = 0, 0
        if field == "cortical_area":
            self._plasticity.areas_change(np.array([area, int(value[0])], np.uint32))
            mask, bits = _AREA_FLAGS, _area_flags(self._areas.get(int(value[0]), Area()))
        return self._write_area(area, mask=mask, bits=bits, field=field, value=np.ascontiguousarray(value))

    def read(self, field: str) -> NDArray[Any]:
        if field in ("valid", "created", "mp_charge_accumulation"):
            flag = FLAG["accumulates" if field == "mp_charge_accumulation" else field]
            return np.asarray(self._fetch("flags", self._neurons) & flag != 0)
        width = NEURON_FIELDS[field].width
        values = self._fetch(field, self._neurons * width)
        return values if width == 1 else values.reshape(-1, width)

    def _fetch(self, name: str, count: int, at: int = 0) -> NDArray[Any]:
        return self._device.fetched(self._arrays[name], count, at)

    # An edit asks for all the memory that it takes before its first launch: it is done as a whole or not at all.
    def _scattered(self, lent: Lent, field: str, ids: Any, values: NDArray[Any]) -> Launch:
        """What writes values to a field of the neurons `ids` (on the device)."""
        args = (np.uint64(ids.size), ids, self._arrays[field], np.uint32(values.nbytes // ids.size), lent.uploaded(values.view(np.uint8)))
        return Launch("scatter_values", args, single=ids.size <= FEW)

    def _flags_written(self, lent: Lent, ids: Any, mask: int, bits: NDArray[np.uint8] | None, before: Any = None) -> Launch:
        """What sets the flags of `mask` as in `bits` (None: clears them) and puts into `before` what all flags were. Ids
        (on the device) are given once each."""
        new = None if bits is None else lent.uploaded(bits)
        return Launch("write_flags", (self._state, np.uint64(ids.size), ids, np.uint32(mask), new, before), single=ids.size <= FEW)

    def _write_flags(self, neurons: U32, mask: int, bits: NDArray[np.uint8]) -> None:
        if len(neurons):
            with self._device.lent() as lent:
                self._device.launch([self._flags_written(lent, lent.uploaded(neurons), mask, bits)])

    def _area_written(
        self, lent: Lent, area: int, *, valid_only: bool, mask: int, bits: int, field: str | None = None, value: NDArray[Any] | None = None
    ) -> tuple[Launch, Any]:
        """What writes flags and a field of the neurons of an area, and where it says how many these were."""
        written, data = lent.alloc(1, np.uint32), None if value is None else lent.uploaded(value.ravel().view(np.uint8))
        target, size = (None, 0) if field is None or value is None else (self._arrays[field], value.nbytes)
        flags = (np.uint32(mask), np.uint32(bits))
        args = (self._state, np.uint32(area), np.uint32(valid_only), target, np.uint32(size), data, *flags, written)
        return Launch("write_area", args), written

    def _write_area(self, area: int, **what: Any) -> int:
        with self._device.lent() as lent:
            writing, written = self._area_written(lent, area, valid_only=True, **what)
            self._device.launch([writing])
            return int(self._device.fetched(written, 1)[0])

    # -- synapses ------------------------------------------------------------------------------------------------
    def add_synapses(self, batch: SynapseBatch) -> None:
        if not len(batch):
            return
        # A bound that only additions raise; looked at closely when it says that counts might not fit any more.
        few = len(batch) * 8 < self._neurons
        arrivals = np.unique(batch.target, return_counts=True)[1] if few else np.bincount(batch.target)
        bound = self._in_degree_bound + int(arrivals.max())
        if bound >= 1 << count_bits(self._shape):
            degrees = np.bincount(batch.target, minlength=self._neurons)
            for part in self._rows.list():
                degrees += np.bincount(part.target, minlength=self._neurons)
            bound = int(degrees.max())
        if bound > MAX_IN_DEGREE:
            raise CapacityError(f"{bound:,} synapses would end in one neuron, at most {MAX_IN_DEGREE:,} can; let several share them")
        self._count_arrivals(int(self._state["fraction_bits"][0]), bound)
        self._plasticity.add_synapses(batch, lambda: self._rows.add(batch))
        self._in_degree_bound, self._untold = bound, True

    def remove_synapses(self, source: U32, target: U32) -> NDArray[np.bool_]:
        self._untold = True
        found = self._rows.edit(source, target, None)
        self._plasticity.remove_synapses(source, target, found)
        return found

    def reweight_synapses(self, source: U32, target: U32, weight: NDArray[Any]) -> NDArray[np.bool_]:
        return self._plasticity.edit_weights(source, lambda: self._rows.edit(source, target, weight))

    def synapses_from(self, sources: U32 | None = None) -> Iterator[SynapseBatch]:
        self._plasticity.settle(sources)
        return self._rows.list(sources)

    def synapses_to(self, targets: U32) -> SynapseBatch:
        self._plasticity.settle()
        batches = list(self._rows.list(wanted=bit_set(self._neurons, targets)))
        return SynapseBatch.concatenate([self._no_synapses, *batches])

    @property
    def synapse_count(self) -> int:
        return self._rows.count

    def compact(self) -> None:
        self._plasticity.clear_columns()
        self._rows.compact()
        self._plasticity.compact()

    # -- plasticity ----------------------------------------------------------------------------------------------
    def add_rule(self, handle: int, rule: PlasticityRule, since: int) -> None:
        self._untold = True
        self._plasticity.add(handle, rule, since)

    def remove_rule(self, handle: int) -> None:
        self._plasticity.remove(handle)

    def residues(self) -> NDArray[np.int16]:
        return self._plasticity.residues()

    # -- looking inside ------------------------------------------------------------------------------------------
    def fire_queue(self, *, previous: bool = False) -> tuple[U32, F32]:
        burst, count = (self._burst - 1, self._previous_count) if previous else (self._burst, self._fired_count)
        return self._fetch("queue", count, self._queue_at(burst)), self._fetch("queue_potential", count, burst % 2 * self._neurons)

    def candidates(self) -> tuple[U32, F32]:
        ids = self._ids_in("candidate_bits", 0)
        return ids, self._fetch("input", self._neurons)[ids]

    def fired_in(self, burst: int) -> U32:
        return self._ids_in("fired_bits", burst % self._slots * int(self._state["words"][0]))

    def _ids_in(self, bits: str, at: int) -> U32:
        words = self._fetch(bits, int(self._state["words"][0]), at)
        return np.flatnonzero(np.unpackbits(words.view(np.uint8), bitorder="little")).astype(np.uint32)

    def memory(self) -> dict[str, int]:
        staging = self._staging.nbytes + self._schedule.nbytes
        pieces = {"rows": self._rows.nbytes, "neurons": 0, "tasks": 0, "ledger": 0, "control": 0, "staging": staging}
        for name, array in self._arrays.items():
            pieces[_ARRAY[name].group] += array.nbytes
        if self._plasticity.on:
            pieces["plasticity"] = self._plasticity.nbytes
        return pieces

    def edit_statistics(self) -> dict[str, int]:
        names = ("rows_moved", "compactions", "bytes_compacted", "growths", "bytes_grown")
        return {"bytes_touched": int(self._fetch("edit_bytes", 1)[0]), **{name: getattr(self._rows, name) for name in names}}
