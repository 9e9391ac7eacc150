"""The network as data, edited on the host and then loaded into an NPU."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gpu_npu.arrays import U32, Flags
from gpu_npu.checks import check_area_id, check_ids, check_integer, check_unique
from gpu_npu.errors import CapacityError, NetworkError, NeuronIndexError

from .fields import MAX_NEURONS, NEURON_FIELDS, CountType, synapse_dtypes
from .neurons import NeuronArray
from .plasticity import PairRule, PlasticityRule, WindowRule, reaches
from .settings import Area, Settings
from .sums import check_sums, largest_product
from .synapses import SynapseArray
from .validation import check_count_dtype, check_field, check_scalar, check_synapses, check_weights, field_named


def _neuron_capacity(value: object) -> int:
    capacity = check_integer(value, "neuron_capacity")
    if capacity > MAX_NEURONS:
        raise CapacityError(f"neuron_capacity: {capacity:,} is more than {MAX_NEURONS:,}, the most that synapses can name")
    return capacity


class Connectome:
    """Neurons, synapses, areas and settings in preallocated host arrays.

    Every mutator checks all of its input before it changes anything. A synapse may name any reserved id, created or
    not. Only `validate` looks at what edits amount to together (the sum check) and at arrays written by hand.
    """

    def __init__(
        self,
        neuron_capacity: int = 0,
        synapse_capacity: int = 0,
        *,
        weight_dtype: Any = np.uint8,
        psp_dtype: Any = np.uint8,
        settings: Settings | None = None,
        areas: Mapping[int, Area] | None = None,
        plasticity: Iterable[PlasticityRule] = (),
    ) -> None:
        self.weight_dtype: CountType = check_count_dtype(weight_dtype, "weight_dtype")
        self.psp_dtype: CountType = check_count_dtype(psp_dtype, "psp_dtype")
        neuron_capacity = _neuron_capacity(neuron_capacity)
        synapse_capacity = check_integer(synapse_capacity, "synapse_capacity")
        self._frozen = False
        self._areas: dict[int, Area] = {}
        self._next = 0
        """No id below this one is free."""
        self.neurons = NeuronArray(neuron_capacity)
        self.synapses = SynapseArray(synapse_capacity, neuron_capacity, self.weight_dtype, self.psp_dtype)
        self.set_settings(Settings() if settings is None else settings)
        for area, flags in (areas or {}).items():
            self.set_area(area, flags)
        self.set_plasticity(plasticity)

    # -- facts ---------------------------------------------------------------------------------------------------
    @property
    def neuron_capacity(self) -> int:
        """Ids reserved."""
        return self.neurons.capacity

    @property
    def synapse_capacity(self) -> int:
        """Synapse slots reserved."""
        return self.synapses.capacity

    @property
    def neuron_count(self) -> int:
        """Neurons that exist: created and not deleted."""
        return int(np.count_nonzero(self.neurons.valid))

    @property
    def synapse_count(self) -> int:
        """Synapses that are not removed."""
        return self.synapses.valid_count

    @property
    def areas(self) -> Mapping[int, Area]:
        """Area id -> flags, read-only; an area that is not in it has the flags of `Area()`."""
        return MappingProxyType(self._areas)

    @property
    def settings(self) -> Settings:
        """Rules and scales of the whole network."""
        return self._settings

    @property
    def plasticity(self) -> tuple[PlasticityRule, ...]:
        """Window rules and pair rules, in the order in which they act."""
        return self._plasticity

    @property
    def frozen(self) -> bool:
        """True: nothing can be changed any more; `copy` gives one that can."""
        return self._frozen

    def __repr__(self) -> str:
        return (
            f"<Connectome: {self.neuron_count:,} neurons (capacity {self.neuron_capacity:,}), "
            f"{self.synapse_count:,} synapses (capacity {self.synapse_capacity:,}), {len(self._areas):,} areas>"
        )

    # -- neurons -------------------------------------------------------------------------------------------------
    def add_neurons(self, count: int, **fields: ArrayLike) -> U32:
        """Create the next `count` ids that were never created; returns them, ascending.

        Each field is one value for all or an array of shape (count,), or (count, 3); those left out get their defaults.
        """
        self._writable()
        count = check_integer(count, "count")
        created = self.neurons.created
        free = np.flatnonzero(~created[self._next : self._next + count])
        if len(free) < count:  # ids were given by hand, or there are too few
            free = np.flatnonzero(~created[self._next :])[:count]
        if len(free) < count:
            raise self._no_neurons(count, len(free))
        ids = (free + self._next).astype(np.uint32)
        self._create(ids, fields)
        self._next = int(ids[-1]) + 1 if count else self._next
        return ids

    def add_neuron(self, **fields: Any) -> int:
        """Create the next id that was never created; a few microseconds."""
        self._writable()
        created = self.neurons.created
        if self._next < len(created) and created[self._next]:
            self._next += int(np.argmin(created[self._next :]))  # ids were given by hand: the next gap, if there is one
        if self._next == len(created) or created[self._next]:
            raise self._no_neurons(1, 0)
        values = {}
        for name, value in fields.items():
            field = field_named(name)
            values[name] = check_scalar(field, value) if field.width == 1 else check_field(name, value, 1)[0]
        neuron = self._next
        for name, field in NEURON_FIELDS.items():
            self.neurons[name][neuron] = values.get(name, field.default)
        self.neurons.valid[neuron] = created[neuron] = True
        self._next = neuron + 1
        return neuron

    def create_neurons(self, ids: ArrayLike, **fields: ArrayLike) -> None:
        """Create these ids, each once; NetworkError when one of them was created before (ids are never reused)."""
        self._writable()
        neurons = check_ids(ids, self.neuron_capacity)
        check_unique(neurons)
        taken = np.flatnonzero(self.neurons.created[neurons])
        if taken.size:
            neuron = int(neurons[taken[0]])
            state = "exists already" if self.neurons.valid[neuron] else "was deleted, and ids are never reused"
            raise NetworkError(f"neurons[{taken[0]}]: {neuron} {state}; leave it out or take another id")
        self._create(neurons, fields)

    def _create(self, ids: U32, fields: Mapping[str, ArrayLike]) -> None:
        columns = {name: check_field(name, values, len(ids)) for name, values in fields.items()}
        for name, field in NEURON_FIELDS.items():
            self.neurons[name][ids] = columns.get(name, field.default)
        self.neurons.valid[ids] = True
        self.neurons.created[ids] = True

    def _no_neurons(self, wanted: int, free: int) -> CapacityError:
        return CapacityError(
            f"{wanted:,} neurons do not fit: {free:,} of {self.neuron_capacity:,} reserved ids are free",
            python=f"reserve(neurons={self.neuron_capacity + wanted - free}) makes room",
        )

    def delete_neurons(self, ids: ArrayLike) -> Flags:
        """Delete neurons; says for each id whether it was there (once, if it is given twice). Their synapses stay."""
        self._writable()
        neurons = check_ids(ids, self.neuron_capacity)
        first = np.zeros(len(neurons), np.bool_)
        first[np.unique(neurons, return_index=True)[1]] = True
        there = self.neurons.valid[neurons] & first
        self.neurons.valid[neurons] = False
        return there

    def write(self, field: str, ids: ArrayLike, values: ArrayLike) -> None:
        """Set a field of existing neurons, each given once; one value serves all.

        NetworkError: an id that was not created or is deleted, or one given twice.
        """
        self._writable()
        neurons = check_ids(ids, self.neuron_capacity)
        check_unique(neurons)
        missing = np.flatnonzero(~self.neurons.valid[neurons])
        if missing.size:
            neuron = int(neurons[missing[0]])
            deleted = self.neurons.created[neuron]
            state, way_out = ("was deleted", "") if deleted else ("was never created", "add_neurons() or create_neurons() creates it")
            raise NetworkError(f"neurons[{missing[0]}]: {neuron} {state}", python=way_out)
        column = check_field(field, values, len(neurons))
        self.neurons[field][neurons] = column

    def write_area(self, field: str, area: int, value: ArrayLike) -> int:
        """Set a field of all neurons of an area to one value (or triple); returns how many neurons."""
        self._writable()
        area = check_area_id(area)
        one = check_field(field, value, 1)
        members = self.neurons.valid & (self.neurons.cortical_area == area)
        self.neurons[field][members] = one
        return int(np.count_nonzero(members))

    # -- synapses ------------------------------------------------------------------------------------------------
    def add_synapses(
        self, source: ArrayLike, target: ArrayLike, weight: ArrayLike, psp: ArrayLike, inhibitory: ArrayLike = False
    ) -> None:
        """Add synapses in the order given, which is their age; scalars serve all. Parallel ones and self-loops are allowed."""
        self._writable()
        given = {"source": source, "target": target, "weight": weight, "psp": psp, "inhibitory": inhibitory}
        batch = check_synapses(given, self.neuron_capacity, self.synapses.dtypes)
        self._room(len(batch))
        self.synapses.append(batch)

    def add_synapse(self, source: int, target: int, weight: int, psp: int, inhibitory: bool = False) -> None:
        """Add one synapse; a microsecond or two."""
        self._writable()
        try:
            s, t, w, p = operator.index(source), operator.index(target), operator.index(weight), operator.index(psp)
        except TypeError:
            return self.add_synapses(source, target, weight, psp, inhibitory)
        capacity = self.neurons.capacity
        plain = 0 <= s < capacity and 0 <= t < capacity and 0 <= w <= self._weight_max and 0 <= p <= self._psp_max
        kinds = (type(source), type(target), type(weight), type(psp))
        if not plain or bool in kinds or type(inhibitory) is not bool:
            return self.add_synapses(source, target, weight, psp, inhibitory)
        self._room(1)
        self.synapses.append_one(s, t, w, p, inhibitory)

    @property
    def _weight_max(self) -> int:
        return 255 if self.weight_dtype is np.uint8 else 65535

    @property
    def _psp_max(self) -> int:
        return 255 if self.psp_dtype is np.uint8 else 65535

    def _room(self, count: int) -> None:
        free = self.synapses.capacity - self.synapses.count
        if count > free:
            raise CapacityError(
                f"{count:,} synapses do not fit: {free:,} of the {self.synapse_capacity:,} reserved are free",
                python=f"reserve(synapses={self.synapse_capacity + count - free}) makes room; compact() frees what removed synapses hold",
            )

    def remove_synapses(self, source: ArrayLike, target: ArrayLike) -> Flags:
        """Remove one synapse for each pair, in the order given: the oldest valid one; says whether there was one.

        A pair given again takes the next oldest. Work: O(synapses + pairs log pairs) for the whole call.
        """
        self._writable()
        sources, targets = self._pairs(source, target)
        slots = self._oldest(sources, targets, consume=True)
        found = slots >= 0
        self.synapses.valid[slots[found]] = False
        return found

    def reweight_synapses(self, source: ArrayLike, target: ArrayLike, weight: ArrayLike) -> Flags:
        """Set the weight of the oldest valid synapse of each pair, in the order given; says whether there was one.

        A pair given again sets the same synapse again: the last weight stays.
        """
        self._writable()
        sources, targets = self._pairs(source, target)
        weights = check_weights(weight, self.weight_dtype, len(sources))
        slots = self._oldest(sources, targets, consume=False)
        found = slots >= 0
        # NumPy promises no order for repeated indices, so only the last of each is written.
        last, place = np.unique(slots[::-1], return_index=True)
        place = len(slots) - 1 - place[last >= 0]
        self.synapses.weight[slots[place]] = weights[place]
        return found

    def find_synapses(self, source: ArrayLike, target: ArrayLike) -> NDArray[np.int64]:
        """The slot of the oldest valid synapse of each pair; -1 where there is none."""
        return self._oldest(*self._pairs(source, target), consume=False)

    def _pairs(self, source: ArrayLike, target: ArrayLike) -> tuple[U32, U32]:
        sources = check_ids(source, self.neuron_capacity, "source")
        targets = check_ids(target, self.neuron_capacity, "target")
        if len(sources) != len(targets):
            raise NetworkError(f"target: {len(targets):,} ids for {len(sources):,} of source; one of each makes a pair")
        return sources, targets

    def _oldest(self, source: U32, target: U32, *, consume: bool) -> NDArray[np.int64]:
        """For each pair the slot of its oldest valid synapse, -1 for none; `consume`: its r-th occurrence gets the r-th oldest."""
        pairs, group = np.unique((source.astype(np.uint64) << np.uint64(32)) | target, return_inverse=True)
        if not len(pairs):
            return np.zeros(0, np.int64)
        synapses = self.synapses
        slots = np.flatnonzero(synapses.valid)
        keys = (synapses.source[slots].astype(np.uint64) << np.uint64(32)) | synapses.target[slots]
        at = np.minimum(np.searchsorted(pairs, keys), len(pairs) - 1)
        match = pairs[at] == keys
        slots, at = slots[match], at[match]
        slots = slots[np.argsort(at, kind="stable")]
        available = np.bincount(at, minlength=len(pairs))
        start = np.cumsum(available) - available
        rank = _occurrence(group, len(pairs)) if consume else np.zeros(len(group), np.int64)
        found = rank < available[group]
        result = np.full(len(group), -1, np.int64)
        result[found] = slots[(start[group] + rank)[found]]
        return result

    # -- the network as a whole ----------------------------------------------------------------------------------
    def set_area(self, area: int, flags: Area) -> None:
        """Name and flags of an area."""
        self._writable()
        if not isinstance(flags, Area):
            raise NetworkError(f"area {area!r}: {flags!r} is not an Area")
        self._areas[check_area_id(area)] = flags

    def set_settings(self, settings: Settings) -> None:
        """Rules and scales of the whole network."""
        self._writable()
        if not isinstance(settings, Settings):
            raise NetworkError(f"settings: {settings!r} is not a Settings")
        self._settings = settings

    def set_plasticity(self, rules: Iterable[PlasticityRule]) -> None:
        """All plasticity rules, in the order in which they act: WindowRule and PairRule.

        NetworkError: a rule that no file could hold (a CustomRule: `NPU.register_plasticity` takes it), or bounds beyond
        this network's weights.
        """
        self._writable()
        given = tuple(rules)
        for rule in given:
            if not isinstance(rule, (WindowRule, PairRule)):
                raise NetworkError(f"plasticity: {rule!r} is neither a WindowRule nor a PairRule; NPU.register_plasticity takes others")
            rule.check(self._weight_max)
        self._plasticity = given

    def reserve(self, neurons: int | None = None, synapses: int | None = None) -> None:
        """Grow to at least these capacities; arrays looked at before are then copies that nobody reads."""
        self._writable()
        neuron_capacity = max(self.neuron_capacity, _neuron_capacity(neurons or 0))
        synapse_capacity = max(self.synapse_capacity, check_integer(synapses or 0, "synapse_capacity"))
        if synapse_capacity > self.synapse_capacity:
            self.synapses = self.synapses.with_capacity(synapse_capacity, neuron_capacity)
        if neuron_capacity > self.neuron_capacity:
            self.neurons = self.neurons.with_capacity(neuron_capacity)
            self.synapses.neuron_capacity = neuron_capacity

    def compact(self) -> None:
        """Give the slots of removed synapses back; the order of the others stays."""
        self._writable()
        keep = self.synapses.batch()
        self.synapses.arrays()[-1][:] = False
        self.synapses.count = 0
        self.synapses.append(keep)

    def freeze(self) -> None:
        """Make every array read-only; from here on mutators raise NetworkError."""
        self._frozen = True
        for array in (*self.neurons.arrays(), *self.synapses.arrays()):
            array.flags.writeable = False

    def copy(self) -> Connectome:
        """A copy of its own, not frozen, with the same capacities."""
        new = Connectome(
            weight_dtype=self.weight_dtype,
            psp_dtype=self.psp_dtype,
            settings=self.settings,
            areas=self.areas,
            plasticity=self.plasticity,
        )
        new.neurons = self.neurons.with_capacity(self.neuron_capacity)
        new.synapses = self.synapses.with_capacity(self.synapse_capacity, self.neuron_capacity)
        return new

    def _writable(self) -> None:
        if self._frozen:
            raise NetworkError("this connectome is frozen, since an NPU holds it", python="change the NPU, or a copy() of the connectome")

    def validate(self) -> None:
        """Check everything, as if nothing had gone through the mutators: dtypes, shapes, ranges, ids, areas, sums.

        NetworkError, NeuronIndexError, SumOverflowError.
        """
        neurons, synapses = self.neurons, self.synapses
        for name in NEURON_FIELDS:
            _validate_field(name, neurons[name], neurons.capacity)
        for name in ("valid", "created"):
            _validate_array(name, neurons[name], (neurons.capacity,), np.bool_)
        ghosts = np.flatnonzero(neurons.valid & ~neurons.created)
        if ghosts.size:
            raise NetworkError(f"neuron {ghosts[0]} is valid but was never created")
        dtypes = {**synapse_dtypes(self.weight_dtype, self.psp_dtype), "valid": np.bool_}
        for array, (name, dtype) in zip(synapses.arrays(), dtypes.items(), strict=True):
            _validate_array(name, array, (synapses.capacity,), dtype)
        if not 0 <= synapses.count <= synapses.capacity:
            raise NetworkError(f"synapse count {synapses.count} is outside 0..{synapses.capacity}")
        for name in ("source", "target"):
            ids = getattr(synapses, name)
            if ids.size and int(ids.max()) >= self.neuron_capacity:
                bad = int(np.argmax(ids >= self.neuron_capacity))
                raise NeuronIndexError.outside(f"{name} of synapse {bad}", int(ids[bad]), self.neuron_capacity)
        reach, most = reaches(self._plasticity, self._weight_max), largest_product(self.weight_dtype, self.psp_dtype)
        check_sums(synapses, neurons.cortical_area, self.areas, synapses.valid_count, reach, most)


def _occurrence(group: NDArray[np.intp], groups: int) -> NDArray[np.int64]:
    """group (n,) of numbers below `groups` -> how many equal ones stand before each."""
    order = np.argsort(group, kind="stable")
    size = np.bincount(group, minlength=groups)
    start = np.cumsum(size) - size
    rank = np.empty(len(group), np.int64)
    rank[order] = np.arange(len(group)) - start[group[order]]
    return rank


def _validate_array(name: str, array: NDArray[Any], shape: tuple[int, ...], dtype: Any) -> None:
    if array.dtype != dtype or array.shape != shape:
        raise NetworkError(f"{name}: an array of {array.dtype} of shape {array.shape}, where {np.dtype(dtype)} of shape {shape} is needed")
    if array.dtype == np.bool_ and array.size and int(array.view(np.uint8).max()) > 1:
        bad = int(np.argmax(array.view(np.uint8) > 1))
        raise NetworkError(f"{name}[{bad}]: {array.view(np.uint8)[bad]} where 0 or 1 is needed")


def _validate_field(name: str, array: NDArray[Any], capacity: int) -> None:
    field = NEURON_FIELDS[name]
    _validate_array(name, array, (capacity,) if field.width == 1 else (capacity, field.width), field.dtype)
    if field.dtype is np.float32:
        settled = check_field(name, array, capacity)
        bad = np.flatnonzero(settled.view(np.uint32) != array.view(np.uint32))
        if bad.size:
            raise NetworkError(f"{name}[{bad[0]}]: {array[bad[0]]} is subnormal or -0; write 0", python="Connectome.write() does so")
