"""The reference backend: plain NumPy, slow and obviously right; the oracle that every other backend is held to.

Its state is a Connectome of its own, and the Connectome's edits are its edits. A burst costs a few passes over all
synapses (about 100 ms at 10 million). `burst` reads like its schedule, the rule in a comment above each step.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_npu.arrays import F32, U32, Indices
from gpu_npu.backends.base import Backend, BurstOutput, Columns, Flight, Platform
from gpu_npu.backends.reference_plasticity import Plasticity
from gpu_npu.backends.scheduled import ScheduleStore
from gpu_npu.backends.shape import NetworkShape
from gpu_npu.checks import LARGEST, SMALLEST_NORMAL, settle
from gpu_npu.connectome import Area, Connectome, PlasticityRule, Settings, SynapseBatch, SynapseSource
from gpu_npu.connectome.fields import NEURON_FIELDS, POTENTIAL_OF_FORCED, STATE_FIELDS
from gpu_npu.connectome.sums import fixed_point_bits
from gpu_npu.errors import NetworkError, NeuronIndexError, NpuError

ALWAYS_EXCITABLE = np.float32(0.999)
"""From this excitability on a neuron fires at threshold without a draw."""
UNLIMITED = (0, 65535)
"""Values of consecutive_fire_limit that mean: no limit."""
U16_MAX = 65535
LOW_32_BITS = 0xFFFFFFFF
MOST_ROUNDS = 64
"""Of additions to many neurons at a time, where some are injected into several times."""
BATCH = 1 << 20
"""Synapses a batch of synapses_from."""

DESCRIPTION = f"plain NumPy {np.__version__} on one core: the oracle"


class ReferencePlatform(Platform):
    """The host, without a kernel."""

    name = "reference"

    @property
    def description(self) -> str:
        return DESCRIPTION

    def memory(self) -> tuple[int, int]:
        from gpu_npu.backends.devices.limits import host_memory

        return host_memory()

    def plan(self, connectome: Connectome, shape: NetworkShape, synapses: SynapseSource | None = None) -> tuple[dict[str, int], int]:
        """A connectome of these capacities is held; queues and ledger hold what fired and no more."""
        fields = sum(np.dtype(field.dtype).itemsize * field.width for field in NEURON_FIELDS.values())
        one_synapse = sum(array.itemsize for array in connectome.synapses.arrays())
        neurons = shape.neuron_capacity * (fields + 2)
        return {"rows": shape.synapse_capacity * one_synapse, "neurons": neurons, "ledger": 0, "staging": 0, "queues": 0}, 0

    def load(self, connectome: Connectome, shape: NetworkShape, synapses: SynapseSource | None = None) -> Reference:
        network, synapse_capacity = connectome.copy(), shape.synapse_capacity
        if synapses is not None:  # slots of removed synapses are not free
            synapse_capacity = max(synapse_capacity, network.synapses.count + synapses.total)
        network.reserve(neurons=shape.neuron_capacity, synapses=synapse_capacity)
        for batch in synapses or ():
            network.synapses.append(batch)
        return Reference(network, shape.ledger_window)

    def close(self) -> None:
        return


class Reference(Backend):
    """The network and its bursts in plain NumPy on the host."""

    name = "reference"

    def __init__(self, network: Connectome, ledger_window: int) -> None:
        self._resident: Connectome | None = network
        self._window = ledger_window
        self._power = _no_ids()
        self._edits = dict.fromkeys(("bytes_touched", "rows_moved", "compactions", "bytes_compacted", "growths"), 0)
        self._plasticity = Plasticity()
        self._forget()

    @property
    def description(self) -> str:
        return DESCRIPTION

    # -- life ----------------------------------------------------------------------------------------------------
    def reserve(self, *, neuron_capacity: int, synapse_capacity: int) -> None:
        network = self._network
        self._edits["growths"] += neuron_capacity > network.neuron_capacity or synapse_capacity > network.synapse_capacity
        network.reserve(neurons=max(neuron_capacity, network.neuron_capacity), synapses=max(synapse_capacity, network.synapse_capacity))

    def reset(self, state: Columns) -> None:
        for field in STATE_FIELDS:
            self._column(field)[:] = state[field]
        self._forget()

    def flight(self) -> Flight:
        return Flight(
            burst=self._burst,
            fired=self.fire_queue(),
            previous=self.fire_queue(previous=True),
            candidates=self.candidates(),
            ledger=tuple(self.fired_in(burst) for burst in sorted(self._ledger)),
            staged=(
                np.concatenate([*(ids for ids, _ in self._staged), _no_ids()]),
                np.concatenate([*(values for _, values in self._staged), np.empty(0, np.float32)]),
            ),
            forced=np.unique(np.concatenate([*self._forced, _no_ids()])),
            scheduled=self._schedule.after(self._burst),
            memory=self._plasticity.memory(self._burst, self._network.neuron_capacity, self.residues()),
        )

    def resume(self, flight: Flight) -> None:
        self._burst = flight.burst
        self._fired, self._previous, self._candidates = flight.fired, flight.previous, flight.candidates
        self._ledger.update(enumerate(flight.ledger, flight.burst - len(flight.ledger) + 1))
        self.inject(*flight.staged)
        self.force(flight.forced)
        self._schedule.add(*flight.scheduled)
        self._plasticity.resume(flight.memory, self._in_order(np.flatnonzero(self._network.synapses.valid)))

    def close(self) -> None:
        self._resident = None
        self._forget()

    def _forget(self) -> None:
        """As before the first burst: nothing staged, nothing fired."""
        self._staged: list[tuple[U32, F32]] = []
        self._forced: list[U32] = []
        self._schedule = ScheduleStore()
        self._fired, self._previous, self._candidates = _empty_queue(), _empty_queue(), _empty_queue()
        self._ledger: dict[int, U32] = {}
        self._plasticity.forget()
        self._burst = 0

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
        self._staged.append((neurons.copy(), potentials.copy()))

    def inject_device(self, neurons: object, potentials: object) -> None:
        ids, values = _host_array("neurons", neurons, np.uint32), _host_array("potentials", potentials, np.float32)
        if len(ids) != len(values):
            raise NetworkError(f"{len(ids)} neurons but {len(values)} potentials: give one potential a neuron")
        capacity = self._network.neuron_capacity
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
        self._forced.append(neurons.copy())

    def schedule(self, bursts: NDArray[np.uint64], neurons: U32, potentials: F32 | None) -> None:
        self._schedule.add(bursts, neurons, potentials)

    def set_power(self, neurons: U32) -> None:
        self._power = neurons.copy()

    @property
    def burst_count(self) -> int:
        return self._burst

    def burst(self, number: int) -> BurstOutput:
        network = self._network
        _, who, how_much = self._schedule.upto(number)
        self._schedule.forget(number)
        self.inject(who[~np.isnan(how_much)], how_much[~np.isnan(how_much)])
        self.force(who[np.isnan(how_much)])
        neurons, synapses, settings = network.neurons, network.synapses, network.settings
        rules, valid, size = settings.rules, neurons.valid, network.neuron_capacity
        fired_before, firing_potentials = self._fired

        with self._phase("injection", number), np.errstate(over="ignore", under="ignore"):
            # Those whose countdown is above 0 when the burst begins; only the burst clock asks.
            blocked = np.flatnonzero(valid & (neurons.refractory_countdown > 0))
            forced = np.unique(np.concatenate([*self._forced, _no_ids()]))
            forced = forced[valid[forced]]

            # A neuron that keeps no charge and did not fire in the previous burst (forced counts as fired) starts from 0.
            forgets = valid & ~neurons.mp_charge_accumulation
            forgets[fired_before] = False
            neurons.membrane_potential[forgets] = 0

            # External potential: the staged injections one at a time in order, ext = fl32(ext + p), settled each time.
            # Round r adds the r-th injection of every neuron that has so many. An injection of 0 makes a candidate too.
            external, candidate = np.zeros(size, np.float32), np.zeros(size, np.bool_)
            staged = np.concatenate([*(ids for ids, _ in self._staged), _no_ids()])
            amounts = np.concatenate([*(values for _, values in self._staged), np.empty(0, np.float32)])
            staged, amounts = staged[valid[staged]], amounts[valid[staged]]
            _add_in_order(external, staged, amounts)
            candidate[staged] = True

            # Then power_amount once for each power neuron.
            powered = self._power[valid[self._power]]
            external[powered] = settle(external[powered] + np.float32(settings.power_amount))
            candidate[powered] = True

        with self._phase("propagation", number):
            # Synapses that carry: valid, and their source fired in the previous burst and still exists. k, the valid
            # synapses leaving a source, counts those to targets that do not exist; they deliver nothing.
            exists = valid[fired_before]
            sources, potentials = fired_before[exists], firing_potentials[exists]
            bits = fixed_point_bits(network.areas)
            sums, terms = np.zeros(size, np.uint64), 0
            if len(sources):
                carries = np.zeros(size, np.bool_)
                carries[sources] = True
                slots = np.flatnonzero(carries[synapses.source] & synapses.valid)
                k = np.bincount(synapses.source[slots], minlength=size).astype(np.uint64)
                slots = slots[valid[synapses.target[slots]]]
                source, target, terms = synapses.source[slots], synapses.target[slots], len(slots)

                # p: the synapse's psp, or the potential at which the source fired, clamped to 0..255 and rounded half away
                # from zero. (Below 256 adding a half is exact in float64 wherever it can matter.)
                driven = self._sources_where(sources, [a for a, flags in network.areas.items() if flags.mp_driven_psp])
                rounded = np.zeros(size, np.uint64)
                rounded[sources] = np.floor(np.clip(potentials, 0, 255).astype(np.float64) + 0.5).astype(np.uint64)
                p = np.where(driven[source], rounded[source], synapses.psp[slots].astype(np.uint64))

                # m = weight * p; the term is m * 2^F where psp is uniform, else floor((m * 2^F + floor(k / 2)) / k).
                m = (synapses.weight[slots].astype(np.uint64) * p) << np.uint64(bits)
                shared = self._sources_where(sources, [a for a, flags in network.areas.items() if not flags.psp_uniform])[source]
                m[shared] = (m[shared] + k[source[shared]] // np.uint64(2)) // k[source[shared]]

                # Exact sums. Unsigned arithmetic wraps, so adding the negative subtracts; the true sum fits 64 bits.
                np.add.at(sums, target, np.where(synapses.inhibitory[slots], np.negative(m), m))
                candidate[target] = True

            # I = fl32(ext + fl32(fl32(syn) * fl32(contribution_scale * 2^-F)))
            with np.errstate(over="ignore", under="ignore"):
                scale = settle(np.array([settings.contribution_scale / 2.0**bits], np.float64).astype(np.float32))
                ids = np.flatnonzero(candidate)
                synaptic = settle(sums[ids].view(np.int64).astype(np.float32) * scale)
                inputs = settle(external[ids] + synaptic)

        with self._phase("dynamics", number), np.errstate(over="ignore", under="ignore"):
            # 1. A candidate in its refractory period is stopped, its input dropped. The candidate clock counts here.
            waits = neurons.refractory_countdown[ids] > 0
            stopped, j, i = ids[waits], ids[~waits], inputs[~waits]
            if rules.refractory_clock == "candidate":
                self._count_down(stopped)

            # 2. V = fl32(membrane_potential + I), between floor and ceiling. Rectified: no input below 0 where charge is kept.
            if rules.rectify_input:
                i = np.where(neurons.mp_charge_accumulation[j], np.maximum(i, np.float32(0)), i)
            v = settle(neurons.membrane_potential[j] + i)
            v = np.minimum(np.maximum(v, np.float32(rules.potential_floor)), np.float32(rules.potential_ceiling))

            # 3. Within the thresholds, a neuron that has fired its limit in a row only forgets its count, and keeps V
            #    without a leak; any other fires if its excitability lets it.
            reached = (neurons.threshold[j] <= v) & (v <= neurons.threshold_limit[j])
            sated = reached & self._at_limit(j)
            excitability = neurons.excitability[j]
            luck = excitability_draw(j.astype(np.uint32), number & LOW_32_BITS, settings.random_seed)
            excited = (excitability >= ALWAYS_EXCITABLE) | ((excitability > 0) & (luck < excitability))
            fires = reached & ~sated & excited
            neurons.consecutive_fire_count[j[sated]] = 0
            neurons.membrane_potential[j[sated]] = v[sated]

            # 4. Fired: the firing potential is V. The snooze looks at the new count.
            fired = j[fires]
            neurons.membrane_potential[fired] = 0
            neurons.consecutive_fire_count[fired] = np.minimum(neurons.consecutive_fire_count[fired].astype(np.uint32) + 1, U16_MAX)
            snooze = np.where(self._at_limit(fired), neurons.snooze_period[fired], 0).astype(np.uint32)
            neurons.refractory_countdown[fired] = np.minimum(neurons.refractory_period[fired] + snooze, U16_MAX)

            # 5. Not fired: a limited neuron's count starts again; the leak comes after the threshold test.
            silent = ~fires & ~sated
            quiet = j[silent]
            neurons.consecutive_fire_count[quiet[self._is_limited(quiet)]] = 0
            keeps = settle(np.float32(1) - neurons.leak_coefficient[quiet])
            neurons.membrane_potential[quiet] = settle(v[silent] * keeps)

            # Forced ids that did not fire by themselves join, state untouched.
            joined = np.setdiff1d(forced, fired)
            everyone = np.concatenate([fired.astype(np.uint32), joined])
            firing = np.concatenate([v[fires], np.full(len(joined), POTENTIAL_OF_FORCED)])
            order = np.argsort(everyone)

            # The burst clock: all that were blocked at the beginning count down, candidates or not, except the forced.
            if rules.refractory_clock == "burst":
                self._count_down(np.setdiff1d(blocked, forced))

        with self._phase("archival", number):
            self._previous, self._fired = self._fired, (everyone[order], firing[order])
            self._ledger[number] = self._fired[0]
            self._ledger.pop(number - self._window, None)
            self._candidates = ids.astype(np.uint32), inputs
            self._staged, self._forced = [], []
            self._plasticity.act(network, number, self._fired[0])
            self._burst = number
        with self._phase("transfer", number):
            return BurstOutput(self._fired[0].copy(), (len(staged), len(powered), terms, len(ids), len(stopped)), time.perf_counter_ns())

    def _is_limited(self, ids: Indices) -> NDArray[np.bool_]:
        return ~np.isin(self._column("consecutive_fire_limit")[ids], UNLIMITED)

    def _at_limit(self, ids: Indices) -> NDArray[np.bool_]:
        """Has a fire limit and has fired that often in a row."""
        reached = self._column("consecutive_fire_count")[ids] >= self._column("consecutive_fire_limit")[ids]
        return np.asarray(self._is_limited(ids) & reached)

    def _count_down(self, ids: Indices) -> None:
        """One burst of the refractory period is over; at its end a count that reached the limit starts again."""
        countdown = self._column("refractory_countdown")
        countdown[ids] -= 1
        ended = ids[countdown[ids] == 0]
        self._column("consecutive_fire_count")[ended[self._at_limit(ended)]] = 0

    def _sources_where(self, sources: U32, areas: list[int]) -> NDArray[np.bool_]:
        """For every id: is it one of these sources and in one of these areas."""
        flags = np.zeros(self._network.neuron_capacity, np.bool_)
        flags[sources] = np.isin(self._column("cortical_area")[sources], np.array(areas, np.uint32))
        return flags

    def fired_on_device(self) -> U32:
        return self._fired[0].copy()

    # -- the network as a whole ----------------------------------------------------------------------------------
    def set_settings(self, settings: Settings) -> None:
        self._network.set_settings(settings)

    def set_area(self, area: int, flags: Area) -> None:
        self._network.set_area(area, flags)

    # -- neurons -------------------------------------------------------------------------------------------------
    def add_neurons(self, neurons: U32, columns: Columns) -> None:
        self._network.create_neurons(neurons, **columns)

    def delete_neurons(self, neurons: U32) -> NDArray[np.bool_]:
        return self._network.delete_neurons(neurons)

    def write(self, field: str, neurons: U32, values: NDArray[Any]) -> None:
        self._column(field)[neurons] = values

    def write_area(self, field: str, area: int, value: NDArray[Any]) -> int:
        members = np.flatnonzero(self._column("valid") & (self._column("cortical_area") == area))
        self._column(field)[members] = value
        return len(members)

    def read(self, field: str) -> NDArray[Any]:
        return self._column(field).copy()

    # -- synapses ------------------------------------------------------------------------------------------------
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
        found = self._network.reweight_synapses(source, target, weight)
        self._edits["bytes_touched"] += int(found.sum()) * weight.itemsize
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
    def add_rule(self, handle: int, rule: PlasticityRule, since: int) -> None:
        self._plasticity.add(handle, rule, since)

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
        ids, potentials = self._previous if previous else self._fired
        return ids.copy(), potentials.copy()

    def candidates(self) -> tuple[U32, F32]:
        ids, potentials = self._candidates
        return ids.copy(), potentials.copy()

    def fired_in(self, burst: int) -> U32:
        return self._ledger[burst].copy()

    @property
    def _synapse_bytes(self) -> int:
        return sum(array.itemsize for array in self._network.synapses.arrays())

    def memory(self) -> dict[str, int]:
        columns = [self._column(field) for field in (*NEURON_FIELDS, "valid", "created")]
        queues = (*self._fired, *self._previous, *self._candidates, self._power)
        return {
            "rows": self._network.synapse_capacity * self._synapse_bytes,
            "neurons": sum(column.nbytes for column in columns),
            "ledger": sum(ids.nbytes for ids in self._ledger.values()),
            "staging": sum(ids.nbytes + values.nbytes for ids, values in self._staged) + sum(ids.nbytes for ids in self._forced),
            "queues": sum(array.nbytes for array in queues),
        }

    def edit_statistics(self) -> dict[str, int]:
        return dict(self._edits)


def excitability_draw(neurons: U32, burst: int, seed: int) -> F32:
    """r(j, burst) of the semantics, in [0, 1], float32; burst: its low 32 bits. All in uint32 with wrap-around."""
    s = neurons * np.uint32(2654435761)
    s += np.uint32((burst * 1597334677 + seed) & LOW_32_BITS)
    s = s * np.uint32(747796405) + np.uint32(2891336453)
    w = ((s >> ((s >> np.uint32(28)) + np.uint32(4))) ^ s) * np.uint32(277803737)
    h = (w >> np.uint32(22)) ^ w
    draw: F32 = h.astype(np.float32) / np.float32(2**32)
    return draw


def _add_in_order(sums: F32, ids: U32, values: F32) -> None:
    """sums[ids[i]] = settle(sums[ids[i]] + values[i]), one after the other. Round r adds the r-th value of every id that has so
    many; beyond MOST_ROUNDS, where few ids are left, one value is added at a time."""
    by_id = np.argsort(ids, kind="stable")
    ids, values = ids[by_id], values[by_id]
    rank = np.arange(len(ids)) - np.searchsorted(ids, ids)
    rest = rank >= MOST_ROUNDS
    by_rank = np.argsort(rank[~rest], kind="stable")
    here, added = ids[~rest][by_rank], values[~rest][by_rank]
    bounds = np.searchsorted(rank[~rest][by_rank], np.arange(min(int(rank.max(initial=-1)) + 1, MOST_ROUNDS) + 1)).tolist()
    for begin, end in pairwise(bounds):
        sums[here[begin:end]] = settle(sums[here[begin:end]] + added[begin:end])
    for neuron, value in zip(ids[rest].tolist(), values[rest].tolist(), strict=True):
        total = np.float32(float(sums[neuron]) + value)  # exact: a sum of two float32 rounds twice to the same
        sums[neuron] = 0 if abs(total) < SMALLEST_NORMAL else min(max(total, -LARGEST), LARGEST)


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


def _no_ids() -> U32:
    return np.empty(0, np.uint32)


def _empty_queue() -> tuple[U32, F32]:
    return _no_ids(), np.empty(0, np.float32)
