"""NPU: a connectome on a backend. Bursts and edits, all checked here and done there; queries are in queries.py.

The NPU keeps no copy of what lives on the backend. It checks every argument before anything changes, so a call is
done as a whole or raises with the NPU as it was. No clock, thread of its own or file is used.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from types import MappingProxyType, TracebackType
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gpu_npu.annotate import Ranges, annotated
from gpu_npu.arrays import U32, Flags, sorted_union, sorted_unique, without
from gpu_npu.backends.base import Backend, BurstOutput, Chunk
from gpu_npu.backends.select import BackendChoice, open_platform
from gpu_npu.backends.shape import NetworkShape
from gpu_npu.checkpoint import Snapshot
from gpu_npu.checks import as_array, check_area_id, check_ids, check_integer, check_pairs, check_potentials, check_unique
from gpu_npu.connectome import NEURON_FIELDS, STATE_FIELDS, Area, Connectome, CustomRule, PlasticityRule, Settings, SynapseSource
from gpu_npu.connectome.fields import COUNTERS, MAX_NEURONS, synapse_dtypes
from gpu_npu.connectome.neurons import lowest_free
from gpu_npu.connectome.sums import fixed_point_bits
from gpu_npu.connectome.validation import check_field, check_synapses, check_weights
from gpu_npu.edits import PendingSynapses, SumBound
from gpu_npu.errors import CapacityError, DeviceMemoryError, NetworkError
from gpu_npu.fire import BurstResult, Digest, RunResult
from gpu_npu.guard import Guard, guarded
from gpu_npu.objects import Unique, described
from gpu_npu.queries import Queries

M = TypeVar("M", bound=Callable[..., Any])


class NPU(Queries, Unique):
    """Neurons and synapses that fire in bursts.

    Any thread may call any method: calls happen one at a time, whole, and in each a second thread waits for its turn. A run is
    one call. Facts that lie here (burst_count, capacities, get_neuron_count, backend, settings, plasticity) never wait.
    What a watch, a plasticity rule or a signal handler calls in the middle of a call of its own thread is a NetworkError.

    Parameters
    ----------
    neuron_count : ids to reserve. No neuron exists yet: `add_neuron` fills the ids in order, `set_neuron_mapping`
        creates those it names. A synapse may name a reserved id and is inert until the neuron exists.
    synapse_capacity : synapses to reserve; `reserve` makes room for more of either.
    fire_ledger_window : bursts of history that are kept.
    backend : "auto", "reference", "cpu" or "cuda"; or a Platform; or a function that makes one.
    device : number of the GPU.
    weight_dtype, psp_dtype : np.uint8 or np.uint16.
    settings, areas : rules and scales of the network; area id -> flags.
    annotate : as `annotate(True)` from the start, so that building and loading are seen too.

    Errors: those of `gpu_npu.connectome.errors`. An explicit backend that cannot be had is a BackendUnavailableError.
    """

    instead = "npu.snapshot() is a copy of its run, from which NPU.from_snapshot() goes on"

    def __init__(
        self,
        neuron_count: int = 0,
        synapse_capacity: int = 0,
        fire_ledger_window: int = 20,
        *,
        backend: BackendChoice = "auto",
        device: int | None = None,
        weight_dtype: Any = np.uint8,
        psp_dtype: Any = np.uint8,
        settings: Settings | None = None,
        areas: Mapping[int, Area] | None = None,
        annotate: bool = False,
    ) -> None:
        empty = Connectome(neuron_count, synapse_capacity, weight_dtype=weight_dtype, psp_dtype=psp_dtype, settings=settings, areas=areas)
        self._start(empty, empty.neuron_capacity, empty.synapse_capacity, fire_ledger_window, backend, device, annotate)
        self._loaded: Connectome | None = None

    @classmethod
    def from_connectome(
        cls,
        connectome: Connectome,
        *,
        synapses: SynapseSource | None = None,
        fire_ledger_window: int = 20,
        neuron_capacity: int | None = None,
        synapse_capacity: int | None = None,
        backend: BackendChoice = "auto",
        device: int | None = None,
        annotate: bool = False,
    ) -> NPU:
        """An NPU with this network in it; capacities default to the connectome's. The connectome is frozen.

        synapses: more of them, younger than the connectome's own and of the same dtypes, read batch by batch and never held
        on the host: from a file (`gpu_npu.io.stream`) or generated (`gpu_npu.connectome.generators.RandomSynapses`, on the
        device where that can); `synapse_capacity` is then at least the sum of both.

        Everything in the connectome is checked first, as `Connectome.validate` does; synapses of a source are checked while
        they are read.
        """
        connectome.validate()
        npu = cls.__new__(cls)
        more = None if synapses is None else _fitting(synapses, connectome)
        count = connectome.synapse_count + (0 if more is None else more.total)
        neurons = _at_least(neuron_capacity, connectome.neuron_capacity, "neuron_capacity")
        reserved = _at_least(synapse_capacity, count, "synapse_capacity", max(count, connectome.synapse_capacity))
        npu._start(connectome, neurons, reserved, fire_ledger_window, backend, device, annotate, more=more)
        npu._loaded = connectome
        return npu

    @classmethod
    def from_snapshot(
        cls, snapshot: Snapshot, *, backend: BackendChoice = "auto", device: int | None = None, annotate: bool = False
    ) -> NPU:
        """An NPU that goes on where `snapshot` was taken, on whatever backend: what comes is, to the bit, what would have
        come there. `reset()` works as before; `reset(network=True)` does not, as it would need the network as first loaded."""
        network, flight = snapshot.network, snapshot.flight
        network.validate()
        npu, capacities = cls.__new__(cls), (network.neuron_capacity, network.synapse_capacity)
        npu._start(network, *capacities, snapshot.fire_ledger_window, backend, device, annotate, flight.learning.silent_until)
        npu._loaded = None
        try:
            npu._open().resume(flight)
        except BaseException:
            npu.close()
            raise
        npu._initial = {name: values.copy() for name, values in snapshot.initial.items()}
        npu._listed_power = snapshot.power_neurons
        npu._next_rule = snapshot.next_rule
        return npu

    @guarded
    @annotated("transfer")
    def snapshot(self, notes: Mapping[str, Any] | None = None, extra: Mapping[str, NDArray[Any]] | None = None) -> Snapshot:
        """The run as it stands between two bursts, copied: network, state, queues, ledger, what is staged, burst number.

        `Snapshot.write` makes a file of it, on any thread. notes, extra: values for JSON and arrays to find again in it.
        NetworkError where a CustomRule acts: what it remembers is not known here.
        """
        custom = [handle for handle, rule in self._plasticity.items() if isinstance(rule, CustomRule)]
        if custom:
            raise NetworkError(
                f"rule {custom[0]} is a CustomRule, which keeps its state to itself", python=f"unregister_plasticity({custom[0]}) ends it"
            )
        network = self._to_connectome()
        network.freeze()
        flight, initial = self._open().flight(), {name: values.copy() for name, values in self._initial.items()}
        keeps = (self._window, self._listed_power, initial, self._next_rule)
        return Snapshot(network, flight, *keeps, dict(notes or {}), dict(extra or {}))

    def _start(
        self,
        connectome: Connectome,
        neurons: int,
        synapses: int,
        window: int,
        backend: BackendChoice,
        device: int | None,
        annotate: bool,
        since: Mapping[int, int] | None = None,
        more: SynapseSource | None = None,
    ) -> None:
        self._choice, self._device = backend, device
        self._more = more
        """What was loaded beside the connectome's own synapses."""
        self._ranges = Ranges() if annotate else None
        self._resident, self._closed_at = None, 0
        self._guard = Guard()
        self._window = _count(window, "fire_ledger_window", least=1)
        self._load(connectome, neurons, synapses, since)

    def _load(self, connectome: Connectome, neurons: int, synapses: int, since: Mapping[int, int] | None = None) -> None:
        """Open a platform and put the network there; the NPU is then as new. since: handles of its rules -> up to when each
        is silent."""
        since = dict.fromkeys(range(len(connectome.plasticity)), 0) if since is None else since
        bound = SumBound()
        bound.prove(connectome, connectome.plasticity, self._more)
        with self._range("build"):
            capacities = {"neuron_capacity": neurons, "synapse_capacity": synapses}
            shape = NetworkShape.of(connectome, **capacities, ledger_window=self._window)
            platform, reason = open_platform(self._choice, self._device, shape)
        connectome.freeze()
        with self._range("load"):
            backend = platform.load(connectome, shape, self._more)
            try:
                for (handle, silent), rule in zip(since.items(), connectome.plasticity, strict=True):
                    backend.add_rule(handle, rule, silent)
            except BaseException:
                backend.close()
                raise
        backend.annotate(self._ranges)
        self._resident = backend
        self._reason = reason
        self._bound = bound
        self._neuron_capacity, self._synapse_capacity = neurons, synapses
        self._loaded_capacities = neurons, synapses
        self._weight_dtype, self._psp_dtype = connectome.weight_dtype, connectome.psp_dtype
        self._weight_max, self._psp_max = int(np.iinfo(self._weight_dtype).max), int(np.iinfo(self._psp_dtype).max)
        self._settings, self._areas = connectome.settings, dict(connectome.areas)
        self._plasticity = dict(zip(since, connectome.plasticity, strict=True))
        self._next_rule = len(self._plasticity)
        self._neuron_count = connectome.neuron_count
        self._pending = PendingSynapses(self._weight_dtype, self._psp_dtype)
        self._room = 0
        """Synapses that fit, as of the first one pending."""
        self._created: Flags | None = None
        """Which ids were ever created; None: not looked up yet."""
        self._next = 0
        """No id below this one is free."""
        self._initial: dict[str, NDArray[Any]] = {}
        """State to go back to, where it is not the default."""
        for name in STATE_FIELDS:
            self._remember(name, np.arange(connectome.neuron_capacity), connectome.neurons[name])
        self._listed_power = _NO_IDS
        self._all_power: U32 | None = None
        """The list and the power areas' neurons together; None: not looked up since they changed."""
        self._deleted: list[U32] = []
        """Neurons that were deleted since `_all_power` was looked up."""
        self._all_areas: dict[int, Area] | None = None
        """The areas with flags and those with neurons; None: not looked up since they changed."""
        self._set_power: U32 | None = _NO_IDS
        """What the backend was told; None: a signal or a want of memory broke in."""

    # -- life ----------------------------------------------------------------------------------------------------
    @guarded
    def close(self) -> None:
        """Give the backend's memory back; any later use of the NPU is an error. Closing twice is none."""
        self._close()

    def _close(self) -> None:
        if self._resident is not None:
            self._closed_at = self._resident.burst_count
            self._resident.close()
            self._resident = None
            self._pending.clear()

    def __enter__(self) -> NPU:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        backend = self._resident  # once, and no call: it never waits for another thread
        if backend is None:
            return described(self, f"closed after burst {self._closed_at:,}")
        neurons = f"{self._neuron_count:,} neurons (capacity {self._neuron_capacity:,})"
        return described(self, f"{neurons} after burst {backend.burst_count:,} on {backend.name}")

    def _open(self) -> Backend:
        if self._resident is None:
            raise NetworkError("this NPU is closed", python="make a new one")
        return self._resident

    def _ready(self) -> Backend:
        """The backend, after every synapse that was added has arrived there."""
        backend = self._open()
        if self._pending:
            with self._range("edit add_synapse"):
                backend.add_synapses(self._pending.batch())
            self._pending.clear()
        return backend

    @guarded
    @annotated("edit")
    def reset(self, network: bool = False) -> None:
        """Back to before the first burst: potentials, countdowns, counts as loaded (of neurons added later: as added),
        burst number 0, empty queues and ledger, nothing staged. Edits, weights as learnt, settings, plasticity rules and
        power neurons stay.

        network=True: the whole network too goes back to the connectome that the NPU was made from, on a new backend
        of the same kind; the list of power neurons is empty again. NetworkError for an NPU that was not made from one.
        """
        backend = self._ready()
        if not network:
            state = {name: self._initial.get(name, np.full(self._neuron_capacity, 0, NEURON_FIELDS[name].dtype)) for name in STATE_FIELDS}
            backend.reset(state)
            return
        if self._loaded is None:
            raise NetworkError(
                "this NPU was built by edits or goes on from a snapshot, so it has no connectome to go back to",
                python="NPU.from_connectome(npu.to_connectome()) makes one that has",
            )
        self._close()
        self._load(self._loaded, *self._loaded_capacities)

    def _remember(self, name: str, neurons: NDArray[Any], values: NDArray[Any]) -> None:
        """Note initial state; arrays are made only where it is not the default."""
        field = NEURON_FIELDS[name]
        if name not in self._initial:
            if not np.any(values != field.default):
                return
            self._initial[name] = np.full(self._neuron_capacity, field.default, field.dtype)
        self._initial[name][neurons] = values

    @guarded
    @annotated("edit")
    def reserve(self, neurons: int | None = None, synapses: int | None = None) -> None:
        """Grow to at least these capacities. Never shrinks. It copies what is there, so a capacity grows by a sixteenth at least
        where memory allows: many small steps then cost no more than a few large ones."""
        wanted = _count(neurons or 0, "neurons", most=MAX_NEURONS), _count(synapses or 0, "synapses")
        exact = max(self._neuron_capacity, wanted[0]), max(self._synapse_capacity, wanted[1])
        roomy = min(_grown(self._neuron_capacity, wanted[0]), MAX_NEURONS), _grown(self._synapse_capacity, wanted[1])
        backend = self._ready()
        try:
            neuron_capacity, synapse_capacity = roomy
            backend.reserve(neuron_capacity=neuron_capacity, synapse_capacity=synapse_capacity)
        except DeviceMemoryError:
            if roomy == exact:
                raise
            neuron_capacity, synapse_capacity = exact
            backend.reserve(neuron_capacity=neuron_capacity, synapse_capacity=synapse_capacity)
        for name, values in self._initial.items():
            grown = np.full(neuron_capacity, NEURON_FIELDS[name].default, values.dtype)
            grown[: len(values)] = values
            self._initial[name] = grown
        self._neuron_capacity, self._synapse_capacity = neuron_capacity, synapse_capacity
        self._created = self._all_power = None

    # -- bursts --------------------------------------------------------------------------------------------------
    @guarded
    def process_burst(self, power_neurons: ArrayLike | None = None) -> BurstResult:
        """Compute the next burst. power_neurons: the power neurons of this burst alone, in place of the set ones."""
        power = self._power() if power_neurons is None else sorted_unique(check_ids(power_neurons, self._neuron_capacity, "power_neurons"))
        out = self._burst(power)
        return _result(self.burst_count, out)

    def _burst(self, power: U32) -> BurstOutput:
        """The next burst, with these power neurons."""
        backend = self._ready()
        self._tell_power(power)
        number = backend.burst_count + 1
        return backend.burst(number) if self._ranges is None else self._annotated_burst(backend, self._ranges, number)

    def _tell_power(self, power: U32) -> None:
        """Make these the backend's power neurons."""
        if power is not self._set_power and (self._set_power is None or not np.array_equal(power, self._set_power)):
            with self._range("edit set_power_neurons"):
                self._set_power = None
                self._open().set_power(power)
        self._set_power = power

    @staticmethod
    def _annotated_burst(backend: Backend, ranges: Ranges, number: int) -> BurstOutput:
        with ranges.range("burst", number):
            out = backend.burst(number)
            ranges.mark("fired", len(out.fired))
        return out

    @guarded
    def run(
        self,
        n: int,
        callback: Callable[[BurstResult], object] | None = None,
        *,
        watch: Callable[[BurstResult], object] | None = None,
    ) -> RunResult:
        """n bursts in turn.

        callback: sees the result of each burst before the next begins, and may inject, edit and query. Without one the
        device computes many bursts on its own: much faster, the same results; what is to be injected meanwhile is told
        before, with `schedule`.
        watch: sees each result in turn too, but the device may be ahead of it: it cannot touch the NPU. However slow it
        is, memory stays bounded and nothing is lost; where it raises, some bursts are computed that it has not seen.
        """
        n = _count(n, "n")
        first, digest, synaptic = self.burst_count + 1, Digest(), 0
        fired_counts, clock = np.zeros(n, np.int64), np.zeros(n, np.int64)
        if callback is not None:
            for i in range(n):
                out = self._burst(self._power())
                result = _result(self.burst_count, out)
                fired_counts[i], clock[i] = result.neuron_count, out.clock
                synaptic += result.synaptic_injections
                digest.update(result.burst, result.fired_neurons)
                if watch is not None:
                    self._guard.hand_out(watch, result)
                self._guard.hand_out(callback, result)
            return RunResult(first, fired_counts, synaptic, digest.hexdigest(), clock)
        for chunk in self._chunks(n):
            here = slice(chunk.first - first, chunk.first - first + len(chunk))
            fired_counts[here], clock[here] = np.diff(chunk.begin), chunk.clock
            synaptic += int(chunk.counters[:, 2].sum())
            digest.update_many(chunk.first, chunk.begin, chunk.fired)
            if watch is not None:
                for burst, out in chunk.outputs():
                    watch(_result(burst, out))
        return RunResult(first, fired_counts, synaptic, digest.hexdigest(), clock)

    def _chunks(self, n: int) -> Iterator[Chunk]:
        """n bursts computed without the host; until the iterator is closed the NPU belongs to it."""
        backend = self._ready()
        self._tell_power(self._power())
        with closing(backend.run(backend.burst_count + 1, n)) as chunks:
            yield from chunks

    @guarded
    def schedule(self, bursts: Any, neurons: ArrayLike, potentials: Any) -> None:
        """Stage external potential for bursts to come, so that `run` need not ask: potentials[i], or one for all, into
        neurons[i] in burst bursts[i], or in one burst for all. In its burst it adds after what `inject` has staged, in the
        order scheduled. `reset` forgets it."""
        ids = check_ids(neurons, self._neuron_capacity)
        self._ready().schedule(self._coming(bursts, len(ids)), ids, check_potentials(potentials, len(ids)))

    @guarded
    def schedule_force(self, bursts: Any, neurons: ArrayLike) -> None:
        """Stage neurons to be forced (see `force_fire`) in bursts to come: neurons[i] in burst bursts[i], or all in one."""
        ids = check_ids(neurons, self._neuron_capacity)
        self._ready().schedule(self._coming(bursts, len(ids)), ids, None)

    def _coming(self, bursts: Any, count: int) -> NDArray[np.uint64]:
        """Burst numbers, one for each of `count` items; all still to come."""
        given = as_array(bursts, "bursts")
        if given.dtype.kind not in "iu" or given.shape not in ((), (count,)):
            each = f"one burst number for all, or one for each of {count:,} neurons"
            raise NetworkError(f"bursts: an array of {given.dtype} of shape {given.shape}, where {each} is needed")
        if given.size and not self.burst_count < int(given.min()) <= int(given.max()) < 2**62:
            at = int(given.min()) if int(given.min()) <= self.burst_count else int(given.max())
            raise NetworkError(
                f"bursts: burst {at} cannot be scheduled: it must come after the last burst, {self.burst_count}, and before 2^62"
            )
        return np.ascontiguousarray(np.broadcast_to(given, (count,)).astype(np.uint64))

    @guarded
    def inject(self, neurons: Any, potentials: Any) -> None:
        """Stage external potential for the next burst: ids (repeated ones add in order) and one potential, or one for each.

        Two arrays on the backend's device (uint32 ascending, float32, contiguous) are taken there, without a way
        through the host. Deleted and missing neurons are passed over in the burst.
        """
        backend = self._ready()
        if _on_device(neurons) or _on_device(potentials):
            with self._range("injection"):
                backend.inject_device(neurons, potentials)
            return
        ids = check_ids(neurons, self._neuron_capacity)
        backend.inject(ids, check_potentials(potentials, len(ids)))

    @guarded
    def force_fire(self, neurons: ArrayLike) -> None:
        """Stage neurons to fire in the next burst whatever their potential (firing potential 100)."""
        self._ready().force(check_ids(neurons, self._neuron_capacity))

    @guarded
    def set_power_neurons(self, neurons: ArrayLike) -> None:
        """The power neurons from the next burst on, beside those of power areas; replaces the list set before."""
        self._open()
        self._listed_power = sorted_unique(check_ids(neurons, self._neuron_capacity, "power neurons"))
        self._all_power = None

    def _power(self) -> U32:
        """The set of power neurons: the list, and the neurons of areas with `power`."""
        if self._all_power is None:
            power = self._listed_power
            areas = [area for area, flags in self._areas.items() if flags.power]
            if areas:
                backend = self._ready()
                members = np.isin(backend.read("cortical_area"), np.array(areas, np.uint32)) & backend.read("valid")
                power = sorted_union(power, np.flatnonzero(members).astype(np.uint32))
            self._all_power, self._deleted = power, []
        if self._deleted:  # power areas drive their neurons only while those exist
            gone = without(sorted_union(*self._deleted), self._listed_power)
            self._all_power, self._deleted = without(self._all_power, gone), []
        return self._all_power

    @guarded
    def fired_on_device(self) -> Any:
        """Fired ids of the last burst where they are: a DLPack-capable uint32 array, valid until the next burst of any thread."""
        return self._ready().fired_on_device()

    @guarded
    def time_phases(self, on: bool) -> None:
        """Time each phase of a burst apart from now on (slower; same results), or stop and forget."""
        self._ready().time_phases(on)

    @property
    @guarded
    def phase_seconds(self) -> dict[str, float] | None:
        """Seconds by phase since `time_phases(True)`; None when that is off."""
        return self._ready().phase_seconds

    @guarded
    def annotate(self, on: bool) -> None:
        """Show to a profiler, from now on, what is done: builds, loads, bursts phase by phase, edits and transfers, as NVTX
        ranges (`gpu_npu.annotate`; slower; same results); or stop. BackendUnavailableError without the package nvtx."""
        backend = self._ready()
        self._ranges = (self._ranges or Ranges()) if on else None
        backend.annotate(self._ranges)

    # -- the network as a whole ----------------------------------------------------------------------------------
    @property
    def settings(self) -> Settings:
        """Rules, contribution_scale, power_amount, random_seed."""
        return self._settings

    @guarded
    def set_settings(self, settings: Settings) -> None:
        """New rules and scales; `dataclasses.replace(npu.settings, ...)` changes some of them."""
        if not isinstance(settings, Settings):
            raise NetworkError(f"settings: {settings!r} is not a Settings")
        self._set_settings(settings)

    @annotated("edit")
    def _set_settings(self, settings: Settings) -> None:
        self._ready().set_settings(settings)
        self._settings = settings

    @guarded
    def set_power_amount(self, amount: float) -> None:
        """Potential that every power neuron receives in a burst."""
        self._set_settings(replace(self._settings, power_amount=amount))

    @property
    def power_amount(self) -> float:
        """Potential that every power neuron receives in a burst."""
        return self._settings.power_amount

    @property
    @guarded
    def areas(self) -> Mapping[int, Area]:
        """Area id -> flags as they now are, read-only: areas whose flags were set, then others that have neurons, ascending,
        with those of `Area()`."""
        return MappingProxyType(self._used_areas())

    def _used_areas(self) -> Mapping[int, Area]:
        if self._all_areas is None:
            backend = self._ready()
            used = sorted_unique(backend.read("cortical_area")[backend.read("valid")]).tolist()
            self._all_areas = {**self._areas, **{area: Area() for area in used if area not in self._areas}}
        return self._all_areas

    def _forget_areas(self) -> None:
        """Areas got or lost neurons or flags: look up again which are in use and which drive."""
        self._all_areas = self._all_power = None

    @guarded
    @annotated("edit")
    def set_area(
        self,
        area: int,
        psp_uniform: bool | None = None,
        mp_driven_psp: bool | None = None,
        power: bool | None = None,
        name: str | None = None,
    ) -> None:
        """Change some flags of an area; those left out stay. SumOverflowError where sums may then not fit."""
        area = check_area_id(area)
        before = self._areas.get(area, Area())
        given = {"psp_uniform": psp_uniform, "mp_driven_psp": mp_driven_psp, "power": power, "name": name}
        after = replace(before, **{flag: value for flag, value in given.items() if value is not None})  # type: ignore[arg-type]
        backend, bound = self._ready(), self._bound
        if (after.psp_uniform, after.mp_driven_psp) != (before.psp_uniform, before.mp_driven_psp):
            divides = fixed_point_bits({**self._areas, area: after})
            bound = self._proven(lambda network: network.set_area(area, after)) if divides else SumBound()
        backend.set_area(area, after)
        self._bound = bound
        self._areas[area] = after
        self._forget_areas()

    def _proven(self, edit: Callable[[Connectome], object]) -> SumBound:
        """See on a host copy of the network that the sums still fit after this edit, SumOverflowError if they may not; the bound
        on them, to be kept once the edit is made."""
        network, bound = self._to_connectome(), SumBound()
        edit(network)
        bound.prove(network, self._plasticity.values())
        return bound

    def _admit(self, growth: int, edit: Callable[[Connectome], object]) -> SumBound:
        """The same, with the copy made only where the running bound is not proof enough."""
        return self._bound if self._bound.admits(growth) else self._proven(edit)

    # -- plasticity ----------------------------------------------------------------------------------------------
    @guarded
    @annotated("edit")
    def register_plasticity(self, rule: PlasticityRule) -> int:
        """Let a rule act from the next burst on, after those registered before; returns its handle.

        Bursts up to now are silent for it. What it computes: docs/plasticity.md.
        NetworkError: no rule, bounds beyond this network's weights, or, on another backend than the reference, a CustomRule
        or more than 255 rules of one mapping. SumOverflowError: the weights that it can bring about may sum to more than
        fits. Nothing has changed then.
        """
        if not isinstance(rule, PlasticityRule):
            raise NetworkError(f"plasticity: {rule!r} is not a rule; make a WindowRule, a PairRule or a CustomRule")
        rule.check(self._weight_max)
        backend, handle = self._ready(), self._next_rule
        bound = self._bound
        if fixed_point_bits(self._areas) and rule.reach(self._weight_max):
            bound = SumBound()
            bound.prove(self._to_connectome(), [*self._plasticity.values(), rule])
        backend.add_rule(handle, rule, self.burst_count)
        self._bound = bound
        self._plasticity[handle] = rule
        self._next_rule += 1
        return handle

    @guarded
    @annotated("edit")
    def unregister_plasticity(self, handle: int) -> PlasticityRule:
        """The rule with this handle acts no more; returns it. What it has learnt stays, what it remembers is forgotten."""
        if not isinstance(handle, int) or handle not in self._plasticity:
            there = ", ".join(map(str, self._plasticity)) or "none"
            raise NetworkError(f"plasticity: no rule has the handle {handle!r}; there are: {there}")
        self._ready().remove_rule(handle)
        return self._plasticity.pop(handle)

    @property
    def plasticity(self) -> Mapping[int, PlasticityRule]:
        """Handle -> rule as they now are, in the order in which they act, read-only; a rule has a `name` and `parameters`."""
        return MappingProxyType(self._plasticity.copy())

    @guarded
    @annotated("transfer")
    def synapse_residues(self) -> NDArray[np.int16]:
        """What pair rules keep beside each weight, in units of 2**-16: one for each synapse of `synapse_array`, in its order."""
        return self._ready().residues()

    @guarded
    @annotated("edit")
    def rebuild_indexes(self) -> None:
        """Give back what edits have wasted. Never needed for a result: every edit holds from the next burst on."""
        self._ready().compact()

    # -- neurons -------------------------------------------------------------------------------------------------
    @guarded
    @annotated("edit")
    def add_neurons(self, count: int, **fields: ArrayLike) -> U32:
        """Create the next `count` reserved ids; returns them, ascending.

        Each field of NEURON_FIELDS is one value for all or an array of shape (count,), coordinates (count, 3); those
        left out get their defaults. CapacityError when too few reserved ids are left.
        """
        count = _count(count, "count")
        free = lowest_free(self._ever_created(), self._next, count)
        if count > len(free):
            raise CapacityError(
                f"{count:,} neurons do not fit: {len(free):,} of {self._neuron_capacity:,} reserved ids are free",
                python=f"reserve(neurons={self._neuron_capacity + count - len(free)}) makes room",
            )
        ids: U32 = free.astype(np.uint32)
        columns = _columns(count, fields)
        # A reserved id may be a source already, so the area it comes to bears on the sums.
        bound = self._admit(0, lambda network: network.create_neurons(ids, **columns))
        self._create(ids, columns)
        self._next = int(ids[-1]) + 1 if count else self._next
        self._bound = bound
        return ids

    def add_neuron(self, **fields: ArrayLike) -> int:
        """Create the next reserved id; returns it."""
        return int(self.add_neurons(1, **fields)[0])

    def _ever_created(self) -> Flags:
        if self._created is None:
            self._created = self._ready().read("created")
        return self._created

    def _create(self, neurons: U32, columns: Mapping[str, NDArray[Any]]) -> None:
        """Create reserved ids that do not exist yet; every field was checked and is given."""
        created = self._ever_created()
        self._ready().add_neurons(neurons, columns)
        created[neurons] = True
        for name in STATE_FIELDS:
            self._remember(name, neurons, columns[name])
        self._neuron_count += len(neurons)
        self._forget_areas()

    @guarded
    @annotated("edit")
    def delete_neurons(self, neurons: ArrayLike) -> Flags:
        """Delete neurons, each given once; says for each whether it was there. Their ids are never used again."""
        ids = check_ids(neurons, self._neuron_capacity)
        check_unique(ids)
        there = self._ready().delete_neurons(ids)
        self._neuron_count -= int(np.count_nonzero(there))
        self._all_areas = None
        if self._all_power is not None and self._all_power is not self._listed_power:
            self._deleted.append(ids)
        return there

    def delete_neuron(self, neuron: int) -> bool:
        """Delete a neuron; says whether it was there."""
        return bool(self.delete_neurons([neuron])[0])

    @guarded
    @annotated("edit")
    def set_parameter(self, name: str, neurons: ArrayLike, values: ArrayLike) -> None:
        """Set a field of NEURON_FIELDS: ids, each given once, and one value or one for each.

        NetworkError for an id that was never created (a deleted one keeps what is written, to no effect).
        """
        ids = check_ids(neurons, self._neuron_capacity)
        check_unique(ids)
        column = check_field(name, values, len(ids))
        missing = np.flatnonzero(~self._ever_created()[ids])
        if missing.size:
            raise NetworkError(
                f"neurons[{missing[0]}]: the id {int(ids[missing[0]])} is reserved, but its neuron was never created",
                python="add_neuron() or set_neuron_mapping() creates it",
            )
        bound = self._bound
        if name == "cortical_area":
            bound = self._admit(0, lambda network: _put(network.neurons.cortical_area, ids, column))
            self._forget_areas()
        self._ready().write(name, ids, column)
        self._bound = bound

    @guarded
    @annotated("edit")
    def set_area_parameter(self, name: str, area: int, value: ArrayLike) -> int:
        """Set a field of every neuron of an area to one value (or triple of coordinates); returns how many neurons."""
        area = check_area_id(area)
        column = check_field(name, value, 1)
        bound = self._bound
        if name == "cortical_area":
            bound = self._admit(0, lambda network: network.write_area(name, area, column[0]))
            self._forget_areas()
        written = self._ready().write_area(name, area, column)
        self._bound = bound
        return written

    @guarded
    @annotated("edit")
    def set_neuron_mapping(self, mapping: Mapping[int, int] | ArrayLike, areas: ArrayLike | None = None) -> None:
        """Put neurons into areas: a mapping neuron -> area, or ids and areas as arrays. Missing ones are created with
        default parameters."""
        if isinstance(mapping, Mapping):
            if areas is not None:
                raise NetworkError("areas are given twice: in the mapping and as an array; leave one out")
            neurons: ArrayLike = list(mapping)
            areas = list(mapping.values())
        elif areas is None:
            raise NetworkError("areas: none given; pass {neuron: area}, or ids and areas")
        else:
            neurons = mapping
        ids = check_ids(neurons, self._neuron_capacity)
        check_unique(ids)
        column = check_field("cortical_area", areas, len(ids))
        order = np.argsort(ids)
        ids, column = ids[order], column[order]
        missing = ~self._ever_created()[ids]
        new, there = ids[missing], ids[~missing]
        bound = self._admit(0, lambda network: _put(network.neurons.cortical_area, ids, column))
        backend, columns = self._ready(), _columns(len(new), {"cortical_area": column[missing]})
        before = backend.read("cortical_area")[there] if len(new) and len(there) else None
        backend.write("cortical_area", there, column[~missing])
        self._forget_areas()
        try:
            self._create(new, columns)
        except BaseException:
            if before is not None:
                backend.write("cortical_area", there, before)
            raise
        self._bound = bound

    # -- synapses ------------------------------------------------------------------------------------------------
    @guarded
    def add_synapse(self, source: int, target: int, weight: int, conductance: int, syn_type: int = 0) -> bool:
        """Add one synapse (syn_type 0 excitatory, 1 inhibitory); True. About a microsecond: it is checked now and handed
        to the backend with its fellows before anything else happens. `add_synapses` takes arrays."""
        given = (source, target, weight, conductance, syn_type)
        try:
            s, t, w, p, kind = map(operator.index, given)
        except TypeError:
            s = -1
        pending, bound = self._pending, self._bound
        if not pending:
            self._room = self._synapse_capacity - self._open().synapse_count
        if not (
            0 <= s < self._neuron_capacity
            and 0 <= t < self._neuron_capacity
            and 0 <= w <= self._weight_max
            and 0 <= p <= self._psp_max
            and 0 <= kind <= 1
            and bool not in map(type, given[:4])
            and len(pending) < self._room
            and bound.admits(bound.growth_of_one(w, p))
        ):  # by the long way, which makes the errors
            self._add_synapses([source], [target], [weight], [conductance], [syn_type])
            return True
        pending.append(s, t, w, p, kind)
        if len(pending) >= pending.MOST:
            self._ready()
        return True

    @guarded
    def add_synapses(self, source: ArrayLike, target: ArrayLike, weight: ArrayLike, psp: ArrayLike, inhibitory: ArrayLike = False) -> None:
        """Add synapses between reserved ids, in the order given, which is their age: arrays of one length, or one value for all.

        CapacityError beyond the reserved capacity; SumOverflowError where a sum may not fit.
        """
        self._add_synapses(source, target, weight, psp, inhibitory)

    @annotated("edit")
    def _add_synapses(self, source: ArrayLike, target: ArrayLike, weight: ArrayLike, psp: ArrayLike, inhibitory: ArrayLike) -> None:
        given = {"source": source, "target": target, "weight": weight, "psp": psp, "inhibitory": inhibitory}
        batch = check_synapses(given, self._neuron_capacity, synapse_dtypes(self._weight_dtype, self._psp_dtype))
        free = self._synapse_capacity - self._synapse_count()
        if len(batch) > free:
            raise CapacityError(
                f"{len(batch):,} synapses do not fit: {free:,} of the {self._synapse_capacity:,} reserved are free",
                python=f"reserve(synapses={self._synapse_capacity + len(batch) - free}) makes room",
            )
        growth = self._bound.growth(batch.target, batch.weight, batch.psp)
        bound = self._admit(growth, lambda network: network.add_synapses(*batch.columns()))
        self._ready().add_synapses(batch)
        self._bound = bound

    @guarded
    @annotated("edit")
    def remove_synapses(self, source: ArrayLike, target: ArrayLike) -> Flags:
        """Remove, pair by pair in order, the oldest synapse of each; says for each whether there was one."""
        sources, targets = check_pairs(source, target, self._neuron_capacity)
        # Where psp is shared, k falls and shares rise.
        bound = self._admit(0, lambda network: network.remove_synapses(sources, targets))
        there = self._ready().remove_synapses(sources, targets)
        self._bound = bound
        return there

    def remove_synapse(self, source: int, target: int) -> bool:
        """Remove the oldest synapse of this pair; says whether there was one."""
        return bool(self.remove_synapses([source], [target])[0])

    @guarded
    @annotated("edit")
    def update_weights(self, source: ArrayLike, target: ArrayLike, weight: ArrayLike) -> Flags:
        """Set, pair by pair in order, the weight of the oldest synapse of each; says for each whether there was one."""
        sources, targets = check_pairs(source, target, self._neuron_capacity)
        weights = check_weights(weight, self._weight_dtype, len(sources))
        psps = np.full(len(sources), self._psp_max, self._psp_dtype)  # theirs are not known here
        growth = self._bound.growth(targets, weights, psps)
        bound = self._admit(growth, lambda network: network.reweight_synapses(sources, targets, weights))
        there = self._ready().reweight_synapses(sources, targets, weights)
        self._bound = bound
        return there

    def update_weight(self, source: int, target: int, weight: int) -> bool:
        """Set the weight of the oldest synapse of this pair; says whether there was one."""
        return bool(self.update_weights([source], [target], [weight])[0])

    update_synapse_weight = update_weight


def _result(burst: int, out: BurstOutput) -> BurstResult:
    return BurstResult(
        burst=burst,
        fired_neurons=out.fired,
        neuron_count=len(out.fired),
        **dict(zip(COUNTERS, out.counters, strict=True)),
    )


_NO_IDS: U32 = np.zeros(0, np.uint32)
_NO_IDS.flags.writeable = False
_DLPACK_CPU = 1


def _put(array: NDArray[Any], at: U32, values: NDArray[Any]) -> None:
    array[at] = values


def _columns(count: int, fields: Mapping[str, ArrayLike]) -> dict[str, NDArray[Any]]:
    """Every field of `count` new neurons: as given, checked, or the default."""
    given = {name: check_field(name, values, count) for name, values in fields.items()}
    return {
        name: given[name] if name in given else np.full(count if field.width == 1 else (count, field.width), field.default, field.dtype)
        for name, field in NEURON_FIELDS.items()
    }


def _count(value: object, what: str, least: int = 0, most: int = 2**62) -> int:
    count = check_integer(value, what, least)
    if count > most:
        raise CapacityError(f"{what}: {count:,} is more than {most:,}")
    return count


def _grown(given: int, wanted: int) -> int:
    """A capacity of at least `wanted`, and of `given` or a sixteenth more."""
    return max(wanted, given + given // 16) if wanted > given else given


def _at_least(value: int | None, needed: int, what: str, default: int | None = None) -> int:
    if value is None:
        return needed if default is None else default
    if _count(value, what) < needed:
        raise CapacityError(f"{what}: {value:,} is less than the {needed:,} that the connectome has")
    return int(value)


def _fitting(source: SynapseSource, connectome: Connectome) -> SynapseSource:
    """The source, seen to fit this connectome."""
    for name in ("weight_dtype", "psp_dtype"):
        ours, theirs = np.dtype(getattr(connectome, name)), np.dtype(getattr(source, name))
        if ours != theirs:
            raise NetworkError(
                f"synapses: their {name} is {theirs}, the connectome's {ours}", python=f'make the connectome with {name}="{theirs}"'
            )
    return source.within(connectome.neuron_capacity)


def _on_device(values: object) -> bool:
    """Whether the backend should take this array where it is: it lies on a device, or offers its memory by DLPack alone."""
    if isinstance(values, np.ndarray):
        return False
    if hasattr(values, "__cuda_array_interface__"):
        return True
    device = getattr(values, "__dlpack_device__", None)
    return device is not None and (device()[0] != _DLPACK_CPU or not hasattr(values, "__array__"))
