"""Random networks and scripts, and the comparison of two backends that run them.

Hypothesis draws a Plan (a seed, sizes, switches); NumPy makes the network and the script from it. A failing plan thus
shrinks to few neurons, few bursts and few switches, and its repr is all that is needed to run it again.

Everything made here is what the Backend contract allows and the semantics do not refuse: potentials are settled, sums
stay far from 2**63 (weights and psps of a network that may ever be non-uniform are at most 255, a target has fewer
than 33,000 synapses).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from golden_cases import assert_bits
from hypothesis import strategies as st
from numpy.typing import NDArray

from gpu_npu.arrays import spread
from gpu_npu.backends.base import BurstOutput
from gpu_npu.backends.executor import Executor
from gpu_npu.backends.shape import NetworkShape
from gpu_npu.checks import settle
from gpu_npu.connectome import (
    NEURON_FIELDS,
    STATE_FIELDS,
    Area,
    Connectome,
    FeagiRule,
    PairRule,
    PlasticityRule,
    Rules,
    Settings,
    SynapseBatch,
    WindowRule,
)

SWITCHES = (
    "weight16",
    "psp16",
    "psp_per_source",
    "nonuniform",
    "driven",
    "unrounded",
    "fractions",
    "scaled",
    "inhibitory",
    "leak",
    "refractory",
    "excitability",
    "fire_limit",
    "snooze",
    "threshold_limit",
    "forgetful",
    "burst_clock",
    "candidates_reset",
    "rectify",
    "floor",
    "ceiling",
    "power",
    "forced",
    "extreme",
    "deleted",
    "synapse_edits",
    "writes",
    "neuron_edits",
    "settings_changes",
    "resets",
    "looks",
)
PLASTIC = "plastic"
"""A switch of its own, for plans of `plastic_plans`."""
FEAGI = "feagi"
"""Beside it: all rules are FeagiRules."""
DELAYS = "delays"
"""A switch of its own, for plans of `delayed_plans`."""
ONE_DELAY = "one delay"
"""Beside it: all synapses have the same."""
PAIRS = "pair rules"
"""Beside PLASTIC: no other rules, of which kernels have none where a delay is above 1."""
AREAS = (0, 1, 2, 77, 4_000_000_000)
LEDGER_WINDOW = 4
SMALL_SIZES = (0, 1, 3, 8, 16, 20, 31, 32, 33, 40)
SIZES = (0, 1, 8, 31, 32, 33, 64, 100, 200, 255, 256, 257, 300, 5000)
Step = tuple[str, tuple[Any, ...]]


@dataclass(frozen=True)
class Plan:
    """All that a network and its script are made from."""

    seed: int
    neurons: int
    reserved: int
    degree: int
    hub: int
    """Synapses that leave one neuron; half as many end in another."""
    bursts: int
    switches: frozenset[str]


def plans(sizes: Sequence[int] = SIZES, hubs: Sequence[int] = (0, 0, 0, 40, 300, 10_000)) -> st.SearchStrategy[Plan]:
    return st.builds(
        Plan,
        seed=st.integers(0, 2**32 - 1),
        neurons=st.sampled_from(sizes),
        reserved=st.sampled_from((0, 1, 5, 40)),
        degree=st.sampled_from((0, 2, 4, 10, 30)),
        hub=st.sampled_from(hubs),
        bursts=st.sampled_from((1, 5, 8, 12)),
        switches=st.lists(st.sampled_from((False, True, True)), min_size=len(SWITCHES), max_size=len(SWITCHES)).map(
            lambda on: frozenset(name for name, is_on in zip(SWITCHES, on, strict=True) if is_on)
        ),
    )


def plastic_plans(sizes: Sequence[int] = SIZES, hubs: Sequence[int] = (0, 0, 0, 40, 300, 10_000)) -> st.SearchStrategy[Plan]:
    """Plans in which rules come and go, in networks that are all alike in learning and in nothing else."""
    return plans(sizes, hubs).map(lambda plan: _lively(plan, PLASTIC))


def feagi_plans(sizes: Sequence[int] = SIZES, hubs: Sequence[int] = (0, 0, 0, 40, 300, 10_000)) -> st.SearchStrategy[Plan]:
    """Plans in which FeagiRules come and go."""
    return plans(sizes, hubs).map(lambda plan: _lively(plan, PLASTIC, FEAGI))


def delayed_plans(sizes: Sequence[int] = SIZES, hubs: Sequence[int] = (0, 0, 0, 40, 300, 10_000)) -> st.SearchStrategy[Plan]:
    """Plans of networks whose synapses have delays; in some of them rules come and go."""
    return plans(sizes, hubs).map(lambda plan: _lively(plan, DELAYS, *((), (), (PLASTIC,), (PLASTIC, FEAGI))[plan.seed // 4 % 4]))


def late_plans(sizes: Sequence[int] = SIZES, hubs: Sequence[int] = (0, 0, 0, 40, 300, 10_000)) -> st.SearchStrategy[Plan]:
    """Plans as `late`."""
    return plans(sizes, hubs).map(late)


def late(plan: Plan) -> Plan:
    """Of a network with delays that kernels run; in every third all synapses have one, above 1; in some pair rules come and go."""
    return _lively(plan, DELAYS, PAIRS, *((ONE_DELAY,), (), ())[plan.seed // 12 % 3], *((), (), (PLASTIC,))[plan.seed % 3])


def _lively(plan: Plan, *switches: str) -> Plan:
    """With enough synapses and bursts that something can be learnt."""
    return replace(plan, degree=max(plan.degree, 4), bursts=max(plan.bursts, 8), switches=plan.switches.union(switches))


class Maker:
    """Makes the network of a plan, then its script, keeping book of what exists so that every step is allowed."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.rng = plan, np.random.default_rng(plan.seed)
        self.on = plan.switches.__contains__
        self.capacity = plan.neurons + plan.reserved
        # The largest sum of a target must stay below 2**31 where an area may become non-uniform.
        self.fractions = self.on("fractions") and (self.on(FEAGI) or not self.on(PLASTIC)) and self.chance(0.5)
        top = 255 if self.on("nonuniform") or self.on("unrounded") or self.fractions else 65535
        self.weight_dtype: Any = np.uint16 if self.on("weight16") else np.uint8
        self.psp_dtype: Any = np.uint16 if self.on("psp16") else np.uint8
        self.weight_top, self.psp_top = (top if self.on(name) else 255 for name in ("weight16", "psp16"))
        if self.fractions:
            self.weight_dtype, self.psp_dtype = [(np.float32, np.uint8), (np.float32, np.float32), (np.uint16, np.float32)][plan.seed % 3]
        self.longest = (2, 3, 5, 9)[plan.seed % 4] if self.on(DELAYS) else 1
        self.shortest = self.longest if self.on(ONE_DELAY) else 1
        self.delay_dtype: Any = np.uint16 if self.on(DELAYS) and plan.seed % 3 == 0 else np.uint8
        self.psp_of = self.counts(2**16, self.psp_top, self.psp_dtype)
        # What one synapse typically delivers; thresholds, injections and bounds are of this order, so that much fires.
        self.contribution = self.weight_top / 2 * self.psp_top / 2 / (max(plan.degree, 1) if self.on("nonuniform") else 1)
        self.settings = self.some_settings()
        self.unit = self.contribution * self.settings.contribution_scale
        self.areas = {area: self.some_area() for area in AREAS[: self.rng.integers(0, len(AREAS))]}
        self.connectome = self.make_network()

    def shape(self, ledger_window: int) -> NetworkShape:
        """Of the network before the script, which grows it."""
        capacities = {"neuron_capacity": self.capacity, "synapse_capacity": self.synapse_capacity}
        return NetworkShape.of(self.connectome, **capacities, ledger_window=ledger_window, longest_delay=self.longest)

    # -- pieces ----------------------------------------------------------------------------------------------------
    def chance(self, p: float) -> bool:
        return bool(self.rng.random() < p)

    def pick(self, values: Sequence[Any], count: int, dtype: Any, rare: Sequence[Any] = ()) -> NDArray[Any]:
        """Any of the values, and now and then a rare one."""
        chosen = self.rng.choice(np.array(values, dtype), count)
        if rare:
            chosen = np.where(self.rng.random(count) < 0.08, self.rng.choice(np.array(rare, dtype), count), chosen)
        return chosen.astype(dtype)

    def counts(self, count: int, top: int, dtype: Any) -> NDArray[Any]:
        """Weights or psps up to `top`; floats are whole numbers, fractions, and some so small that terms are rounded to 2^-32."""
        whole = self.rng.integers(0, top + 1, count)
        if dtype is not np.float32:
            return whole.astype(dtype)
        share = self.rng.choice([1.0, 1.0, 2.0**-9, 2.0**-20], count)
        values: NDArray[Any] = np.where(self.rng.random(count) < 0.3, whole, top * self.rng.random(count) * share)
        return values.astype(np.float32)

    def some_settings(self) -> Settings:
        scale = float(self.rng.choice([1 / 65025, 0.37, 1e-3])) if self.on("scaled") else 1.0
        unit = self.contribution * scale
        rules = Rules(
            refractory_clock="burst" if self.on("burst_clock") and self.chance(0.8) else "candidate",
            rectify_input=self.on("rectify") and self.chance(0.8),
            potential_floor=float(self.rng.choice([-unit, -0.1 * unit, 0.0])) if self.on("floor") else -np.inf,
            potential_ceiling=float(self.rng.choice([unit, 3 * unit, 3 * unit, 255.0])) if self.on("ceiling") else np.inf,
            mp_driven_rounding=not (self.on("unrounded") and self.chance(0.7)),
            reset="candidates" if self.on("candidates_reset") and self.chance(0.8) else "all",
        )
        return Settings(rules, scale, float(self.rng.choice([0, 1, 3])) * unit, int(self.rng.integers(0, 2**32)))

    def some_area(self) -> Area:
        return Area(
            psp_uniform=not (self.on("nonuniform") and self.chance(0.6)), mp_driven_psp=self.on("driven") and self.chance(0.5),
            degeneration=float(self.rng.choice([0, 0.01, 1, 50])) if self.psp_dtype is np.float32 else 0.0,
        )

    def column(self, field: str, count: int) -> NDArray[Any]:
        """Values of a field for `count` neurons."""
        spec, unit, rng = NEURON_FIELDS[field], self.unit, self.rng
        plain = np.full((count, 3) if spec.width == 3 else count, spec.default, spec.dtype)
        if field == "membrane_potential":
            return self.potentials(count) if self.chance(0.5) else plain
        if field == "threshold":
            return settle((unit * rng.choice([0.3, 0.3, 0.3, 1, 1, 2, 4, 0, -1], count)).astype(np.float32))
        if field == "threshold_limit" and self.on("threshold_limit"):
            limits = self.pick([np.inf, np.inf, 1, 2, 6, 20], count, np.float32)
            return np.where(np.isinf(limits), limits, settle(limits * np.float32(unit)))
        if field == "leak_coefficient" and self.on("leak"):
            return self.pick([0, 1, 0.5, 0.1, 0.9999999, rng.random()], count, np.float32)
        if field == "refractory_period" and self.on("refractory"):
            return self.pick([0, 0, 1, 2, 3], count, np.uint16, rare=[65535, 65534])
        if field == "refractory_countdown" and self.on("refractory"):
            return self.pick([0, 0, 0, 1, 2], count, np.uint16, rare=[65535])
        if field == "excitability" and self.on("excitability"):
            return self.pick([1, 0.999, np.nextafter(np.float32(0.999), np.float32(0)), 0.7, 0.5, 0.2, 0], count, np.float32)
        if field == "consecutive_fire_limit" and self.on("fire_limit"):
            return self.pick([0, 65535, 1, 1, 2, 3], count, np.uint16, rare=[65534])
        if field == "consecutive_fire_count" and self.on("fire_limit"):
            return self.pick([0, 0, 1, 2, 65535], count, np.uint16, rare=[65534])
        if field == "snooze_period" and self.on("snooze"):
            return self.pick([0, 1, 2], count, np.uint16, rare=[65535])
        if field == "mp_charge_accumulation" and self.on("forgetful"):
            return rng.random(count) < 0.5
        if field == "cortical_area":
            return self.pick(AREAS[:2], count, np.uint32, rare=AREAS) if self.on(PLASTIC) else self.pick(AREAS, count, np.uint32)
        if field == "coordinates":
            return rng.integers(0, 2**32, (count, 3), np.uint32)
        return plain

    def potentials(self, count: int) -> NDArray[np.float32]:
        """To inject or to write: of the order of the thresholds, with zeros, exact multiples, and extremes if switched on."""
        values = self.rng.choice([0.0, 0.3, 1.0, 1.0, 2.0, 4.0, -0.5], count) * self.unit
        values = np.where(self.rng.random(count) < 0.5, values * self.rng.random(count), values)
        if self.on("extreme"):
            extremes = self.rng.choice([3e38, -3e38, 1.2e-38, -1.3e-38, 1.1e-38, 2e38, 1e30], count)
            values = np.where(self.rng.random(count) < 0.2, extremes, values)
            if self.chance(0.2):  # sums and differences of these are subnormal
                values = self.rng.choice([1.2e-38, -1.3e-38, 1.25e-38], count)
        return settle(values.astype(np.float32))

    def ids(self, count: int) -> NDArray[np.uint32]:
        """Any reserved ids, repeated ones among them; a few come very often."""
        if self.capacity == 0:
            return np.empty(0, np.uint32)
        chosen = self.rng.integers(0, self.capacity, count, np.uint32)
        return np.where(self.rng.random(count) < 0.1, chosen[:1], chosen)

    def some_of(self, ids: NDArray[Any], most: int) -> NDArray[np.uint32]:
        """Distinct ones of these ids, in no order."""
        return self.rng.permutation(ids)[: self.rng.integers(0, most + 1)].astype(np.uint32)

    def batch(self, count: int) -> SynapseBatch:
        source, target = self.ids(count), self.ids(count)
        count = len(source)
        if count and self.chance(0.3):
            source[:] = source[0]
        if count and self.chance(0.2) and count < 20_000:  # with one source for all, more would not fit a sum in fixed point
            target[:] = source
        same = self.rng.random(count) < 0.1  # parallel synapses, though the network is wide
        source[same], target[same] = source[:1].repeat(same.sum()), target[:1].repeat(same.sum())
        weight = self.counts(count, self.weight_top, self.weight_dtype)
        psp = self.psp_of[source % 2**16] if self.on("psp_per_source") else self.counts(count, self.psp_top, self.psp_dtype)
        inhibitory = self.rng.random(count) < (0.3 if self.on("inhibitory") else 0)
        return SynapseBatch(source, target, weight, psp, inhibitory, self.delays(count))

    def delays(self, count: int) -> NDArray[Any]:
        """Of each its own, or now and then one for all."""
        if not self.on(DELAYS):
            return spread(1, count, self.delay_dtype)
        lowest = self.longest if self.chance(0.2) else self.shortest
        return self.rng.integers(lowest, self.longest, count, endpoint=True).astype(self.delay_dtype)

    # -- the network -------------------------------------------------------------------------------------------------
    def make_network(self) -> Connectome:
        plan, capacity = self.plan, self.capacity
        parts = [self.batch(plan.neurons * plan.degree)]
        if plan.hub and capacity:
            row, column = self.batch(plan.hub), self.batch(plan.hub // 2)
            row.source[:], column.target[:] = self.rng.integers(0, capacity, 2, np.uint32)
            parts += [row, column]
            if self.on("psp_per_source"):
                row.psp[:] = self.psp_of[row.source[0] % 2**16]
        batch = SynapseBatch.concatenate(parts)
        self.synapse_capacity = len(batch) + int(self.rng.choice([0, 3, 100]))
        connectome = Connectome(
            capacity,
            self.synapse_capacity,
            weight_dtype=self.weight_dtype,
            psp_dtype=self.psp_dtype,
            delay_dtype=self.delay_dtype,
            settings=self.settings,
            areas=self.areas,
        )
        connectome.add_neurons(plan.neurons, **{field: self.column(field, plan.neurons) for field in NEURON_FIELDS})
        connectome.add_synapses(*batch.columns())
        if self.on("deleted"):
            gone = self.rng.random(capacity) < 0.1
            connectome.delete_neurons(np.flatnonzero(gone & connectome.neurons.valid))
            removed = self.rng.random(len(batch)) < 0.1
            connectome.remove_synapses(batch.source[removed], batch.target[removed])
        self.created, self.valid = connectome.neurons.created.copy(), connectome.neurons.valid.copy()
        left = connectome.synapses.batch()
        self.pairs = Counter(zip(left.source.tolist(), left.target.tolist(), strict=True))
        connectome.validate()
        return connectome

    # -- the script --------------------------------------------------------------------------------------------------
    def make_script(self) -> list[Step]:
        self.steps: list[Step] = []
        self.handles: list[int] = []
        self.mapping_of: dict[int, tuple[int, int]] = {}
        self.next_rule = 0
        number = 0
        for _ in range(self.plan.bursts):
            if self.on("resets") and number and self.chance(0.12):
                self.step("reset", {field: self.column(field, self.capacity) for field in STATE_FIELDS})
                number = 0
            self.inputs()
            if self.on(PLASTIC):
                self.change_rules(number)
            if self.on("settings_changes"):
                self.change_settings()
            if self.on("neuron_edits"):
                self.edit_neurons()
            if self.on("synapse_edits"):
                self.edit_synapses()
            if self.on("writes"):
                self.write()
            if self.chance(0.3):  # staged before or after the edits, both must work
                self.inputs()
            number += 1
            self.step("burst", number)
        return self.steps

    def step(self, name: str, *arguments: Any) -> None:
        self.steps.append((name, arguments))

    def inputs(self) -> None:
        count = int(self.rng.choice([0, 1, max(1, self.capacity // 4), self.capacity + 2]))
        ids = self.ids(count)
        if self.chance(0.3):
            self.step("inject_device", np.sort(ids), self.potentials(len(ids)))
        else:
            self.step("inject", ids, self.potentials(len(ids)))
        if self.on("power") and self.chance(0.3):
            self.step("set_power", np.unique(self.ids(int(self.rng.integers(0, self.capacity // 3 + 2)))))
        if self.on(PLASTIC) and self.chance(0.5):  # pairs of spikes need many spikes
            self.step("force", self.some_of(np.arange(self.capacity), self.capacity))
        if self.on("forced") and self.chance(0.6):
            self.step("force", self.ids(int(self.rng.integers(0, self.capacity // 6 + 2))))

    def change_rules(self, number: int) -> None:
        """Up to five at once, of either kind; overlapping ones are likely."""
        rng = self.rng
        if self.handles and self.chance(0.15):
            self.step("remove_rule", self.handles.pop(int(rng.integers(len(self.handles)))))
        while len(self.handles) < 5 and self.chance(0.7 if number == 0 else 0.2):
            rule = self.some_feagi_rule() if self.on(FEAGI) else self.some_rule()
            if self.on(FEAGI) and any((rule.source_area, rule.target_area) == self.mapping_of[handle] for handle in self.handles):
                continue
            self.step("add_rule", self.next_rule, rule, number)
            self.handles.append(self.next_rule)
            self.mapping_of[self.next_rule] = rule.source_area, rule.target_area
            self.next_rule += 1

    def some_feagi_rule(self) -> FeagiRule:
        """Windows of a length that history is forgotten in among them."""
        rng = self.rng
        source, target = (int(area) for area in self.pick(AREAS[:2], 2, np.uint32, rare=AREAS))
        if self.weight_dtype is np.float32:
            steps = rng.choice([0, 1, 0.3, 2.7, 40.1, 1e-4], 2).tolist()
            return FeagiRule(source, target, int(rng.choice([1, 1, 2, 3, 5, 9, 70])), *steps, float(self.weight_top * rng.random()))
        unbounded = self.weight_top == int(np.iinfo(self.weight_dtype).max) and self.chance(0.5)
        top = None if unbounded else float(rng.integers(0, self.weight_top + 1))
        window = int(rng.choice([1, 1, 2, 3, 5, 9, 70]))
        return FeagiRule(source, target, window, float(rng.choice([0, 1, 3, 40, 1e6])), float(rng.choice([0, 1, 2, 30, 1e6])), top)

    def some_rule(self) -> PlasticityRule:
        rng, most = self.rng, int(np.iinfo(self.weight_dtype).max)
        mapping = (int(area) for area in self.pick(AREAS[:2], 2, np.uint32, rare=AREAS))
        # As above: a weight of a network that may be non-uniform stays at 255.
        top = self.weight_top
        if self.chance(0.4) and not self.on(PAIRS):
            plus = int(rng.choice([0, 1, 3, 100, 65535])) if top == most else 0
            return WindowRule(*mapping, int(rng.choice([1, 1, 2, 2, 3, 5])), plus, int(rng.choice([0, 1, 2, 100, 65535])))
        low, high = sorted(rng.choice([0, 0, 1, 7, 100, top // 2, top - 1, top], 2, replace=False).tolist())
        low, high = (0, top) if low == high or self.chance(0.5) else (low, high)
        sizes = 2.0**-16, 0.001, 0.3, 1.0, 7.77, 100.0, 65535.0
        return PairRule(
            *mapping,
            a_plus=float(rng.choice([0.0, *sizes])),
            a_minus=float(rng.choice([0.0, *sizes])),
            tau_plus=float(rng.choice([0.1, 0.5, 1.0, 3.7, 20.0, 2000.0])),
            tau_minus=float(rng.choice([0.1, 0.5, 1.0, 3.7, 20.0, 2000.0])),
            pairing=str(rng.choice(["nearest", "all"])),
            bounds=str(rng.choice(["additive", "multiplicative"])),
            w_min=low,
            w_max=None if high == most and self.chance(0.5) else high,
        )

    def change_settings(self) -> None:
        if self.chance(0.3):
            self.step("set_settings", self.some_settings())
        if self.chance(0.4):
            self.step("set_area", int(self.rng.choice(AREAS)), self.some_area())
        if self.chance(0.2):
            self.step("compact")

    def edit_neurons(self) -> None:
        if self.chance(0.3):
            more = int(self.rng.choice([0, 0, 1, 33, 300]))
            self.capacity += more
            self.synapse_capacity += int(self.rng.choice([0, 50]))
            self.created, self.valid = np.append(self.created, np.zeros(more, bool)), np.append(self.valid, np.zeros(more, bool))
            self.step("reserve", self.capacity, self.synapse_capacity)
        if self.chance(0.3):
            gone = self.some_of(np.arange(self.capacity), max(1, self.capacity // 8))
            self.step("delete_neurons", gone)
            self.valid[gone] = False
        if self.chance(0.5):
            new = self.some_of(np.flatnonzero(~self.created), 20)
            self.step("add_neurons", new, {field: self.column(field, len(new)) for field in NEURON_FIELDS})
            self.created[new] = self.valid[new] = True

    def edit_synapses(self) -> None:
        if self.chance(0.5):
            self.remove(int(self.rng.choice([1, 5, 50])))
        if self.chance(0.5):
            batch = self.batch(int(self.rng.choice([1, 4, self.plan.neurons // 2, min(self.plan.hub, 1000)])))
            if self.pairs.total() + len(batch) > self.synapse_capacity:
                self.synapse_capacity = self.pairs.total() + len(batch)
                self.step("reserve", self.capacity, self.synapse_capacity)
            self.step("add_synapses", batch)
            self.pairs.update(zip(batch.source.tolist(), batch.target.tolist(), strict=True))
        if self.chance(0.4):
            source, target = self.some_pairs(int(self.rng.choice([1, 5, 50])))
            weight = self.counts(len(source), self.weight_top, self.weight_dtype)
            self.step("reweight_synapses", source, target, weight)
        if self.on(DELAYS) and self.chance(0.4):
            source, target = self.some_pairs(int(self.rng.choice([1, 5, 50])))
            self.step("set_delays", source, target, self.delays(len(source)))
        if self.chance(0.3):
            self.remove(int(self.rng.choice([1, 5, 50])))

    def remove(self, count: int) -> None:
        source, target = self.some_pairs(count)
        self.step("remove_synapses", source, target)
        for pair in zip(source.tolist(), target.tolist(), strict=True):
            self.pairs[pair] = max(0, self.pairs[pair] - 1)
        self.pairs = +self.pairs

    def some_pairs(self, count: int) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
        """Pairs that have a synapse, some of them given more than once, and pairs that need not have one."""
        pairs = np.stack([self.ids(count), self.ids(count)], axis=1)
        if self.pairs and len(pairs):
            there = np.array(list(self.pairs), np.uint32)
            there = there[self.rng.integers(0, len(there), count)]
            pairs = np.where(self.rng.random((count, 1)) < 0.8, there, pairs)
            pairs = np.concatenate([pairs, np.repeat(pairs[:1], 2, axis=0)])
        pairs = self.rng.permutation(pairs)
        return np.ascontiguousarray(pairs[:, 0]), np.ascontiguousarray(pairs[:, 1])

    def write(self) -> None:
        for _ in range(self.rng.integers(1, 4)):
            field = str(self.rng.choice(list(NEURON_FIELDS)))
            if self.chance(0.3):
                self.step("write_area", field, int(self.rng.choice(AREAS)), self.column(field, 1))
            else:
                ids = self.some_of(np.flatnonzero(self.valid), max(1, self.capacity // 4))
                self.step("write", field, ids, self.column(field, len(ids)))


# -- two backends side by side ------------------------------------------------------------------------------------------
def agree(plan: Plan, subject: Any, oracle: Any) -> None:
    """Run the plan on two platforms; whatever comes out must be equal, to the bit."""
    maker = Maker(plan)
    shape, script = maker.shape(LEDGER_WINDOW), maker.make_script()
    with closing(subject.load(maker.connectome, shape)) as backend:
        _agree(plan, script, backend, oracle.load(maker.connectome, shape))


def _agree(plan: Plan, script: list[Any], subject: Any, oracle: Any) -> None:
    number = 0
    for at, (name, arguments) in enumerate(script):
        what = f"step {at} of {plan}: {name}"
        got, expected = perform(subject, name, arguments), perform(oracle, name, arguments)
        assert_equal(got, expected, what)
        if name == "burst":
            number = arguments[0]
            compare_queues(subject, oracle, number, what)
            if "looks" in plan.switches:
                compare_state(subject, oracle, what)
            if PLASTIC in plan.switches:
                compare_weights(subject, oracle, what)
        if name == "reset":
            number = 0
            compare_queues(subject, oracle, 0, what)
    compare_state(subject, oracle, f"end of {plan}")
    compare_synapses(subject, oracle, plan)


def perform(backend: Any, name: str, arguments: tuple[Any, ...]) -> Any:
    """One step on a backend, and what it returned."""
    if name == "reserve":
        return backend.reserve(neuron_capacity=arguments[0], synapse_capacity=arguments[1])
    if name == "inject_device":
        return backend.inject_device(*(to_device(backend, array) for array in arguments))
    return getattr(backend, name)(*arguments)


def to_device(backend: Any, array: NDArray[Any]) -> Any:
    """The array as a user of the backend's device would hold it; the reference takes host arrays."""
    if not isinstance(backend, Executor):
        return array
    device = backend._device
    on_device = device.alloc(array.size, array.dtype)
    device.upload(on_device, array)
    return device.view(on_device, 0, array.size)


def to_host(array: Any) -> NDArray[Any]:
    return array.get() if hasattr(array, "get") else np.from_dlpack(array)


def compare_queues(subject: Any, oracle: Any, number: int, what: str) -> None:
    for previous in (False, True):
        assert_equal(subject.fire_queue(previous=previous), oracle.fire_queue(previous=previous), f"{what}: fire queue, {previous=}")
    assert_equal(subject.candidates(), oracle.candidates(), f"{what}: candidates")
    for past in range(max(1, number - LEDGER_WINDOW + 1), number + 1):
        assert_equal(subject.fired_in(past), oracle.fired_in(past), f"{what}: ledger, burst {past}")
    if number:
        assert_equal(to_host(subject.fired_on_device()), oracle.fire_queue()[0], f"{what}: fired on device")


def compare_state(subject: Any, oracle: Any, what: str) -> None:
    for field in ("valid", "created"):
        assert_equal(subject.read(field), oracle.read(field), f"{what}: {field}")
    created = oracle.read("created")
    for field in NEURON_FIELDS:
        assert_equal(subject.read(field)[created], oracle.read(field)[created], f"{what}: {field}")
    assert subject.synapse_count == oracle.synapse_count, what


def compare_synapses(subject: Any, oracle: Any, plan: Plan) -> None:
    rng = np.random.default_rng(plan.seed)
    everyone = np.arange(len(oracle.read("created")), dtype=np.uint32)
    some = everyone[rng.random(len(everyone)) < 0.5]
    for wanted in (None, some, everyone[:0]):
        got, expected = (joined(backend.synapses_from(wanted)) for backend in (subject, oracle))
        assert_equal(got, expected, f"end of {plan}: synapses from {wanted}")
    for wanted in (everyone, rng.permutation(some)):
        assert_equal(subject.synapses_to(wanted), oracle.synapses_to(wanted), f"end of {plan}: synapses to {wanted}")


def compare_weights(subject: Any, oracle: Any, what: str) -> None:
    assert_equal(joined(subject.synapses_from()), joined(oracle.synapses_from()), what)
    assert_equal(subject.residues(), oracle.residues(), f"{what}: residues")
    delivered, expected = (backend.flight().learning.delivered.tolist() for backend in (subject, oracle))
    assert delivered == expected, f"{what}: delivered"


def joined(batches: Any) -> SynapseBatch | None:
    """One batch; None where there is no synapse (an empty iterator has no dtype)."""
    parts = [batch for batch in batches if len(batch)]
    return SynapseBatch.concatenate(parts) if parts else None


def assert_equal(got: Any, expected: Any, what: str) -> None:
    if isinstance(expected, np.ndarray):
        assert_bits(got, expected, what)
    elif isinstance(expected, (BurstOutput, SynapseBatch)):
        for field in fields(expected):
            if field.compare:
                assert_equal(getattr(got, field.name), getattr(expected, field.name), f"{what}: {field.name}")
    elif isinstance(expected, tuple):
        for one, other in zip(got, expected, strict=True):
            assert_equal(one, other, what)
    else:
        assert got == expected, f"{what}: {got}, not {expected}"
