"""The semantics said once more, in plain Python: exact rationals, lists and loops, nothing shared with the package's arithmetic.

`ScalarModel` has the methods of the Backend contract that a script uses, so the same scripts hold the NumPy reference to
it. Numbers inside are `Fraction` (or float infinity for limits); NumPy appears at the border only. For tiny networks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from math import floor
from types import SimpleNamespace
from typing import Any

import numpy as np

from gpu_npu.backends.base import BurstOutput
from gpu_npu.backends.shape import NetworkShape
from gpu_npu.connectome import Area, Connectome, FeagiRule, PairRule, PlasticityRule, Settings, SynapseBatch, SynapseSource, WindowRule
from gpu_npu.connectome.fields import NEURON_FIELDS, STATE_FIELDS, SYNAPSE_FIELDS

SMALLEST = Fraction(1, 2**126)
LARGEST = Fraction((2**24 - 1) * 2**104)
WORD = 2**32


def fl32(x: Fraction | int) -> Fraction:
    """The float32 nearest to x (ties to even), then settled: tiny becomes 0, too large becomes the largest of its sign."""
    x = Fraction(x)
    if x == 0:
        return Fraction(0)
    exponent = 0
    while abs(x) >= Fraction(2) ** (exponent + 1):
        exponent += 1
    while abs(x) < Fraction(2) ** exponent:
        exponent -= 1
    unit = Fraction(2) ** (max(exponent, -126) - 23)
    y = round(x / unit) * unit
    if abs(y) < SMALLEST:
        return Fraction(0)
    return max(-LARGEST, min(LARGEST, y))


def exact(value: Any) -> Any:
    """A NumPy scalar as an exact Python number."""
    if isinstance(value, (np.floating, float)):
        return Fraction(float(value)) if np.isfinite(value) else float(value)
    return value.item() if isinstance(value, np.generic) else value


def half_away(x: Fraction) -> int:
    """Round a number that is not negative; halves go up."""
    return floor(x + Fraction(1, 2))


def draw(neuron: int, burst: int, seed: int) -> Fraction:
    """r(j, burst)"""
    x = (neuron * 2654435761 + burst * 1597334677 + seed) % WORD
    s = (x * 747796405 + 2891336453) % WORD
    w = (((s >> ((s >> 28) + 4)) ^ s) * 277803737) % WORD
    h = (w >> 22) ^ w
    return fl32(h) / WORD


@cache
def decay(bursts: int, tau: float) -> int:
    """exp(-bursts / tau) * 2^20 to the nearest integer, by the series of exp(bursts / tau) in units of 2^-200."""
    if bursts > 100 * tau:
        return 0
    x = Fraction(bursts) / Fraction(tau)
    total = term = 2**200
    k = 1
    while term:
        term = term * x.numerator // (x.denominator * k)
        total += term
        k += 1
    return floor(Fraction(2**220, total) + Fraction(1, 2))


def nearest(x: int, bits: int) -> int:
    """x / 2^bits to the nearest integer, halves up."""
    return floor(Fraction(x, 2**bits) + Fraction(1, 2))


def units(step: float) -> int:
    """Of 2^-16, to the nearest."""
    return floor(Fraction(step) * 2**16 + Fraction(1, 2))


class Neuron:
    """One attribute a field, by the names of NEURON_FIELDS; created and valid beside them."""

    def __init__(self) -> None:
        self.created = False
        self.valid = False
        self.values: dict[str, Any] = {
            name: [int(field.default)] * 3 if field.width == 3 else exact(field.dtype(field.default))
            for name, field in NEURON_FIELDS.items()
        }

    def __getattr__(self, name: str) -> Any:
        return self.__dict__["values"][name]

    def set(self, name: str, value: Any) -> None:
        self.values[name] = [int(v) for v in value] if NEURON_FIELDS[name].width == 3 else exact(value)

    @property
    def limited(self) -> bool:
        return self.values["consecutive_fire_limit"] not in (0, 65535)

    @property
    def at_limit(self) -> bool:
        return self.limited and bool(self.values["consecutive_fire_count"] >= self.values["consecutive_fire_limit"])

    def count_down(self) -> bool:
        """Says whether this cleared the count."""
        self.values["refractory_countdown"] -= 1
        ends = self.values["refractory_countdown"] == 0 and self.at_limit
        if ends:
            self.values["consecutive_fire_count"] = 0
        return ends


@dataclass
class Synapse:
    source: int
    target: int
    weight: Any
    psp: Any
    inhibitory: bool
    delay: int
    valid: bool = True
    residue: int = 0
    held: Any = None
    """The weight that the next burst delivers, where a FeagiRule has changed it since."""


class Learning:
    """A registered rule, and what it remembers of every neuron: its trace just after its last spike, and when that was."""

    def __init__(self, rule: PlasticityRule, since: int) -> None:
        self.rule, self.since = rule, since
        self.sources: dict[int, tuple[int, int]] = {}
        self.targets: dict[int, tuple[int, int]] = {}


class ScalarModel:
    """A network and its bursts; method names and meanings are those of `gpu_npu.backends.base.Backend`."""

    def load(self, connectome: Connectome, shape: NetworkShape, synapses: SynapseSource | None = None) -> ScalarModel:
        """The platform is the model itself."""
        self.neurons = [Neuron() for _ in range(shape.neuron_capacity)]
        for j in range(connectome.neuron_capacity):
            self.neurons[j].created = bool(connectome.neurons.created[j])
            self.neurons[j].valid = bool(connectome.neurons.valid[j])
            for name in NEURON_FIELDS:
                self.neurons[j].set(name, getattr(connectome.neurons, name)[j])
        s = connectome.synapses
        self.synapses = [
            Synapse(*(exact(getattr(s, name)[x]) for name in SYNAPSE_FIELDS), bool(s.valid[x]))
            for x in range(s.count)
        ]
        for batch in synapses or ():
            self.add_synapses(batch)
        self.weight_dtype, self.psp_dtype, self.delay_dtype = connectome.weight_dtype, connectome.psp_dtype, connectome.delay_dtype
        self.settings, self.areas, self.window = connectome.settings, dict(connectome.areas), shape.ledger_window
        self.power: list[int] = []
        self.rules: dict[int, Learning] = {}
        self.seen: Counter[str] = Counter()
        """How often each branch of the semantics was taken."""
        self._forget()
        return self

    def _forget(self) -> None:
        self.staged: list[tuple[int, Fraction]] = []
        self.forced: set[int] = set()
        self.fired: dict[int, Fraction] = {}
        self.queues: dict[int, dict[int, Fraction]] = {}
        """Burst -> who fired in it, at which potential; of all bursts."""
        self.fired_earlier: dict[int, Fraction] = {}
        self.list: dict[int, Fraction] = {}
        self.ledger: dict[int, list[int]] = {}
        self.history: dict[int, set[int]] = {}
        self.rules = {handle: Learning(learning.rule, 0) for handle, learning in self.rules.items()}
        self.release()

    def release(self) -> None:
        for s in self.synapses:
            self.seen["released"] += s.held is not None
            s.held = None

    def moves(self, *areas: int) -> None:
        """Neurons come from these areas, or go to them."""
        if any(area in (rule.rule.source_area, rule.rule.target_area) for rule in self.rules.values() for area in areas):
            self.release()

    def reserve(self, *, neuron_capacity: int, synapse_capacity: int, longest_delay: int = 1) -> None:
        if neuron_capacity > len(self.neurons):
            self.release()
        while len(self.neurons) < neuron_capacity:
            self.neurons.append(Neuron())

    def reset(self, state: Mapping[str, Any]) -> None:
        self.degenerate()
        for name in STATE_FIELDS:
            for neuron, value in zip(self.neurons, state[name], strict=True):
                neuron.set(name, value)
        self._forget()

    def degenerate(self) -> None:
        for s in self.synapses:
            area = self.areas.get(self.neurons[s.source].cortical_area, Area())
            if s.source in self.fired and area.degeneration:
                s.psp = max(Fraction(0), fl32(s.psp - exact(area.degeneration)))
                self.seen["psp fell"] += 1

    def compact(self) -> None:
        self.synapses = [s for s in self.synapses if s.valid]

    # -- a burst ---------------------------------------------------------------------------------------------------
    def inject(self, neurons: Any, potentials: Any) -> None:
        self.staged += [(int(j), exact(p)) for j, p in zip(neurons, potentials, strict=True)]

    inject_device = inject

    def force(self, neurons: Any) -> None:
        self.forced |= {int(j) for j in neurons}

    def set_power(self, neurons: Any) -> None:
        self.power = [int(j) for j in neurons]

    def burst(self, number: int) -> BurstOutput:
        rules, before = self.settings.rules, self.fired
        by_burst = rules.refractory_clock == "burst"
        blocked = {j for j, n in enumerate(self.neurons) if n.valid and n.refractory_countdown > 0}
        forced = sorted(j for j in self.forced if self.neurons[j].valid)
        sensory = power = terms = stopped = 0

        # Phase 1: injection.
        for j, n in enumerate(self.neurons):
            spared = rules.reset == "candidates" and j not in self.list
            if n.valid and not n.mp_charge_accumulation and j not in before:
                self.seen["spared by the reset"] += spared and n.membrane_potential != 0
            if n.valid and not n.mp_charge_accumulation and j not in before and not spared:
                self.seen["forgot"] += n.membrane_potential != 0
                n.values["membrane_potential"] = Fraction(0)
        ext: dict[int, Fraction] = {}
        syn: dict[int, int] = {}
        for j, p in self.staged:
            if self.neurons[j].valid:
                total = ext.get(j, Fraction(0)) + p
                ext[j] = fl32(total)
                self.seen["saturated"] += abs(total) > LARGEST
                self.seen["flushed"] += ext[j] == 0 and total != 0
                sensory += 1
        for j in self.power:
            if self.neurons[j].valid:
                ext[j] = fl32(ext.get(j, Fraction(0)) + exact(self.settings.power_amount))
                power += 1
        unrounded = not rules.mp_driven_rounding
        real = np.float32 in (self.weight_dtype, self.psp_dtype) or (unrounded and any(a.mp_driven_psp for a in self.areas.values()))
        bits = 32 if real or not all(area.psp_uniform for area in self.areas.values()) else 0
        leaving = Counter(s.source for s in self.synapses if s.valid)
        for s in self.synapses:
            queue = self.queues.get(number - s.delay, {})
            if s.valid and s.source in queue:
                if not self.neurons[s.source].valid:
                    self.seen["deleted under way"] += 1
                    continue
                area = self.areas.get(self.neurons[s.source].cortical_area, Area())
                potential, k = queue[s.source], leaving[s.source]
                self.seen["target absent"] += not self.neurons[s.target].valid
                if self.neurons[s.target].valid:
                    self.seen["late"] += s.delay > 1
                    self.seen["late, of a source that fired since"] += s.delay > 1 and s.source in before
                    self.seen["late and driven"] += s.delay > 1 and area.mp_driven_psp
                    self.seen["late and divided"] += s.delay > 1 and not area.psp_uniform
                    self.seen["driven"] += area.mp_driven_psp
                    self.seen["divided"] += not area.psp_uniform
                    self.seen["inhibited"] += s.inhibitory
                    self.seen["delivered from before"] += s.held is not None
                    weight = s.weight if s.held is None else s.held
                    clamped = min(max(potential, Fraction(0)), Fraction(255))
                    m = weight * (s.psp if not area.mp_driven_psp else clamped if unrounded else half_away(clamped))
                    if real:
                        real_term = fl32(m) if area.psp_uniform else fl32(fl32(m) / fl32(k))
                        term = round(real_term * 2**bits)  # ties to even
                        self.seen["real"] += 1
                        self.seen["real, rounded to 2^-32"] += term != real_term * 2**bits
                        self.seen["unrounded potential"] += area.mp_driven_psp and clamped != half_away(clamped)
                    else:
                        term = m * 2**bits if area.psp_uniform else (m * 2**bits + k // 2) // k
                    syn[s.target] = syn.get(s.target, 0) + (-term if s.inhibitory else term)
                    terms += 1
        self.degenerate()
        scale = fl32(exact(self.settings.contribution_scale) / 2**bits)
        candidates = {}
        for j in sorted(ext.keys() | syn.keys()):
            candidates[j] = fl32(ext.get(j, Fraction(0)) + fl32(fl32(syn.get(j, 0)) * scale))

        # Phase 2: dynamics.
        fired: dict[int, Fraction] = {}
        for j, i_ in candidates.items():
            n = self.neurons[j]
            if n.refractory_countdown > 0:
                stopped += 1
                self.seen["stopped"] += 1
                if not by_burst:
                    self.seen["count cleared"] += n.count_down()
                continue
            if rules.rectify_input and n.mp_charge_accumulation:
                self.seen["rectified"] += i_ < 0
                i_ = max(i_, Fraction(0))
            v = fl32(n.membrane_potential + i_)
            self.seen["floored"] += v < rules.potential_floor
            self.seen["ceiled"] += v > rules.potential_ceiling
            v = min(max(v, exact(rules.potential_floor)), exact(rules.potential_ceiling))
            self.seen["above the limit"] += v > n.threshold_limit
            if n.threshold <= v <= n.threshold_limit:
                if n.at_limit:
                    self.seen["sated"] += 1
                    n.values["consecutive_fire_count"] = 0
                    n.values["membrane_potential"] = v
                    continue
                e = n.excitability
                if e >= exact(np.float32(0.999)) or (e > 0 and draw(j, number % WORD, self.settings.random_seed) < e):
                    fired[j] = v
                    self.seen["fired"] += 1
                    self.seen["drew"] += e < exact(np.float32(0.999))
                    self.seen["count full"] += n.consecutive_fire_count == 65535
                    n.values["membrane_potential"] = Fraction(0)
                    n.values["consecutive_fire_count"] = min(n.consecutive_fire_count + 1, 65535)
                    n.values["refractory_countdown"] = min(n.refractory_period + (n.snooze_period if n.at_limit else 0), 65535)
                    self.seen["snoozed"] += n.at_limit and n.snooze_period > 0
                    self.seen["countdown full"] += n.refractory_countdown == 65535
                    continue
                self.seen["unlucky"] += 1
            if n.limited:
                self.seen["count broken"] += n.consecutive_fire_count > 0
                n.values["consecutive_fire_count"] = 0
            self.seen["leaked"] += v != 0 and n.leak_coefficient > 0
            n.values["membrane_potential"] = fl32(v * fl32(1 - n.leak_coefficient))

        # Forced firing, and the clock that ticks for all.
        for j in forced:
            self.seen["forced"] += j not in fired
            self.seen["forced anyway"] += j in fired
            self.seen["forced while blocked"] += j in blocked and by_burst
            fired.setdefault(j, Fraction(100))
        if by_burst:
            for j in blocked - set(forced):
                self.seen["ticked"] += 1
                self.seen["count cleared by the burst clock"] += self.neurons[j].count_down()

        # Phases 3 to 5.
        self.fired_earlier, self.fired = before, {j: fired[j] for j in sorted(fired)}
        self.queues[number] = self.fired
        self.ledger[number] = list(self.fired)
        self.ledger.pop(number - self.window, None)
        self.list, self.staged, self.forced = candidates, [], set()
        self.history[number] = set(self.fired)
        self.learn(number)
        return BurstOutput(np.array(list(self.fired), np.uint32), (sensory, power, terms, len(candidates), stopped))

    # -- plasticity ------------------------------------------------------------------------------------------------
    def add_rule(self, handle: int, rule: PlasticityRule, since: int) -> None:
        self.release()
        self.rules[handle] = Learning(rule, since)

    def remove_rule(self, handle: int) -> None:
        self.release()
        del self.rules[handle]

    def of_mapping(self, rule: PlasticityRule) -> list[Synapse]:
        def area(j: int) -> int:
            return int(self.neurons[j].cortical_area)

        return [s for s in self.synapses if s.valid and (area(s.source), area(s.target)) == (rule.source_area, rule.target_area)]

    def learn(self, burst: int) -> None:
        rules = [learning.rule for learning in self.rules.values()]
        kept = {id(s) for rule in rules if isinstance(rule, PairRule) for s in self.of_mapping(rule)}
        for s in self.synapses:
            if id(s) not in kept:
                self.seen["residue lost"] += s.valid and s.residue != 0
                s.residue = 0
        for s in self.synapses:
            s.held = None
        for learning in self.rules.values():
            for s in self.of_mapping(learning.rule):
                self.seen["synapse of a deleted neuron"] += not (self.neurons[s.source].valid and self.neurons[s.target].valid)
            if isinstance(learning.rule, WindowRule):
                self.learn_by_window(learning.rule, learning.since, burst)
            elif isinstance(learning.rule, FeagiRule):
                self.learn_as_feagi(learning.rule, learning.since, burst)
            elif isinstance(learning.rule, PairRule):
                self.learn_by_pairs(learning.rule, learning, burst)

    def learn_by_window(self, rule: WindowRule, since: int, burst: int) -> None:
        if burst < rule.window:
            return
        window = [self.history.get(t, set()) if t > since else set() for t in range(burst - rule.window + 1, burst + 1)]
        top = 255 if self.weight_dtype is np.uint8 else 65535
        for s in self.of_mapping(rule):
            fired = [(s.source in t, s.target in t) for t in window]
            if not any(a or b for a, b in fired):
                continue
            up = all(a and b for a, b in fired)
            wanted = s.weight + rule.plus if up else s.weight - rule.minus
            s.weight = min(max(wanted, 0), top)
            self.seen["window up" if up else "window down"] += 1
            self.seen["window up through several bursts"] += up and rule.window > 1
            self.seen["window cut"] += s.weight != wanted

    def learn_as_feagi(self, rule: FeagiRule, since: int, burst: int) -> None:
        if burst < rule.window:
            return
        fired = set().union(*(self.history.get(t, set()) for t in range(max(burst - rule.window, since) + 1, burst + 1)))
        tops = [exact(rule.max_weight)] if rule.max_weight is not None else []
        top = min(tops + [int(np.iinfo(self.weight_dtype).max)] if self.weight_dtype is not np.float32 else tops, default=0)
        for s in self.of_mapping(rule):
            ends = (s.source in fired) + (s.target in fired)
            if not ends:
                continue
            wanted = fl32(s.weight + exact(rule.up)) if ends == 2 else fl32(s.weight - exact(rule.down))
            after = min(wanted, top) if ends == 2 else max(wanted, Fraction(0))
            self.seen["feagi up" if ends == 2 else "feagi down"] += 1
            self.seen["feagi up, in bursts of their own"] += ends == 2 and not {s.source, s.target} <= self.history[burst]
            self.seen["feagi cut"] += after != wanted
            self.seen["feagi down to the largest"] += ends == 2 and after < s.weight
            if after != s.weight:
                s.held, s.weight = s.weight, after

    def learn_by_pairs(self, rule: PairRule, learning: Learning, burst: int) -> None:
        fired = self.history[burst]

        def trace(of: dict[int, tuple[int, int]], j: int, tau: float) -> int:
            value, when = of.get(j, (0, 0))
            return nearest(value * decay(burst - when, tau), 20)

        for s in self.of_mapping(rule):
            self.seen["pair in one burst"] += s.source in fired and s.target in fired
            if s.source in fired:
                self.step(s, rule, nearest(units(rule.a_minus) * trace(learning.targets, s.target, rule.tau_minus), 20), -1)
            if s.target in fired:
                self.step(s, rule, nearest(units(rule.a_plus) * trace(learning.sources, s.source, rule.tau_plus), 20), 1)
        for of, tau in ((learning.sources, rule.tau_plus), (learning.targets, rule.tau_minus)):
            for j in fired:
                before = trace(of, j, tau) if rule.pairing == "all" else 0
                self.seen["trace of several spikes"] += before > 0
                of[j] = before + 2**20, burst

    def step(self, s: Synapse, rule: PairRule, amount: int, sign: int) -> None:
        most = 255 if self.weight_dtype is np.uint8 else 65535
        low, high = rule.w_min * 2**16, (most if rule.w_max is None else rule.w_max) * 2**16
        effective = s.weight * 2**16 + s.residue
        room = max(0, high - effective if sign > 0 else effective - low)
        if rule.bounds == "multiplicative":
            amount = floor(Fraction(min(amount, high - low) * room, high - low) + Fraction(1, 2))
        self.seen["outside the bounds"] += not low <= effective <= high
        self.seen["cut at a bound"] += 0 < room < amount
        effective += sign * min(amount, room)
        before = s.weight
        s.weight = nearest(effective, 16)
        s.residue = effective - s.weight * 2**16
        change = "potentiated" if sign > 0 else "depressed"
        self.seen[f"{change}, {rule.bounds}, {rule.pairing}"] += min(amount, room) > 0
        self.seen["pair moved a weight"] += s.weight != before
        self.seen["pair moved a residue alone"] += s.weight == before and amount > 0 and room > 0

    def flight(self) -> Any:
        """Of it, what is held back."""
        valid = sorted((s for s in self.synapses if s.valid), key=lambda s: (s.source, s.target))
        delivered = np.array([float(s.weight if s.held is None else s.held) for s in valid]).astype(self.weight_dtype)
        held = any(s.held not in (None, s.weight) for s in valid)
        return SimpleNamespace(learning=SimpleNamespace(delivered=delivered if held else delivered[:0]))

    def residues(self) -> Any:
        valid = sorted((s for s in self.synapses if s.valid), key=lambda s: (s.source, s.target))
        return np.array([s.residue for s in valid], np.int16)

    # -- changes ---------------------------------------------------------------------------------------------------
    def set_settings(self, settings: Settings) -> None:
        self.settings = settings

    def set_area(self, area: int, flags: Area) -> None:
        self.areas[area] = flags

    def add_neurons(self, neurons: Any, columns: Mapping[str, Any]) -> None:
        if len(neurons):
            self.moves(*(self.neurons[j].cortical_area for j in neurons), *columns["cortical_area"].tolist())
        for x, j in enumerate(neurons):
            self.neurons[j].created = self.neurons[j].valid = True
            for name, values in columns.items():
                self.neurons[j].set(name, values[x])

    def delete_neurons(self, neurons: Any) -> Any:
        answers = [self.neurons[j].valid for j in neurons]
        for j in neurons:
            self.neurons[j].valid = False
        return np.array(answers, bool)

    def write(self, field: str, neurons: Any, values: Any) -> None:
        if field == "cortical_area" and len(neurons):
            self.moves(*(self.neurons[j].cortical_area for j in neurons), *values.tolist())
        for j, value in zip(neurons, values, strict=True):
            self.neurons[j].set(field, value)

    def write_area(self, field: str, area: int, value: Any) -> int:
        if field == "cortical_area":
            self.moves(area, int(value[0]))
        members = [n for n in self.neurons if n.valid and n.cortical_area == area]
        for n in members:
            n.set(field, value[0])
        return len(members)

    def read(self, field: str) -> Any:
        if field in ("valid", "created"):
            return np.array([getattr(n, field) for n in self.neurons], bool)
        spec = NEURON_FIELDS[field]
        shape = (-1, 3) if spec.width == 3 else (-1,)
        values = [n.values[field] for n in self.neurons]
        return np.array([float(v) if isinstance(v, Fraction) else v for v in values], spec.dtype).reshape(shape)

    def add_synapses(self, batch: SynapseBatch) -> None:
        for x in range(len(batch)):
            self.synapses.append(Synapse(*(exact(column[x]) for column in batch.columns())))

    def _oldest(self, source: int, target: int) -> Synapse | None:
        return next((s for s in self.synapses if s.valid and s.source == source and s.target == target), None)

    def remove_synapses(self, source: Any, target: Any) -> Any:
        answers = []
        for i, j in zip(source, target, strict=True):
            found = self._oldest(i, j)
            self.seen["removed" if found else "nothing to remove"] += 1
            if found:
                found.valid = False
            answers.append(found is not None)
        return np.array(answers, bool)

    def reweight_synapses(self, source: Any, target: Any, weight: Any) -> Any:
        answers = []
        for i, j, w in zip(source, target, weight, strict=True):
            found = self._oldest(i, j)
            self.seen["reweighted" if found else "nothing to reweight"] += 1
            if found:
                self.seen["residue reset"] += found.residue != 0
                self.seen["reweighted what was held back"] += found.held is not None
                found.weight, found.residue, found.held = exact(w), 0, None
            answers.append(found is not None)
        return np.array(answers, bool)

    def set_delays(self, source: Any, target: Any, delay: Any) -> Any:
        answers = []
        for i, j, d in zip(source, target, delay, strict=True):
            found = self._oldest(i, j)
            if found:
                self.seen["delay shorter" if d < found.delay else "delay longer" if d > found.delay else "delay the same"] += 1
                found.delay = int(d)
            answers.append(found is not None)
        return np.array(answers, bool)

    # -- looking ---------------------------------------------------------------------------------------------------
    def _batch(self, chosen: list[Synapse]) -> SynapseBatch:
        chosen = sorted(chosen, key=lambda s: (s.source, s.target))  # stable: the list is in order of age
        return SynapseBatch(
            np.array([s.source for s in chosen], np.uint32),
            np.array([s.target for s in chosen], np.uint32),
            np.array([float(s.weight) for s in chosen]).astype(self.weight_dtype),
            np.array([float(s.psp) for s in chosen]).astype(self.psp_dtype),
            np.array([s.inhibitory for s in chosen], bool),
            np.array([s.delay for s in chosen], self.delay_dtype),
        )

    def synapses_from(self, sources: Any = None) -> Iterator[SynapseBatch]:
        wanted = range(len(self.neurons)) if sources is None else {int(i) for i in sources}
        yield self._batch([s for s in self.synapses if s.valid and s.source in wanted])

    def synapses_to(self, targets: Any) -> SynapseBatch:
        wanted = {int(j) for j in targets}
        return self._batch([s for s in self.synapses if s.valid and s.target in wanted])

    @property
    def synapse_count(self) -> int:
        return sum(s.valid for s in self.synapses)

    @staticmethod
    def _queue(values: dict[int, Fraction]) -> tuple[Any, Any]:
        return np.array(list(values), np.uint32), np.array([float(v) for v in values.values()], np.float32)

    def fire_queue(self, *, previous: bool = False) -> tuple[Any, Any]:
        return self._queue(self.fired_earlier if previous else self.fired)

    def fired_on_device(self) -> Any:
        return self.fire_queue()[0]

    def candidates(self) -> tuple[Any, Any]:
        return self._queue(self.list)

    def fired_in(self, burst: int) -> Any:
        return np.array(self.ledger[burst], np.uint32)

    def close(self) -> None:
        """Nothing to give back."""


