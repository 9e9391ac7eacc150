"""A burst in plain NumPy: the rule in a comment above each step."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_npu.arrays import F32, U32, U64, Flags, Indices, without
from gpu_npu.backends.base import BurstOutput, Phases
from gpu_npu.backends.reference.fired import FireStore, Queue
from gpu_npu.backends.reference.plasticity import Plasticity
from gpu_npu.backends.reference.staging import Staging, add_in_order
from gpu_npu.checks import settle
from gpu_npu.connectome import Connectome, NeuronArray
from gpu_npu.connectome.degeneration import fallen, falls
from gpu_npu.connectome.fields import POTENTIAL_OF_FORCED

ALWAYS_EXCITABLE = np.float32(0.999)
"""From this excitability on a neuron fires at threshold without a draw."""
UNLIMITED = (0, 65535)
"""Values of consecutive_fire_limit that mean: no limit."""
U16_MAX = 65535
LOW_32_BITS = 0xFFFFFFFF


@dataclass(frozen=True)
class Injected:
    """What the injection phase leaves. blocked: ids whose countdown was above 0 when the burst began. forced: ids to be forced.
    external: potential of every id. candidate: of every id, whether anything was injected. staged, powered: how often."""

    blocked: Indices
    forced: U32
    external: F32
    candidate: Flags
    staged: int
    powered: int


class Bursts:
    """The bursts of one network. power: the power neurons, ascending."""

    def __init__(self, staging: Staging, fired: FireStore, plasticity: Plasticity) -> None:
        self._staging, self._fired, self._plasticity = staging, fired, plasticity
        self.power: U32 = np.zeros(0, np.uint32)

    def one(self, network: Connectome, number: int, phases: Phases) -> BurstOutput:
        """Compute a burst."""
        fired = self._fired
        with phases.phase("injection", number), np.errstate(over="ignore", under="ignore"):
            self._staging.take_scheduled(number)
            injected = inject(network, self._staging, self.power, fired)
        with phases.phase("propagation", number), self._plasticity.held_back(network):
            sums, terms = propagate(network, fired, injected.candidate)
            candidates = candidate_potentials(network, injected, sums)
        degenerate(network, fired.queue()[0])
        with phases.phase("dynamics", number), np.errstate(over="ignore", under="ignore"):
            queue, stopped = step(network, number, candidates, injected)
        with phases.phase("archival", number):
            fired.note(number, queue, candidates)
            self._staging.clear()
            self._plasticity.act(network, number, queue[0])
        with phases.phase("transfer", number):
            counters = (injected.staged, injected.powered, terms, len(candidates[0]), stopped)
            return BurstOutput(queue[0].copy(), counters, time.perf_counter_ns())


def inject(network: Connectome, staging: Staging, power: U32, before: FireStore) -> Injected:
    """External potential, and what is forgotten before a burst; `before` is what the last one left."""
    neurons, valid = network.neurons, network.neurons.valid
    # Those whose countdown is above 0 when the burst begins; only the burst clock asks.
    blocked = np.flatnonzero(valid & (neurons.refractory_countdown > 0))
    (staged, amounts), forced = staging.staged()
    forced = forced[valid[forced]]

    # A neuron that keeps no charge and did not fire in the previous burst (forced counts as fired) starts from 0; under the
    # rule, only if it was a candidate then.
    forgets = valid & ~neurons.mp_charge_accumulation
    if network.settings.rules.reset == "candidates":
        were_candidates = np.zeros(len(valid), np.bool_)
        were_candidates[before.candidates[0]] = True
        forgets &= were_candidates
    forgets[before.queue()[0]] = False
    neurons.membrane_potential[forgets] = 0

    # External potential: the staged injections one at a time in order, ext = fl32(ext + p), settled each time.
    # An injection of 0 makes a candidate too.
    external, candidate = np.zeros(len(valid), np.float32), np.zeros(len(valid), np.bool_)
    staged, amounts = staged[valid[staged]], amounts[valid[staged]]
    add_in_order(external, staged, amounts)
    candidate[staged] = True

    # Then power_amount once for each power neuron.
    powered = power[valid[power]]
    external[powered] = settle(external[powered] + np.float32(network.settings.power_amount))
    candidate[powered] = True
    return Injected(blocked, forced, external, candidate, len(staged), len(powered))


def propagate(network: Connectome, fired: FireStore, candidate: Flags) -> tuple[U64, int]:
    """What arrives of the spikes under way: the sum of every id, and how many synapses delivered. Their targets become candidates."""
    synapses, valid, size = network.synapses, network.neurons.valid, network.neuron_capacity
    # Synapses that may carry: valid, and a spike of their source, which still exists, is under way. k, the valid
    # synapses leaving a source, counts those to targets that do not exist; they deliver nothing.
    sums: U64 = np.zeros(size, np.uint64)
    carries = np.zeros(size, np.bool_)
    for ids, _ in fired.queues.values():
        carries[ids] = True
    slots = np.flatnonzero((carries & valid)[synapses.source] & synapses.valid)
    k = np.bincount(synapses.source[slots], minlength=size).astype(np.uint64)
    slots = slots[valid[synapses.target[slots]]]

    # A synapse delivers in burst t iff its source fired in burst t - delay.
    terms, delay = 0, synapses.delay[slots]
    for bursts in np.unique(delay).tolist():
        queue = fired.queue(bursts)
        now = np.zeros(size, np.bool_)
        now[queue[0]] = True
        due = slots[(delay == bursts) & now[synapses.source[slots]]]
        deliver(network, queue, due, k, sums)
        candidate[synapses.target[due]] = True
        terms += len(due)
    return sums, terms


def deliver(network: Connectome, queue: Queue, slots: Indices, k: U64, sums: U64) -> None:
    """Add the terms of the synapses in these slots, whose sources are in this queue, to the sums. k: of every id."""
    synapses, arithmetic, size = network.synapses, network.arithmetic, network.neuron_capacity
    bits = np.uint64(arithmetic.bits)
    sources, potentials = queue
    source, target = synapses.source[slots], synapses.target[slots]

    # p: the synapse's psp, or the potential at which the source fired, clamped to 0..255 and, unless a rule says otherwise,
    # rounded half away from zero. (Below 256 adding a half is exact in float64 wherever it can matter.)
    driven = _sources_where(network, sources, [a for a, flags in network.areas.items() if flags.mp_driven_psp])
    delivered = np.zeros(size, np.float64)
    delivered[sources] = np.clip(potentials, 0, 255)
    if network.settings.rules.mp_driven_rounding:
        delivered[sources] = np.floor(delivered[sources] + 0.5)
    kind: Any = np.float32 if arithmetic.real else np.uint64
    p = np.where(driven[source], delivered[source].astype(kind), synapses.psp[slots].astype(kind))

    # m = weight * p, divided by k where psp is not uniform. Real terms: fl32 of each step, to the nearest 2^-32 (rint: ties to
    # even). Others: m * 2^F, or floor((m * 2^F + floor(k / 2)) / k).
    shared = _sources_where(network, sources, [a for a, flags in network.areas.items() if not flags.psp_uniform])[source]
    m: NDArray[Any] = synapses.weight[slots].astype(kind) * p
    if arithmetic.real:
        m = settle(m)
        m[shared] = settle(np.divide(m[shared], k[source[shared]], dtype=np.float32))
        m = np.rint(m.astype(np.float64) * 2.0**32).astype(np.uint64)
    else:
        m <<= bits
        m[shared] = (m[shared] + k[source[shared]] // np.uint64(2)) // k[source[shared]]

    # Exact sums. Unsigned arithmetic wraps, so adding the negative subtracts; the true sum fits 64 bits.
    np.add.at(sums, target, np.where(synapses.inhibitory[slots], np.negative(m), m))


def degenerate(network: Connectome, fired: U32) -> None:
    """The psps of neurons that fired fall, as their area says, once their spikes are delivered."""
    if any(flags.degeneration for flags in network.areas.values()):
        step, synapses = falls(fired, network.neurons.cortical_area, network.areas), network.synapses
        synapses.psp[:] = fallen(synapses.psp, step[synapses.source])


def candidate_potentials(network: Connectome, injected: Injected, sums: U64) -> tuple[U32, F32]:
    """The fire candidates, ascending, and I = fl32(ext + fl32(fl32(syn) * fl32(contribution_scale * 2^-F)))."""
    with np.errstate(over="ignore", under="ignore"):
        unit = network.settings.contribution_scale / 2.0**network.arithmetic.bits
        scale = settle(np.array([unit], np.float64).astype(np.float32))
        ids = np.flatnonzero(injected.candidate)
        synaptic = settle(sums[ids].view(np.int64).astype(np.float32) * scale)
        return ids.astype(np.uint32), settle(injected.external[ids] + synaptic)


def step(network: Connectome, number: int, candidates: tuple[U32, F32], injected: Injected) -> tuple[Queue, int]:
    """The neurons of a burst: who fires, and how many candidates were stopped in their refractory period."""
    neurons, settings = network.neurons, network.settings
    ids, inputs, rules = candidates[0].astype(np.intp), candidates[1], settings.rules
    # 1. A candidate in its refractory period is stopped, its input dropped. The candidate clock counts here.
    waits = neurons.refractory_countdown[ids] > 0
    stopped, j, i = ids[waits], ids[~waits], inputs[~waits]
    if rules.refractory_clock == "candidate":
        count_down(neurons, stopped)

    # 2. V = fl32(membrane_potential + I), between floor and ceiling. Rectified: no input below 0 where charge is kept.
    if rules.rectify_input:
        i = np.where(neurons.mp_charge_accumulation[j], np.maximum(i, np.float32(0)), i)
    v = settle(neurons.membrane_potential[j] + i)
    v = np.minimum(np.maximum(v, np.float32(rules.potential_floor)), np.float32(rules.potential_ceiling))

    # 3. Within the thresholds, a neuron that has fired its limit in a row only forgets its count, and keeps V
    #    without a leak; any other fires if its excitability lets it.
    reached = (neurons.threshold[j] <= v) & (v <= neurons.threshold_limit[j])
    sated = reached & at_limit(neurons, j)
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
    snooze = np.where(at_limit(neurons, fired), neurons.snooze_period[fired], 0).astype(np.uint32)
    neurons.refractory_countdown[fired] = np.minimum(neurons.refractory_period[fired] + snooze, U16_MAX)

    # 5. Not fired: a limited neuron's count starts again; the leak comes after the threshold test.
    silent = ~fires & ~sated
    quiet = j[silent]
    neurons.consecutive_fire_count[quiet[is_limited(neurons, quiet)]] = 0
    keeps = settle(np.float32(1) - neurons.leak_coefficient[quiet])
    neurons.membrane_potential[quiet] = settle(v[silent] * keeps)

    # Forced ids that did not fire by themselves join, state untouched.
    joined = without(injected.forced, fired)
    everyone = np.concatenate([fired.astype(np.uint32), joined])
    firing = np.concatenate([v[fires], np.full(len(joined), POTENTIAL_OF_FORCED)])
    order = np.argsort(everyone)

    # The burst clock: all that were blocked at the beginning count down, candidates or not, except the forced.
    if rules.refractory_clock == "burst":
        count_down(neurons, without(injected.blocked, injected.forced))
    return (everyone[order], firing[order]), len(stopped)


def is_limited(neurons: NeuronArray, ids: Indices) -> Flags:
    """Has a fire limit."""
    return ~np.isin(neurons.consecutive_fire_limit[ids], UNLIMITED)


def at_limit(neurons: NeuronArray, ids: Indices) -> Flags:
    """Has a fire limit and has fired that often in a row."""
    reached = neurons.consecutive_fire_count[ids] >= neurons.consecutive_fire_limit[ids]
    return np.asarray(is_limited(neurons, ids) & reached)


def count_down(neurons: NeuronArray, ids: Indices) -> None:
    """One burst of the refractory period is over; at its end a count that reached the limit starts again."""
    countdown = neurons.refractory_countdown
    countdown[ids] -= 1
    ended = ids[countdown[ids] == 0]
    neurons.consecutive_fire_count[ended[at_limit(neurons, ended)]] = 0


def _sources_where(network: Connectome, sources: U32, areas: list[int]) -> Flags:
    """For every id: is it one of these sources and in one of these areas."""
    flags = np.zeros(network.neuron_capacity, np.bool_)
    flags[sources] = np.isin(network.neurons.cortical_area[sources], np.array(areas, np.uint32))
    return flags


def excitability_draw(neurons: U32, burst: int, seed: int) -> F32:
    """r(j, burst) of the semantics, in [0, 1], float32; burst: its low 32 bits. All in uint32 with wrap-around."""
    s = neurons * np.uint32(2654435761)
    s += np.uint32((burst * 1597334677 + seed) & LOW_32_BITS)
    s = s * np.uint32(747796405) + np.uint32(2891336453)
    w = ((s >> ((s >> np.uint32(28)) + np.uint32(4))) ^ s) * np.uint32(277803737)
    h = (w >> np.uint32(22)) ^ w
    draw: F32 = h.astype(np.float32) / np.float32(2**32)
    return draw
