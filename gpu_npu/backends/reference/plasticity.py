"""Plasticity of the reference backend: plain NumPy over all synapses of a mapping, written from docs/plasticity.md."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from gpu_npu.arrays import I64, U32, Counts, Flags, Indices
from gpu_npu.backends.flight import RUN_MAX, Learning
from gpu_npu.checks import settle
from gpu_npu.connectome import Connectome, CustomRule, FeagiRule, PairRule, PlasticityRule, WindowRule
from gpu_npu.connectome.fields import largest_count
from gpu_npu.connectome.plasticity import RESIDUE_BITS, TRACE_BITS, decay_table

ONE = 1 << TRACE_BITS
"""The trace of one spike of now."""
HALF = 1 << (RESIDUE_BITS - 1)
"""Half a unit of weight."""


class Plasticity:
    """The rules in their order, and what they remember: of neurons, of synapses by slot."""

    def __init__(self) -> None:
        self._rules: dict[int, tuple[PlasticityRule, int]] = {}
        self._residue: I64 = np.zeros(0, np.int64)
        self._held: dict[int, int | float] = {}
        """Slot -> the weight that the next burst delivers, where a FeagiRule has changed it since."""
        self.forget()

    def forget(self) -> None:
        """As before the first burst. Rules and residues stay."""
        self._last: I64 = np.zeros(0, np.int64)
        """The last burst in which a neuron fired; 0: none."""
        self._run: I64 = np.zeros(0, np.int64)
        """The bursts in a row, up to that one, in which it fired."""
        self._traces: dict[int, tuple[I64, I64]] = {}
        """Handle of a pair rule -> traces of all neurons as sources and as targets, as they were at their last spikes."""
        self._rules = {handle: (rule, 0) for handle, (rule, _) in self._rules.items()}
        self.release()

    def add(self, handle: int, rule: PlasticityRule, silent_until: int) -> None:
        """Let a rule act, after those there are; bursts up to `silent_until` are silent for it."""
        self.release()
        self._rules[handle] = rule, silent_until

    def remove(self, handle: int) -> None:
        """The rule acts no more, and what it remembers is forgotten; residues stay."""
        self.release()
        del self._rules[handle]
        self._traces.pop(handle, None)

    # -- out and in, for a run that goes on elsewhere ----------------------------------------------------------------
    def learning(self, burst: int, size: int, residues: NDArray[np.int16], delivered: Counts) -> Learning:
        """After this burst, of so many ids."""
        residues = residues if residues.any() else residues[:0]
        if not self._rules:
            return Learning(residues=residues)
        silent_until = {handle: silent for handle, (_, silent) in self._rules.items()}
        last, run, first = _padded(self._last, size), _padded(self._run, size), min(silent_until.values())
        last[last <= first] = 0
        run = np.where((last > 0) & (last == burst), np.minimum(run, min(burst - first, RUN_MAX)), 0)
        none = np.zeros(0, np.int64)
        traces = {}
        for handle in (handle for handle, (rule, _) in self._rules.items() if isinstance(rule, PairRule)):
            x, y = self._traces.get(handle, (none, none))
            traces[handle] = _padded(x, size).astype(np.uint32), _padded(y, size).astype(np.uint32)
        return Learning(silent_until, last, run.astype(np.uint16), traces, residues, delivered)

    def resume(self, learning: Learning, slots: Indices) -> None:
        """slots: of the synapses in the order of the residues. The rules are there already."""
        self._last, self._run = learning.last_fired.copy(), learning.run.astype(np.int64)
        self._traces = {handle: (x.astype(np.int64), y.astype(np.int64)) for handle, (x, y) in learning.traces.items()}
        self._residue = np.zeros(len(slots), np.int64)
        if len(learning.residues):
            self._residue[slots] = learning.residues

    def resume_held(self, weight: Counts, slots: Indices, delivered: Counts) -> None:
        """What the next burst delivers, of the synapses in these slots where it is not their weight."""
        if len(delivered):
            held = np.flatnonzero(weight[slots] != delivered)
            self._held = dict(zip(slots[held].tolist(), delivered[held].tolist(), strict=True))

    # -- what FeagiRules hold back ------------------------------------------------------------------------------------
    def release(self) -> None:
        """The next burst delivers the weights as they are."""
        self._held = {}

    def edit_weights(self, slots: Indices) -> None:
        """It does for the synapses in these slots."""
        for slot in slots.tolist():
            self._held.pop(slot, None)

    def edit_areas(self, network: Connectome, areas: U32, neurons: U32 | None = None) -> None:
        """Neurons go into `areas`, or all of one area into another: where a rule names an area that neurons come from or go
        to, it does for all."""
        named = [area for rule, _ in self._rules.values() for area in (rule.source_area, rule.target_area)]
        before = areas if neurons is None else network.neurons.cortical_area[neurons]
        if np.isin(areas, named).any() or np.isin(before, named).any():
            self.release()

    def delivered(self, weight: Counts, slots: Indices) -> Counts:
        """What the next burst delivers, of the synapses in these slots; empty where nothing is held back."""
        before = self._before(weight)[slots]
        return before if (before != weight[slots]).any() else before[:0]

    @contextmanager
    def held_back(self, network: Connectome) -> Iterator[None]:
        """Inside, weights are those from before the last burst's changes."""
        slots, weight = list(self._held), network.synapses.weight
        now = weight[slots]
        weight[slots] = list(self._held.values())
        try:
            yield
        finally:
            weight[slots] = now

    def _before(self, weight: Counts) -> Counts:
        before = weight.copy()
        before[list(self._held)] = list(self._held.values())
        return before

    # -- residues, which follow their synapses ---------------------------------------------------------------------
    def residue(self, slots: Indices) -> NDArray[np.int16]:
        """Of the synapses in these slots, in units of 2**-16 of a weight."""
        self._residue = _padded(self._residue, int(slots.max(initial=-1)) + 1)
        return self._residue[slots].astype(np.int16)

    def clear_residue(self, slots: Indices) -> None:
        """Make it 0, as for new synapses."""
        self._residue = _padded(self._residue, int(slots.max(initial=-1)) + 1)
        self._residue[slots] = 0

    def compact(self, kept: Flags) -> None:
        """Only these slots remain, in their order."""
        self._residue = _padded(self._residue, len(kept))[: len(kept)][kept]
        place = np.cumsum(kept) - 1
        self._held = {int(place[slot]): weight for slot, weight in self._held.items() if kept[slot]}

    # -- the end of a burst ----------------------------------------------------------------------------------------
    def act(self, network: Connectome, burst: int, fired: NDArray[np.uint32]) -> None:
        """Every rule in turn, on what the one before left."""
        size = network.neuron_capacity
        self._last, self._run = _padded(self._last, size), _padded(self._run, size)
        before = self._last.copy()
        self._run[fired] = np.where(before[fired] == burst - 1, self._run[fired] + 1, 1)
        self._last[fired] = burst
        now = self._last == burst
        slots_of = {handle: _mapping(network, rule) for handle, (rule, _) in self._rules.items()}

        # A synapse that no pair rule acts on has no residue.
        self._residue = _padded(self._residue, network.synapses.count)
        loses = np.ones(len(self._residue), np.bool_)
        for handle, (rule, _) in self._rules.items():
            if isinstance(rule, PairRule):
                loses[slots_of[handle]] = False
        self._residue[loses] = 0

        self.release()
        for handle, (rule, silent_until) in self._rules.items():
            slots = slots_of[handle]
            if isinstance(rule, FeagiRule):
                self._feagi(network, rule, silent_until, slots, burst)
            elif isinstance(rule, WindowRule):
                self._window(network, rule, silent_until, slots, burst)
            elif isinstance(rule, PairRule):
                self._pair(network, rule, handle, slots, burst - before, now)
            elif isinstance(rule, CustomRule):
                synapses = network.synapses
                new = rule.apply(burst, slots, synapses.weight[slots], now[synapses.source[slots]], now[synapses.target[slots]])
                synapses.weight[slots] = np.clip(new, 0, np.iinfo(synapses.weight.dtype).max)

    def _window(self, network: Connectome, rule: WindowRule, silent_until: int, slots: Indices, burst: int) -> None:
        if burst < rule.window:
            return
        # Bursts up to `silent_until` count as silent.
        in_any = self._last > max(burst - rule.window, silent_until)
        in_all = (self._last == burst) & (np.minimum(self._run, burst - silent_until) >= rule.window)
        synapses = network.synapses
        source, target, weight = synapses.source[slots], synapses.target[slots], synapses.weight[slots].astype(np.int64)
        together = in_all[source] & in_all[target]
        apart = (in_any[source] | in_any[target]) & ~together
        weight[together] += rule.plus
        weight[apart] -= rule.minus
        synapses.weight[slots] = np.clip(weight, 0, np.iinfo(synapses.weight.dtype).max)

    def _feagi(self, network: Connectome, rule: FeagiRule, silent_until: int, slots: Indices, burst: int) -> None:
        if burst < rule.window:
            return
        in_any = self._last > max(burst - rule.window, silent_until)
        synapses = network.synapses
        before = synapses.weight[slots]
        source, target, weight = in_any[synapses.source[slots]], in_any[synapses.target[slots]], before.astype(np.float32)
        top = np.float32(rule.top(largest_count(network.weight_dtype)))
        with np.errstate(over="ignore"):
            up = np.minimum(settle(weight + np.float32(rule.up)), top)
            down = np.maximum(settle(weight - np.float32(rule.down)), np.float32(0))
        synapses.weight[slots] = np.where(source & target, up, np.where(source | target, down, weight))
        changed = synapses.weight[slots] != before
        self._held |= dict(zip(slots[changed].tolist(), before[changed].tolist(), strict=True))

    def _pair(self, network: Connectome, rule: PairRule, handle: int, slots: Indices, lag: I64, now: Flags) -> None:
        """lag: bursts since the last spike of each neuron before this burst."""
        none = np.zeros(0, np.int64)
        kept = self._traces.get(handle, (none, none))
        of_source, of_target = (
            _decayed(_padded(trace, len(lag)), lag, tau) for trace, tau in zip(kept, (rule.tau_plus, rule.tau_minus), strict=True)
        )
        # Depression where the source fired, by the target's earlier spikes; then potentiation where the target fired.
        synapses = network.synapses
        here = slots[now[synapses.source[slots]]]
        self._step(network, rule, here, _amount(rule.minus, of_target[synapses.target[here]]), up=False)
        here = slots[now[synapses.target[slots]]]
        self._step(network, rule, here, _amount(rule.plus, of_source[synapses.source[here]]), up=True)

        # The spikes of this burst come into the traces after all that.
        traces = [_padded(trace, len(lag)) for trace in kept]
        for trace, decayed in zip(traces, (of_source, of_target), strict=True):
            trace[now] = ONE if rule.pairing == "nearest" else decayed[now] + ONE
        self._traces[handle] = traces[0], traces[1]

    def _step(self, network: Connectome, rule: PairRule, slots: Indices, amount: I64, *, up: bool) -> None:
        """Move effective weights, in units of 2**-16, by these amounts and no farther than the bound."""
        weight = network.synapses.weight
        largest = int(np.iinfo(weight.dtype).max)
        low, high = rule.w_min << RESIDUE_BITS, rule.top(largest) << RESIDUE_BITS
        effective = (weight[slots].astype(np.int64) << RESIDUE_BITS) + self._residue[slots]
        room = np.maximum(high - effective if up else effective - low, 0)
        if rule.bounds == "multiplicative":
            whole = np.uint64(high - low)
            product = np.minimum(amount, high - low).astype(np.uint64) * room.astype(np.uint64)
            amount = ((product + whole // np.uint64(2)) // whole).astype(np.int64)
        step = np.minimum(amount, room)
        effective += step if up else -step
        new = (effective + HALF) >> RESIDUE_BITS
        weight[slots] = new
        self._residue[slots] = effective - (new << RESIDUE_BITS)


def _mapping(network: Connectome, rule: PlasticityRule) -> Indices:
    """Slots of the valid synapses from one area to the other."""
    synapses, areas = network.synapses, network.neurons.cortical_area
    inside = (areas[synapses.source] == rule.source_area) & (areas[synapses.target] == rule.target_area)
    return np.flatnonzero(synapses.valid & inside)


def _decayed(trace: I64, lag: I64, tau: float) -> I64:
    """trace * d[lag], rounded to the nearest integer, halves up; 0 beyond the table."""
    table = decay_table(tau).astype(np.int64)
    decay = np.where(lag < len(table), table[np.minimum(lag, len(table) - 1)], 0)
    return (trace * decay + ONE // 2) >> TRACE_BITS


def _amount(step: int, trace: I64) -> I64:
    """step * trace, in units of 2**-16 of a weight, rounded to the nearest integer, halves up."""
    return (step * trace + ONE // 2) >> TRACE_BITS


def _padded(array: I64, length: int) -> I64:
    """A copy, with zeros at its end where it is shorter than this."""
    more: I64 = np.zeros(max(0, length - len(array)), np.int64)
    return np.concatenate([array, more])
