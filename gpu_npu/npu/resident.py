"""The network of an NPU where it runs, and all that is known of it here. Bursts, edits and queries share one Resident."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gpu_npu.annotate import Ranges
from gpu_npu.arrays import U32, Flags, sorted_union, sorted_unique, without
from gpu_npu.backends.base import Backend
from gpu_npu.backends.select import BackendChoice, open_platform
from gpu_npu.backends.shape import NetworkShape
from gpu_npu.checks import check_flag, check_ids
from gpu_npu.connectome import NEURON_FIELDS, STATE_FIELDS, Area, Connectome, Settings, SynapseBatch, SynapseSource
from gpu_npu.connectome.degeneration import fallen_batch, falls
from gpu_npu.connectome.fields import MAX_NEURONS, largest_count
from gpu_npu.connectome.plasticity import RULES, FeagiRule, PlasticityRule
from gpu_npu.connectome.sums import Arithmetic
from gpu_npu.errors import DeviceMemoryError, NetworkError
from gpu_npu.objects import described

from .admission import PendingSynapses, SumBound
from .calls import Guard, annotated

NO_IDS: U32 = np.zeros(0, np.uint32)
NO_IDS.flags.writeable = False


class InitialState:
    """What `reset` goes back to: arrays of all ids, of the fields that are not at their default everywhere."""

    def __init__(self, capacity: int, values: Mapping[str, NDArray[Any]] | None = None) -> None:
        self.capacity = capacity
        self.values = {} if values is None else {name: array.copy() for name, array in values.items()}

    def __repr__(self) -> str:
        return described(self, ", ".join(self.values) or "the defaults")

    def remember(self, columns: Mapping[str, NDArray[Any]], neurons: U32 | slice = slice(None)) -> None:
        """State of neurons as they begin, each field of STATE_FIELDS."""
        for name in STATE_FIELDS:
            field = NEURON_FIELDS[name]
            if name not in self.values and np.any(columns[name] != field.default):
                self.values[name] = np.full(self.capacity, field.default, field.dtype)
            if name in self.values:
                self.values[name][neurons] = columns[name]

    def grow(self, capacity: int) -> None:
        """More ids, at their defaults."""
        for name, values in self.values.items():
            more = np.full(capacity - self.capacity, NEURON_FIELDS[name].default, values.dtype)
            self.values[name] = np.concatenate((values, more))
        self.capacity = capacity

    def columns(self) -> dict[str, NDArray[Any]]:
        """Every field of STATE_FIELDS, of all ids."""
        return {name: self.values.get(name, np.zeros(self.capacity, NEURON_FIELDS[name].dtype)) for name in STATE_FIELDS}


class Resident:
    """A network on a backend, beside what the backend does not know. `load` makes it; it is closed or has a backend.

    What is checked against (shape, bound, free ids) is kept here as it will be when everything pending has arrived.
    """

    def __init__(self, choice: BackendChoice, device: int | None, annotate: bool) -> None:
        self._choice, self._device = choice, device
        self.ranges = Ranges() if check_flag(annotate, "annotate") else None
        """Of a profiler, where that was asked for."""
        self.guard = Guard()
        self.backend: Backend | None = None
        """None: closed."""
        self.origin: tuple[Connectome, NetworkShape, SynapseSource | None] | None = None
        """What `load` was given, where it can be loaded again."""
        self._closed_at = 0

    def load(
        self,
        connectome: Connectome,
        shape: NetworkShape,
        extra_synapses: SynapseSource | None = None,
        silent_until: Mapping[int, int] | None = None,
    ) -> None:
        """Open a platform and put the network there, as new. silent_until: handle of each of its rules -> the last burst that is
        silent for it."""
        silent_until = dict.fromkeys(range(len(connectome.plasticity)), 0) if silent_until is None else silent_until
        bound = SumBound()
        bound.prove(connectome, connectome.plasticity, extra_synapses)
        with self.range("build"):
            platform, reason = open_platform(self._choice, self._device, shape, connectome.plasticity)
        connectome.freeze()
        with self.range("load"):
            backend = platform.load(connectome, shape, extra_synapses)
            try:
                for (handle, silent), rule in zip(silent_until.items(), connectome.plasticity, strict=True):
                    backend.add_rule(handle, rule, silent)
            except BaseException:
                backend.close()
                raise
        backend.annotate(self.ranges)
        self.backend, self.reason, self.bound = backend, reason, bound
        self.shape = shape
        self.weight_max, self.psp_max = largest_count(shape.weight_dtype), largest_count(shape.psp_dtype)
        self.settings, self.flags, self.annotations = connectome.settings, dict(connectome.areas), connectome.annotations
        self.rules = dict(zip(silent_until, connectome.plasticity, strict=True))
        self.next_rule = len(self.rules)
        self.neuron_count = connectome.neuron_count
        self.pending = PendingSynapses(shape.weight_dtype, shape.psp_dtype, shape.delay_dtype)
        self.room = 0
        """Synapses that fit, as of the first one pending."""
        self.delays = _delays(backend, shape)
        self._created: Flags | None = None
        """Which ids were ever created; None: not looked up yet."""
        self.first_free = 0
        """No id below this one is free."""
        self.initial = InitialState(shape.neuron_capacity)
        self.initial.remember({name: connectome.neurons[name] for name in STATE_FIELDS}, slice(connectome.neuron_capacity))
        self.listed_power = NO_IDS
        self._power: U32 | None = None
        """The list and the power areas' neurons together; None: not looked up since they changed."""
        self._deleted: list[U32] = []
        """Neurons that were deleted since `_power` was looked up."""
        self._areas: dict[int, Area] | None = None
        """The areas with flags and those with neurons; None: not looked up since they changed."""
        self._set_power: U32 | None = NO_IDS
        """What the backend was told; None: a signal or a want of memory broke in."""

    def __repr__(self) -> str:
        return described(self, self.summary())

    def summary(self) -> str:
        """A line about it. It is no call, so it never waits for another thread."""
        backend = self.backend  # once
        if backend is None:
            return f"closed after burst {self._closed_at:,}"
        neurons = f"{self.neuron_count:,} neurons (capacity {self.shape.neuron_capacity:,})"
        return f"{neurons} after burst {backend.burst_count:,} on {backend.name}"

    def close(self) -> None:
        """Give the backend's memory back."""
        if self.backend is not None:
            self._closed_at = self.backend.burst_count
            self.backend.close()
            self.backend = None
            self.pending.clear()

    def open(self) -> Backend:
        """The backend, as it is. NetworkError where it is closed."""
        if self.backend is None:
            raise NetworkError("this NPU is closed", python="make a new one")
        return self.backend

    def ready(self) -> Backend:
        """The backend, after every synapse that was added has arrived there."""
        backend = self.open()
        if self.pending:
            with self.range("edit add_synapse"):
                backend.add_synapses(self.pending.batch())
            self.pending.clear()
        return backend

    def reserve(self, neurons: int, synapses: int) -> None:
        """Grow to at least these capacities; by a sixteenth at least where memory allows."""
        now, backend = self.shape, self.ready()
        exact = max(now.neuron_capacity, neurons), max(now.synapse_capacity, synapses)
        roomy = min(_grown(now.neuron_capacity, neurons), MAX_NEURONS), _grown(now.synapse_capacity, synapses)
        try:
            capacities = roomy
            backend.reserve(neuron_capacity=capacities[0], synapse_capacity=capacities[1])
        except DeviceMemoryError:
            if roomy == exact:
                raise
            capacities = exact
            backend.reserve(neuron_capacity=capacities[0], synapse_capacity=capacities[1])
        self.initial.grow(capacities[0])
        self.shape = replace(now, neuron_capacity=capacities[0], synapse_capacity=capacities[1])
        self._created = self._power = None

    def admit_delays(self, *delays: int) -> None:
        """Let synapses have these delays: spikes are kept for as long. NetworkError where this backend has none such, or where it is
        too late; then nothing changed."""
        backend, kept = self.open(), self.shape.longest_delay
        for delay in delays:
            if delay not in backend.delays:
                there = f"the backend {backend.name} has only {backend.delays[0]} in this network"
                raise NetworkError(f"delay: {delay}, where {there}; the backend reference has any", python='take backend="reference"')
        longest = max(delays, default=1)
        if longest <= kept:
            return
        if backend.burst_count > kept:
            raise NetworkError(
                f"delay: {longest}, where spikes are kept for {kept} bursts, and older ones are lost after burst {backend.burst_count}",
                python=f"reserve(delay={longest}) before the first burst keeps them",
            )
        backend.reserve(neuron_capacity=self.shape.neuron_capacity, synapse_capacity=self.shape.synapse_capacity, longest_delay=longest)
        self.shape = replace(self.shape, longest_delay=longest)
        self.delays = _delays(backend, self.shape)

    def range(self, name: str) -> AbstractContextManager[None]:
        """A range of the profiler's, the last burst its number, where annotation is on."""
        return nullcontext() if self.ranges is None else self.ranges.range(name, self.burst_count)

    # -- facts ---------------------------------------------------------------------------------------------------
    @property
    def burst_count(self) -> int:
        """Number of the last burst."""
        backend = self.backend  # once: another thread may close
        return self._closed_at if backend is None else backend.burst_count

    def synapse_count(self) -> int:
        """Synapses added and not removed."""
        return self.open().synapse_count + len(self.pending)

    @annotated("transfer")
    def neurons_in_area(self, area: int) -> U32:
        """Ids of the neurons of an area."""
        backend = self.ready()
        return np.flatnonzero((backend.read("cortical_area") == area) & backend.read("valid")).astype(np.uint32)

    def shown(self, batches: Iterable[SynapseBatch]) -> Iterator[SynapseBatch]:
        """Synapses as a backend has them, for the next delivery, with the fall of psps that comes after it."""
        if not any(flags.degeneration for flags in self.flags.values()):
            yield from batches
            return
        backend = self.ready()
        step = falls(backend.fire_queue()[0], backend.read("cortical_area"), self.flags)
        for batch in batches:
            yield fallen_batch(batch, step)

    @annotated("transfer")
    def to_connectome(self, *, as_delivered: bool = False) -> Connectome:
        """The network as it stands, on the host; without rules written in Python. as_delivered: with the psps of the next delivery,
        not with those after it."""
        backend, shape = self.ready(), self.shape
        network = Connectome(
            shape.neuron_capacity,
            shape.synapse_capacity,
            weight_dtype=shape.weight_dtype,
            psp_dtype=shape.psp_dtype,
            delay_dtype=shape.delay_dtype,
            settings=self.settings,
            areas=self.flags,
            plasticity=[rule for rule in self.rules.values() if isinstance(rule, tuple(RULES.values()))],
        )
        created, valid = backend.read("created"), backend.read("valid")
        ids = np.flatnonzero(created)
        network.create_neurons(ids, **{name: backend.read(name)[ids] for name in NEURON_FIELDS})
        network.delete_neurons(np.flatnonzero(created & ~valid))
        batches = backend.synapses_from()
        for batch in batches if as_delivered else self.shown(batches):
            network.synapses.append(batch)
        network.set_annotations(self.annotations)
        return network

    def ids(self, neurons: ArrayLike, what: str = "neurons") -> U32:
        """Ids as they are given, or labels. Errors: those of `check_ids` and `Annotations.find`."""
        return check_ids(neurons, self.shape.neuron_capacity, what, self.annotations.finder)

    # -- ids, areas and power, looked up once --------------------------------------------------------------------
    def created(self) -> Flags:
        """Which ids were ever created: the caller looks, and changes nothing."""
        if self._created is None:
            self._created = self.ready().read("created")
        return self._created

    def create(self, neurons: U32, columns: Mapping[str, NDArray[Any]]) -> None:
        """Create reserved ids that do not exist yet; every field was checked and is given."""
        created = self.created()
        self.ready().add_neurons(neurons, columns)
        created[neurons] = True
        self.initial.remember(columns, neurons)
        self.neuron_count += len(neurons)
        self.forget_areas()

    def delete(self, neurons: U32) -> Flags:
        """Delete neurons, each given once; says for each whether it was there."""
        there = self.ready().delete_neurons(neurons)
        self.neuron_count -= int(np.count_nonzero(there))
        self._areas = None
        if self._power is not None and self._power is not self.listed_power:
            self._deleted.append(neurons)
        return there

    def areas(self) -> Mapping[int, Area]:
        """Areas whose flags were set, then others that have neurons, ascending."""
        if self._areas is None:
            backend = self.ready()
            used = sorted_unique(backend.read("cortical_area")[backend.read("valid")]).tolist()
            self._areas = {**self.flags, **{area: Area() for area in used if area not in self.flags}}
        return self._areas

    def forget_areas(self) -> None:
        """Areas got or lost neurons or flags: look up again which are in use and which drive."""
        self._areas = self._power = None

    def list_power(self, neurons: U32) -> None:
        """The power neurons beside those of power areas, ascending."""
        self.listed_power, self._power = neurons, None

    def power(self) -> U32:
        """The set of power neurons: the list, and the neurons of areas with `power`."""
        if self._power is None:
            power = self.listed_power
            areas = [area for area, flags in self.flags.items() if flags.power]
            if areas:
                backend = self.ready()
                members = np.isin(backend.read("cortical_area"), np.array(areas, np.uint32)) & backend.read("valid")
                power = sorted_union(power, np.flatnonzero(members).astype(np.uint32))
            self._power, self._deleted = power, []
        if self._deleted:  # power areas drive their neurons only while those exist
            gone = without(sorted_union(*self._deleted), self.listed_power)
            self._power, self._deleted = without(self._power, gone), []
        return self._power

    def set_power(self, power: U32) -> None:
        """Make these the backend's power neurons."""
        if power is not self._set_power and (self._set_power is None or not np.array_equal(power, self._set_power)):
            with self.range("edit set_power_neurons"):
                self._set_power = None
                self.open().set_power(power)
        self._set_power = power

    # -- sums that fit -------------------------------------------------------------------------------------------
    def arithmetic_with(self, settings: Settings | None = None, flags: Mapping[int, Area] | None = None) -> Arithmetic:
        """How terms are computed, now or with other settings or with other flags of some areas."""
        rules = (settings or self.settings).rules
        return Arithmetic.of(self.shape.weight_dtype, self.shape.psp_dtype, {**self.flags, **(flags or {})}, rules)

    @contextmanager
    def keeping(self, bound: SumBound) -> Iterator[None]:
        """Around an edit: this is the bound on the sums once it is made."""
        yield
        self.bound = bound

    def admitted(self, edit: Callable[[Connectome], object], growth: int = 0) -> AbstractContextManager[None]:
        """Around an edit that raises no sum by more than `growth`: SumOverflowError before it where the sums may not fit after it.
        The running bound is proof enough, or a host copy of the network on which `edit` is made."""
        return self.keeping(self.bound if self.bound.admits(growth) else self.proven(edit))

    def proven(self, edit: Callable[[Connectome], object], more: Sequence[PlasticityRule] = ()) -> SumBound:
        """See on a host copy of the network that the sums still fit after this edit, and with these rules more; the bound on them."""
        network, bound = self.to_connectome(as_delivered=True), SumBound()
        if any(isinstance(rule, FeagiRule) for rule in self.rules.values()):
            held = self.ready().flight().learning.delivered
            if len(held):  # the next burst delivers these, and later ones what is there now
                network.synapses.weight[:] = np.maximum(network.synapses.weight, held)
        edit(network)
        bound.prove(network, [*self.rules.values(), *more])
        return bound


def _grown(given: int, wanted: int) -> int:
    """A capacity of at least `wanted`, and of `given` or a sixteenth more."""
    return max(wanted, given + given // 16) if wanted > given else given


def _delays(backend: Backend, shape: NetworkShape) -> range:
    """Of synapses that can be added without more ado."""
    return range(backend.delays[0], min(backend.delays[-1], shape.longest_delay) + 1)


class Part:
    """A part of an NPU: calls on the network that all parts share."""

    _resident: Resident
