"""The parts of an NPU that change its network: neurons, synapses, and what holds for all of them.

Every argument is checked before anything changes, so an edit is made as a whole or raises with the NPU as it was.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gpu_npu.arrays import U32, Counts, Flags, sorted_unique
from gpu_npu.checks import check_area_id, check_count, check_pairs, check_unique, number
from gpu_npu.connectome import NEURON_FIELDS, Area, Connectome, FeagiRule, PlasticityRule, Settings
from gpu_npu.connectome.degeneration import check_degeneration
from gpu_npu.connectome.fields import MAX_NEURONS, largest_count, synapse_dtypes
from gpu_npu.connectome.neurons import lowest_free
from gpu_npu.connectome.plasticity import check_rules
from gpu_npu.connectome.validation import check_delays, check_field, check_learns, check_synapses, check_weights
from gpu_npu.errors import CapacityError, NetworkError

from .admission import SumBound
from .calls import annotated, guarded
from .resident import Part


class NetworkEdits(Part):
    """Edits of what holds for the whole network."""

    @guarded
    @annotated("edit")
    def reserve(self, neurons: int | None = None, synapses: int | None = None, delay: int | None = None) -> None:
        """Grow to at least these capacities. Never shrinks. It copies what is there, so a capacity grows by a sixteenth at least
        where memory allows: many small steps then cost no more than a few large ones.

        delay: the longest that synapses may be given later on, in bursts. Spikes are kept for as long, so it can grow only while
        none is lost that it needs: until as many bursts are over as spikes are kept for, 1 unless some synapse has a longer delay.
        """
        longest = check_count(1 if delay is None else delay, "delay", least=1, most=largest_count(self._resident.shape.delay_dtype))
        wanted = check_count(0 if neurons is None else neurons, "neurons", most=MAX_NEURONS)
        synapses = check_count(0 if synapses is None else synapses, "synapses")
        if delay is not None:
            self._resident.admit_delays(longest)
        self._resident.reserve(wanted, synapses)

    @guarded
    @annotated("edit")
    def rebuild_indexes(self) -> None:
        """Give back what edits have wasted. Never needed for a result: every edit holds from the next burst on."""
        self._resident.ready().compact()

    @guarded
    def set_settings(self, settings: Settings) -> None:
        """New rules and scales; `dataclasses.replace(npu.settings, ...)` changes some of them."""
        if not isinstance(settings, Settings):
            raise NetworkError(f"settings: {settings!r} is not a Settings")
        self._set_settings(settings)

    @annotated("edit")
    def _set_settings(self, settings: Settings) -> None:
        """SumOverflowError where sums may then not fit."""
        resident = self._resident
        backend, bound, arithmetic = resident.ready(), resident.bound, resident.arithmetic_with(settings)
        if arithmetic != resident.arithmetic_with():
            bound = resident.proven(lambda network: network.set_settings(settings)) if arithmetic.bits else SumBound()
        with resident.keeping(bound):
            backend.set_settings(settings)
        resident.settings = settings

    @guarded
    def set_power_amount(self, amount: float) -> None:
        """Potential that every power neuron receives in a burst."""
        self._set_settings(replace(self._resident.settings, power_amount=amount))

    @guarded
    def set_power_neurons(self, neurons: ArrayLike) -> None:
        """The power neurons from the next burst on, beside those of power areas; replaces the list set before."""
        resident = self._resident
        resident.open()
        resident.list_power(sorted_unique(resident.ids(neurons, "power neurons")))

    @guarded
    @annotated("edit")
    def set_area(
        self,
        area: int,
        psp_uniform: bool | None = None,
        mp_driven_psp: bool | None = None,
        power: bool | None = None,
        name: str | None = None,
        degeneration: float | None = None,
    ) -> None:
        """Change some flags of an area; those left out stay. SumOverflowError where sums may then not fit."""
        area, resident = check_area_id(area), self._resident
        before = resident.flags.get(area, Area())
        given = {"psp_uniform": psp_uniform, "mp_driven_psp": mp_driven_psp, "power": power, "name": name, "degeneration": degeneration}
        after = replace(before, **{flag: value for flag, value in given.items() if value is not None})  # type: ignore[arg-type]
        check_degeneration(after, resident.shape.psp_dtype)
        backend, bound = resident.ready(), resident.bound
        if (after.psp_uniform, after.mp_driven_psp) != (before.psp_uniform, before.mp_driven_psp):
            fixed = resident.arithmetic_with(flags={area: after}).bits
            bound = resident.proven(lambda network: network.set_area(area, after)) if fixed else SumBound()
        with resident.keeping(bound):
            backend.set_area(area, after)
        resident.flags[area] = after
        resident.forget_areas()

    @guarded
    @annotated("edit")
    def register_plasticity(self, rule: PlasticityRule) -> int:
        """Let a rule act from the next burst on, after those registered before; returns its handle.

        Bursts up to now are silent for it. What it computes: docs/plasticity.md.
        NetworkError: no rule, bounds beyond this network's weights, a rule that does not go with the others, or, on another
        backend than the reference, a CustomRule or more than 255 rules of one mapping. SumOverflowError: the weights that it can
        bring about may sum to more than fits. Nothing has changed then.
        """
        resident = self._resident
        if not isinstance(rule, PlasticityRule):
            raise NetworkError(f"plasticity: {rule!r} is not a rule; make a WindowRule, a PairRule, a FeagiRule or a CustomRule")
        if not isinstance(rule, FeagiRule):
            check_learns(resident.shape.weight_dtype, resident.shape.psp_dtype)
        check_rules([*resident.rules.values(), rule], resident.weight_max)
        backend, handle, bound = resident.ready(), resident.next_rule, resident.bound
        if resident.arithmetic_with().bits and rule.reach(resident.weight_max):
            bound = resident.proven(lambda network: None, [rule])
        with resident.keeping(bound):
            backend.add_rule(handle, rule, resident.burst_count)
        resident.rules[handle] = rule
        resident.next_rule += 1
        return handle

    @guarded
    @annotated("edit")
    def unregister_plasticity(self, handle: int) -> PlasticityRule:
        """The rule with this handle acts no more; returns it. What it has learnt stays, what it remembers is forgotten."""
        rules = self._resident.rules
        if not isinstance(handle, int) or handle not in rules:
            there = ", ".join(map(str, rules)) or "none"
            raise NetworkError(f"plasticity: no rule has the handle {handle!r}; there are: {there}")
        self._resident.ready().remove_rule(handle)
        return rules.pop(handle)


class NeuronEdits(Part):
    """Edits of neurons."""

    @guarded
    @annotated("edit")
    def add_neurons(self, count: int, **fields: ArrayLike) -> U32:
        """Create the next `count` reserved ids; returns them, ascending.

        Each field of NEURON_FIELDS is one value for all or an array of shape (count,), coordinates (count, 3); those
        left out get their defaults. CapacityError when too few reserved ids are left.
        """
        count, resident = check_count(count, "count"), self._resident
        ids: U32 = lowest_free(resident.created(), resident.first_free, count).astype(np.uint32)
        if count > len(ids):
            capacity = resident.shape.neuron_capacity
            raise CapacityError(
                f"{count:,} neurons do not fit: {len(ids):,} of {capacity:,} reserved ids are free",
                python=f"reserve(neurons={capacity + count - len(ids)}) makes room",
            )
        columns = _columns(count, fields)
        # A reserved id may be a source already, so the area it comes to bears on the sums.
        with resident.admitted(lambda network: network.create_neurons(ids, **columns)):
            resident.create(ids, columns)
        resident.first_free = int(ids[-1]) + 1 if count else resident.first_free
        return ids

    def add_neuron(self, **fields: ArrayLike) -> int:
        """Create the next reserved id; returns it."""
        return int(self.add_neurons(1, **fields)[0])

    @guarded
    @annotated("edit")
    def delete_neurons(self, neurons: ArrayLike) -> Flags:
        """Delete neurons, each given once; says for each whether it was there. Their ids are never used again."""
        ids = self._resident.ids(neurons)
        check_unique(ids)
        return self._resident.delete(ids)

    def delete_neuron(self, neuron: int) -> bool:
        """Delete a neuron; says whether it was there."""
        return bool(self.delete_neurons([number(neuron, "neuron")])[0])

    @guarded
    @annotated("edit")
    def set_parameter(self, name: str, neurons: ArrayLike, values: ArrayLike) -> None:
        """Set a field of NEURON_FIELDS: ids, each given once, and one value or one for each.

        NetworkError for an id that was never created (a deleted one keeps what is written, to no effect).
        """
        resident = self._resident
        ids = resident.ids(neurons)
        check_unique(ids)
        column = check_field(name, values, len(ids))
        missing = np.flatnonzero(~resident.created()[ids])
        if missing.size:
            raise NetworkError(
                f"neurons[{missing[0]}]: the id {int(ids[missing[0]])} is reserved, but its neuron was never created",
                python="add_neuron() or set_neuron_mapping() creates it",
            )
        with self._moving(name, lambda network: _put(network.neurons.cortical_area, ids, column)):
            resident.ready().write(name, ids, column)

    @guarded
    @annotated("edit")
    def set_area_parameter(self, name: str, area: int, value: ArrayLike) -> int:
        """Set a field of every neuron of an area to one value (or triple of coordinates); returns how many neurons."""
        area = check_area_id(area)
        column = check_field(name, value, 1)
        with self._moving(name, lambda network: network.write_area(name, area, column[0])):
            return self._resident.ready().write_area(name, area, column)

    @contextmanager
    def _moving(self, name: str, edit: Callable[[Connectome], object]) -> Iterator[None]:
        """Around a change of this field, which moves neurons where it is that of areas."""
        if name != "cortical_area":
            yield
            return
        with self._resident.admitted(edit):
            self._resident.forget_areas()
            yield

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
        resident = self._resident
        ids = resident.ids(neurons)
        check_unique(ids)
        column = check_field("cortical_area", areas, len(ids))
        order = np.argsort(ids)
        ids, column = ids[order], column[order]
        missing = ~resident.created()[ids]
        new, there = ids[missing], ids[~missing]
        with self._moving("cortical_area", lambda network: _put(network.neurons.cortical_area, ids, column)):
            backend, columns = resident.ready(), _columns(len(new), {"cortical_area": column[missing]})
            before = backend.read("cortical_area")[there] if len(new) and len(there) else None
            backend.write("cortical_area", there, column[~missing])
            resident.forget_areas()
            try:
                resident.create(new, columns)
            except BaseException:
                if before is not None:
                    backend.write("cortical_area", there, before)
                raise


class SynapseEdits(Part):
    """Edits of synapses."""

    @guarded
    def add_synapse(self, source: int, target: int, weight: int, conductance: int, syn_type: int = 0, delay: int = 1) -> bool:
        """Add one synapse (syn_type 0 excitatory, 1 inhibitory); True. About a microsecond: it is checked now and handed
        to the backend with its fellows before anything else happens. `add_synapses` takes arrays."""
        given = (source, target, weight, conductance, delay, syn_type)
        try:
            s, t, w, p, d, kind = map(operator.index, given)
        except TypeError:
            s = -1
        resident = self._resident
        pending, bound, ids = resident.pending, resident.bound, resident.shape.neuron_capacity
        if not pending:
            resident.room = resident.shape.synapse_capacity - resident.open().synapse_count
        if not (
            0 <= s < ids
            and 0 <= t < ids
            and 0 <= w <= resident.weight_max
            and 0 <= p <= resident.psp_max
            and 0 <= kind <= 1
            and d in resident.delays
            and bool not in map(type, given[:5])
            and len(pending) < resident.room
            and bound.admits(bound.growth_of_one(w, p))
        ):  # by the long way, which makes the errors
            self._add_synapses([number(source, "source")], [number(target, "target")], [weight], [conductance], [syn_type], [delay])
            return True
        pending.append(s, t, w, p, kind, d)
        if len(pending) >= pending.MOST:
            resident.ready()
        return True

    @guarded
    def add_synapses(
        self,
        source: ArrayLike,
        target: ArrayLike,
        weight: ArrayLike,
        psp: ArrayLike,
        inhibitory: ArrayLike = False,
        delay: ArrayLike = 1,
    ) -> None:
        """Add synapses between reserved ids, in the order given, which is their age: arrays of one length, or one value for all.

        A synapse delivers in a burst if its source fired `delay` bursts before it, even before the synapse was added.
        CapacityError beyond the reserved capacity; SumOverflowError where a sum may not fit; NetworkError for a delay that this
        backend does not have, or for which spikes were not kept (`reserve`).
        """
        self._add_synapses(source, target, weight, psp, inhibitory, delay)

    @annotated("edit")
    def _add_synapses(self, *values: ArrayLike) -> None:
        """A value for each of SYNAPSE_FIELDS."""
        resident, shape = self._resident, self._resident.shape
        dtypes = synapse_dtypes(shape.weight_dtype, shape.psp_dtype, shape.delay_dtype)
        batch = check_synapses(dict(zip(dtypes, values, strict=True)), shape.neuron_capacity, dtypes)
        free = shape.synapse_capacity - resident.synapse_count()
        if len(batch) > free:
            raise CapacityError(
                f"{len(batch):,} synapses do not fit: {free:,} of the {shape.synapse_capacity:,} reserved are free",
                python=f"reserve(synapses={shape.synapse_capacity + len(batch) - free}) makes room",
            )
        growth = resident.bound.growth(batch.target, batch.weight, batch.psp)
        with resident.admitted(lambda network: network.add_synapses(*batch.columns()), growth):
            resident.admit_delays(*_extremes(batch.delay))
            resident.ready().add_synapses(batch)

    @guarded
    @annotated("edit")
    def remove_synapses(self, source: ArrayLike, target: ArrayLike) -> Flags:
        """Remove, pair by pair in order, the oldest synapse of each; says for each whether there was one."""
        resident = self._resident
        sources, targets = check_pairs(source, target, resident.shape.neuron_capacity, resident.annotations.finder)
        # Where psp is shared, k falls and shares rise.
        with resident.admitted(lambda network: network.remove_synapses(sources, targets)):
            return resident.ready().remove_synapses(sources, targets)

    def remove_synapse(self, source: int, target: int) -> bool:
        """Remove the oldest synapse of this pair; says whether there was one."""
        return bool(self.remove_synapses([number(source, "source")], [number(target, "target")])[0])

    @guarded
    @annotated("edit")
    def update_weights(self, source: ArrayLike, target: ArrayLike, weight: ArrayLike) -> Flags:
        """Set, pair by pair in order, the weight of the oldest synapse of each; says for each whether there was one."""
        resident, shape = self._resident, self._resident.shape
        sources, targets = check_pairs(source, target, shape.neuron_capacity, resident.annotations.finder)
        weights = check_weights(weight, shape.weight_dtype, len(sources))
        growth = resident.bound.growth(targets, weights, None)  # their psps are not known here
        with resident.admitted(lambda network: network.reweight_synapses(sources, targets, weights), growth):
            return resident.ready().reweight_synapses(sources, targets, weights)

    def update_weight(self, source: int, target: int, weight: int) -> bool:
        """Set the weight of the oldest synapse of this pair; says whether there was one."""
        return bool(self.update_weights([number(source, "source")], [number(target, "target")], [weight])[0])

    update_synapse_weight = update_weight

    @guarded
    @annotated("edit")
    def update_delays(self, source: ArrayLike, target: ArrayLike, delay: ArrayLike) -> Flags:
        """Set, pair by pair in order, the delay of the oldest synapse of each; says for each whether there was one. Spikes under way
        arrive by the new delay, or, where that many bursts are over already, not at all.

        NetworkError for a delay that this backend does not have, or for which spikes were not kept (`reserve`).
        """
        resident, shape = self._resident, self._resident.shape
        sources, targets = check_pairs(source, target, shape.neuron_capacity, resident.annotations.finder)
        delays = check_delays(delay, shape.delay_dtype, len(sources))
        resident.admit_delays(*_extremes(delays))
        return resident.ready().set_delays(sources, targets, delays)

    def update_delay(self, source: int, target: int, delay: int) -> bool:
        """Set the delay of the oldest synapse of this pair; says whether there was one."""
        return bool(self.update_delays([number(source, "source")], [number(target, "target")], [delay])[0])


def _extremes(delays: Counts) -> tuple[int, ...]:
    return (int(delays.min()), int(delays.max())) if len(delays) else ()


def _put(array: NDArray[Any], at: U32, values: NDArray[Any]) -> None:
    array[at] = values


def _columns(count: int, fields: Mapping[str, ArrayLike]) -> dict[str, NDArray[Any]]:
    """Every field of `count` new neurons: as given, checked, or the default."""
    given = {name: check_field(name, values, count) for name, values in fields.items()}
    return {
        name: given[name] if name in given else np.full(count if field.width == 1 else (count, field.width), field.default, field.dtype)
        for name, field in NEURON_FIELDS.items()
    }
