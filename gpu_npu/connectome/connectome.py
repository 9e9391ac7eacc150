"""The network as data, edited on the host and then loaded into an NPU."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gpu_npu.arrays import U32, Flags, Indices
from gpu_npu.checks import (
    check_area_id,
    check_count,
    check_ids,
    check_integer,
    check_kind,
    check_listed,
    check_map,
    check_pairs,
    check_unique,
)
from gpu_npu.errors import CapacityError, NetworkError

from .annotations import Annotations
from .degeneration import check_degeneration
from .fields import MAX_NEURONS, CountType, DelayType, largest_count
from .neurons import NeuronArray
from .plasticity import RULES, FeagiRule, PlasticityRule, check_rules, reaches
from .settings import Area, Settings
from .sums import Arithmetic, check_sums
from .synapses import SynapseArray
from .validation import (
    check_count_dtype,
    check_delay_dtype,
    check_delays,
    check_field,
    check_learns,
    check_neuron_array,
    check_scalar,
    check_synapse_array,
    check_synapses,
    check_weights,
    field_named,
)


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
        delay_dtype: Any = np.uint8,
    ) -> None:
        self.weight_dtype: CountType = check_count_dtype(weight_dtype, "weight_dtype")
        self.psp_dtype: CountType = check_count_dtype(psp_dtype, "psp_dtype")
        self.delay_dtype: DelayType = check_delay_dtype(delay_dtype)
        self._weight_max, self._psp_max, self._delay_max = (
            largest_count(dtype) for dtype in (self.weight_dtype, self.psp_dtype, self.delay_dtype)
        )
        neuron_capacity = _neuron_capacity(neuron_capacity)
        synapse_capacity = check_count(synapse_capacity, "synapse_capacity")
        self._frozen = False
        self._areas: dict[int, Area] = {}
        self._annotations = Annotations()
        self.neurons = NeuronArray(neuron_capacity)
        self.synapses = SynapseArray(synapse_capacity, neuron_capacity, self.weight_dtype, self.psp_dtype, self.delay_dtype)
        self.set_settings(Settings() if settings is None else settings)
        for area, flags in check_map({} if areas is None else areas, "areas").items():
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
    def annotations(self) -> Annotations:
        """The labels that users know neurons by, and what else is known of them."""
        return self._annotations

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
        ids = self.neurons.free(count)
        self._create(ids, fields)
        if count:
            self.neurons.first_free = int(ids[-1]) + 1
        return ids

    def add_neuron(self, **fields: Any) -> int:
        """Create the next id that was never created; a few microseconds."""
        self._writable()
        neuron = self.neurons.free_one()
        values = {}
        for name, value in fields.items():
            field = field_named(name)
            values[name] = check_scalar(field, value) if field.width == 1 else check_field(name, value, 1)[0]
        self.neurons.create(neuron, values)
        self.neurons.first_free = neuron + 1
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
        self.neurons.create(ids, {name: check_field(name, values, len(ids)) for name, values in fields.items()})

    def delete_neurons(self, ids: ArrayLike) -> Flags:
        """Delete neurons; says for each id whether it was there (once, if it is given twice). Their synapses stay."""
        self._writable()
        neurons = check_ids(ids, self.neuron_capacity, find=self._annotations.finder)
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
        neurons = check_ids(ids, self.neuron_capacity, find=self._annotations.finder)
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
        self,
        source: ArrayLike,
        target: ArrayLike,
        weight: ArrayLike,
        psp: ArrayLike,
        inhibitory: ArrayLike = False,
        delay: ArrayLike = 1,
    ) -> None:
        """Add synapses in the order given, which is their age; scalars serve all. Parallel ones and self-loops are allowed.
        A synapse delivers `delay` bursts after a spike of its source."""
        self._writable()
        given = {"source": source, "target": target, "weight": weight, "psp": psp, "inhibitory": inhibitory, "delay": delay}
        batch = check_synapses(given, self.neuron_capacity, self.synapses.dtypes)
        self.synapses.check_room(len(batch))
        self.synapses.append(batch)

    def add_synapse(self, source: int, target: int, weight: int, psp: int, inhibitory: bool = False, delay: int = 1) -> None:
        """Add one synapse; a microsecond or two."""
        self._writable()
        try:
            s, t, w, p, d = map(operator.index, (source, target, weight, psp, delay))
        except TypeError:
            return self.add_synapses(source, target, weight, psp, inhibitory, delay)
        capacity = self.neurons.capacity
        plain = 0 <= s < capacity and 0 <= t < capacity and 0 <= w <= self._weight_max and 0 <= p <= self._psp_max
        kinds = (type(source), type(target), type(weight), type(psp), type(delay))
        if not plain or not 0 < d <= self._delay_max or bool in kinds or type(inhibitory) is not bool:
            return self.add_synapses(source, target, weight, psp, inhibitory, delay)
        self.synapses.check_room(1)
        self.synapses.append_one(s, t, w, p, inhibitory, d)

    def remove_synapses(self, source: ArrayLike, target: ArrayLike) -> Flags:
        """Remove one synapse for each pair, in the order given: the oldest valid one; says whether there was one.

        A pair given again takes the next oldest. Work: O(synapses + pairs log pairs) for the whole call.
        """
        self._writable()
        sources, targets = check_pairs(source, target, self.neuron_capacity, self._annotations.finder)
        slots = self.synapses.oldest(sources, targets, consume=True)
        found = slots >= 0
        self.synapses.valid[slots[found]] = False
        return found

    def reweight_synapses(self, source: ArrayLike, target: ArrayLike, weight: ArrayLike) -> Flags:
        """Set the weight of the oldest valid synapse of each pair, in the order given; says whether there was one.

        A pair given again sets the same synapse again: the last weight stays.
        """
        self._writable()
        sources, targets = check_pairs(source, target, self.neuron_capacity, self._annotations.finder)
        weights = check_weights(weight, self.weight_dtype, len(sources))
        found, slots, last = self._last_of_each(sources, targets)
        self.synapses.weight[slots] = weights[last]
        return found

    def set_delays(self, source: ArrayLike, target: ArrayLike, delay: ArrayLike) -> Flags:
        """The same of the delay."""
        self._writable()
        sources, targets = check_pairs(source, target, self.neuron_capacity, self._annotations.finder)
        delays = check_delays(delay, self.delay_dtype, len(sources))
        found, slots, last = self._last_of_each(sources, targets)
        self.synapses.set_delays(slots, delays[last])
        return found

    def _last_of_each(self, sources: U32, targets: U32) -> tuple[Flags, Indices, Indices]:
        """(of each pair whether it has a synapse; the slots of the oldest ones, each once; where each was given last). NumPy promises
        no order for repeated indices."""
        slots = self.synapses.oldest(sources, targets)
        last, place = np.unique(slots[::-1], return_index=True)
        place = len(slots) - 1 - place[last >= 0]
        return slots >= 0, slots[place], place

    def find_synapses(self, source: ArrayLike, target: ArrayLike) -> NDArray[np.int64]:
        """The slot of the oldest valid synapse of each pair; -1 where there is none."""
        return self.synapses.oldest(*check_pairs(source, target, self.neuron_capacity, self._annotations.finder))

    # -- the network as a whole ----------------------------------------------------------------------------------
    def set_area(self, area: int, flags: Area) -> None:
        """Name and flags of an area."""
        self._writable()
        if not isinstance(flags, Area):
            raise NetworkError(f"area {area!r}: {flags!r} is not an Area")
        check_degeneration(flags, self.psp_dtype)
        self._areas[check_area_id(area)] = flags

    def set_annotations(self, annotations: Annotations) -> None:
        """Labels and columns of neurons 0, 1, ...; CapacityError where there are more of them than reserved ids."""
        self._writable()
        if len(check_kind(annotations, Annotations, "annotations")) > self.neuron_capacity:
            raise CapacityError(f"annotations of {len(annotations):,} neurons, where {self.neuron_capacity:,} ids are reserved")
        self._annotations = annotations

    def set_settings(self, settings: Settings) -> None:
        """Rules and scales of the whole network."""
        self._writable()
        if not isinstance(settings, Settings):
            raise NetworkError(f"settings: {settings!r} is not a Settings")
        self._settings = settings

    def set_plasticity(self, rules: Iterable[PlasticityRule]) -> None:
        """All plasticity rules, in the order in which they act: WindowRules and PairRules, or FeagiRules.

        NetworkError: a rule that no file could hold (a CustomRule: `NPU.register_plasticity` takes it), bounds beyond this
        network's weights, or rules that do not fit together.
        """
        self._writable()
        given = check_listed(rules, "plasticity")
        for rule in given:
            if not isinstance(rule, tuple(RULES.values())):
                raise NetworkError(f"plasticity: {rule!r} is no WindowRule, PairRule or FeagiRule; NPU.register_plasticity takes others")
            if not isinstance(rule, FeagiRule):
                check_learns(self.weight_dtype, self.psp_dtype)
        check_rules(given, self._weight_max)
        self._plasticity = given

    def reserve(self, neurons: int | None = None, synapses: int | None = None) -> None:
        """Grow to at least these capacities; arrays looked at before are then copies that nobody reads."""
        self._writable()
        neuron_capacity = max(self.neuron_capacity, _neuron_capacity(0 if neurons is None else neurons))
        synapse_capacity = max(self.synapse_capacity, check_count(0 if synapses is None else synapses, "synapse_capacity"))
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
            delay_dtype=self.delay_dtype,
        )
        new._annotations = self._annotations
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
        check_neuron_array(self.neurons)
        check_synapse_array(self.synapses)
        reach, count = reaches(self._plasticity, self._weight_max), self.synapses.valid_count
        check_sums(self.synapses, self.neurons.cortical_area, self.areas, self.arithmetic, count, reach)

    @property
    def arithmetic(self) -> Arithmetic:
        """How its terms are computed and summed."""
        return Arithmetic.of(self.weight_dtype, self.psp_dtype, self.areas, self.settings.rules)
