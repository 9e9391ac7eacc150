// rules.cuh -- what plasticity rules do to one synapse: windows that it owes to, traces, steps. The formulas are on the page
// plasticity.md.
//
// A window rule takes `minus` from a synapse in each burst in which either end is inside the window. While the source is
// silent that adds up to one subtraction, which the synapse owes until it is visited. Up to where it has paid is kept in
// 16 bits, its column:
//   while the source is inside the window every burst counts: the burst up to which it has paid;
//   afterwards those count in which the target is inside: how many of these the target had seen by then.
// Sums of subtractions that stop at 0 do not depend on their order, so rules may owe side by side.
//
// Bursts are counted from clock_start: t = 1, 2, ...
#pragma once
#include "rows.cuh"
#include "burst_view.cuh"
#include "physics.cuh"

#define ONE_SPIKE (1u << TRACE_BITS)
#define HALF_WEIGHT (1u << (RESIDUE_BITS - 1))

// A neuron as the rules look at it in burst t.
struct End {
    u32 id, last, before, seen, area;
};
__device__ __forceinline__ End end_of(const State& s, u32 id) {
    const Spikes& spikes = s.spikes[id];
    return {id, spikes.last, spikes.before, spikes.seen, spikes.area};
}

// Is a neuron that last fired in `last` (not after t) inside the window that ends with burst t?
__device__ __forceinline__ bool inside(const Window& w, u32 last, u32 t) { return last > w.since && t - last < w.window; }

// In how many bursts from w.acts to t a neuron was inside, given that `last` was its last spike, or t the burst before
// that one, and `seen` how many these were up to `last`.
__device__ __forceinline__ u32 seen_until(const Window& w, u32 last, u32 seen, u32 t) {
    if (last <= w.since) return 0;
    if (t < last) return seen - (last >= w.acts);
    u32 end = t - last < w.window ? t : last + w.window - 1, begin = last < w.acts ? w.acts - 1 : last;
    return end > begin ? seen + (end - begin) : seen;
}
__device__ __forceinline__ u32 seen_until(const State& s, u32 kind, const End& e, u32 t) {
    return seen_until(s.windows[kind], e.last, kind ? s.more_seen[(u64)(kind - 1) * s.neurons + e.id] : e.seen, t);
}

// How many times the synapse owes `minus`, up to burst t.
__device__ __forceinline__ u32 owed(const State& s, u32 kind, const End& source, const End& target, u16 paid, u32 t) {
    const Window& w = s.windows[kind];
    u32 last = source.last <= t ? source.last : source.before;
    if (!inside(w, last, t)) return (u16)(seen_until(s, kind, target, t) - paid);
    u32 from = max(t - (u16)(t - paid), w.acts - 1);
    return t > from ? t - from : 0;
}

// What the column of a synapse says that has paid up to burst t.
__device__ __forceinline__ u16 paid_until(const State& s, u32 kind, const End& source, const End& target, u32 t) {
    return (u16)(inside(s.windows[kind], source.last, t) ? t : seen_until(s, kind, target, t));
}

__device__ __forceinline__ u32 less(u32 weight, u32 by) { return weight > by ? weight - by : 0; }

// A trace decayed over so many bursts.
__device__ __forceinline__ u32 decayed(const State& s, const Trace& kind, u32 trace, u32 bursts) {
    if (bursts >= kind.length) return 0;
    return (u32)(((u64)trace * s.decays[kind.decay + bursts] + ONE_SPIKE / 2) >> TRACE_BITS);
}

// The trace in burst t of the spikes before it.
__device__ __forceinline__ u32 trace_of(const State& s, u32 kind, const End& e, u32 t) {
    const Trace& k = s.trace_kinds[kind];
    u32 earlier = e.last == t ? e.before : e.last;
    if (earlier <= k.since || t - earlier >= k.length) return 0;
    if (!k.all) return decayed(s, k, ONE_SPIKE, t - earlier);
    u32 trace = s.traces[(u64)(k.all - 1) * s.neurons + e.id];
    return e.last == t ? trace - ONE_SPIKE : decayed(s, k, trace, t - earlier);  // the spike of this burst is in it already
}

// An effective weight after a step up or down by step * trace. It is in units of 2^-16 and half a weight more than it is,
// as are the bounds: so it fits 32 bits, and its upper half is the nearest integer weight.
__device__ __forceinline__ u32 stepped(const Rule& r, u32 weight, u32 step, u32 trace, bool up) {
    u64 amount = ((u64)step * trace + ONE_SPIKE / 2) >> TRACE_BITS;
    if (up ? weight >= r.high : weight <= r.low) return weight;
    u32 room = up ? r.high - weight : weight - r.low;
    if (r.multiplicative) {
        u64 whole = r.high - r.low;
        amount = (min(amount, whole) * room + whole / 2) / whole;
    }
    u32 by = amount < room ? (u32)amount : room;
    return up ? weight + by : weight - by;
}

__device__ __forceinline__ u16& column_of(const Slots& slots, u32 column, u32 slot) { return slots.column[(u64)column * slots.capacity + slot]; }

// The rules of a pair of areas: an entry of pairs[], 0 where there is none.
struct Rules {
    const Rule *first, *last;
};
__device__ __forceinline__ Rules rules_at(const State& s, u32 entry) { return {s.rules + (entry >> 8), s.rules + (entry >> 8) + (entry & 255)}; }

// All that burst t does to one synapse, and what it owes from earlier ones. Rules with the same window share a column, so
// none is written before all have read.
__device__ __forceinline__ void visit_synapse(const State& s, u32 t, const End& source, const End& target, u32 entry, const Slots& slots, u32 slot) {
    const u32 old = small_at(slots.weight, s.weight_bytes, slot), largest = s.weight_bytes == 1 ? 255 : 65535;
    const Rules rules = rules_at(s, entry);
    u32 weight = old;
    for (const Rule* r = rules.first; r < rules.last; ++r)
        if (!r->pair) weight = less(weight, r->minus * owed(s, r->window, source, target, column_of(slots, r->column, slot), t - 1));
    for (const Rule* r = rules.first; r < rules.last; ++r) {
        if (!r->pair) {
            const Window& w = s.windows[r->window];
            if (t >= w.acts && (inside(w, source.last, t) || inside(w, target.last, t))) {
                bool both = source.last == t && target.last == t && t - w.since >= w.window;
                both = both && s.runs[source.id] >= w.window && s.runs[target.id] >= w.window;
                weight = both ? min(weight + r->plus, largest) : less(weight, r->minus);
            }
            column_of(slots, r->column, slot) = paid_until(s, r->window, source, target, t);
        } else {
            const u32 down = source.last == t ? trace_of(s, r->target_trace, target, t) : 0;
            const u32 up = target.last == t ? trace_of(s, r->source_trace, source, t) : 0;
            if (!(down | up)) continue;
            u16& residue = column_of(slots, r->column, slot);
            u32 effective = (weight << RESIDUE_BITS) + (u16)(residue + HALF_WEIGHT);
            effective = stepped(*r, effective, r->minus, down, false);
            effective = stepped(*r, effective, r->plus, up, true);
            weight = effective >> RESIDUE_BITS;
            residue = (u16)(effective - HALF_WEIGHT);
        }
    }
    if (weight != old) set_small(slots.weight, s.weight_bytes, slot, weight);
}

// -- FeagiRule ----------------------------------------------------------------------------------------------------------
// A burst changes a synapse when either end is inside the window: up when both are, else down. What burst t does is held
// back until burst t + 1 has delivered. So a visit in burst t brings a weight to where it stood after t - 1, and no further;
// whoever lists weights sees one step more. Where the source is outside, all steps are down, and how many there are says
// the target's `seen`, as for window rules. Where it is inside, the target's history says which are up; a row is visited
// every RECALL_PERIOD bursts then, so that 64 bits of it are enough.

// The last burst up to t in which a neuron fired, 0: none. t is fewer than 64 bursts before its last one.
__device__ __forceinline__ u32 fired_until(const State& s, const End& e, u32 t) {
    if (e.last <= t) return e.last;
    const u64 bits = s.history[e.id] >> (e.last - t);
    return bits ? t - ((u32)__ffsll((i64)bits) - 1) : s.older[e.id];
}

// A weight as it lies in a row, as a number, and back.
__device__ __forceinline__ float real_weight(const State& s, u32 value) { return s.weight_bytes == 4 ? __uint_as_float(value) : (float)value; }
__device__ __forceinline__ u32 kept_weight(const State& s, float weight) { return s.weight_bytes == 4 ? __float_as_uint(weight) : (u32)weight; }

__device__ __forceinline__ float depressed(const Rule& r, float weight) {
    weight = add(weight, -r.down);
    return weight > 0.0f ? weight : 0.0f;
}
__device__ __forceinline__ float potentiated(const Rule& r, float weight) {
    weight = add(weight, r.up);
    return weight < r.top ? weight : r.top;
}

// The weight after burst `upto`, given what it was when it had paid. `source_last`: the source's last spike up to burst
// `done`, the last one whose visits are made.
__device__ __forceinline__ float learnt(const State& s, const Rule& r, u32 source_last, const End& target, float weight, u16 paid, u32 done, u32 upto) {
    const Window& w = s.windows[r.window];
    if (inside(w, source_last, done)) {
        for (u32 t = max(done - (u16)(done - paid) + 1, w.acts); t <= upto; ++t)
            weight = inside(w, fired_until(s, target, t), t) ? potentiated(r, weight) : depressed(r, weight);
        return weight;
    }
    const u16 steps = (u16)(seen_until(s, r.window, target, upto) - paid);
    if (steps > SETTLE_PERIOD) return weight;  // it has paid more than that
    for (u32 k = 0; k < steps; ++k) {
        const float less = depressed(r, weight);
        if (less == weight) break;
        weight = less;
    }
    return weight;
}

// As paid_until(), of a synapse that in burst t has paid up to burst `paid`.
__device__ __forceinline__ u16 paid_in(const State& s, u32 kind, const End& source, const End& target, u32 t, u32 paid) {
    return (u16)(inside(s.windows[kind], source.last, t) ? paid : seen_until(s, kind, target, paid));
}

__device__ __forceinline__ void visit_feagi(const State& s, u32 t, const End& source, const End& target, const Rule& r, const Slots& slots, u32 slot) {
    u16& paid = column_of(slots, r.column, slot);
    const u32 old = small_at(slots.weight, s.weight_bytes, slot), last = source.last < t ? source.last : source.before;
    const u32 weight = kept_weight(s, learnt(s, r, last, target, real_weight(s, old), paid, t - 1, t - 1));
    paid = paid_in(s, r.window, source, target, t, t - 1);
    if (weight != old) set_small(slots.weight, s.weight_bytes, slot, weight);
}

// The FeagiRule of a synapse; null: none, or none is heeded.
__device__ __forceinline__ const Rule* feagi_rule(const State& s, u32 source, u32 target, const Slots& slots) {
    if (!s.rules_now || !slots.columns) return nullptr;
    const u32 entry = s.pairs[(u64)s.spikes[source].area * s.areas + s.spikes[target].area];
    const Rule* r = s.rules + (entry >> 8);
    return entry && r->column < slots.columns ? r : nullptr;
}

// A synapse that an edit made or set holds nothing back.
__device__ __forceinline__ void settle_edited(const State& s, u32 source, u32 target, const Slots& slots, u32 slot) {
    if (const Rule* r = feagi_rule(s, source, target, slots))
        column_of(slots, r->column, slot) = paid_in(s, r->window, end_of(s, source), end_of(s, target), s.rules_now, s.rules_now);
}

// The weight of a synapse as a listing shows it.
__device__ __forceinline__ u32 shown_weight(const State& s, u32 source, u32 target, const Slots& slots, u32 slot) {
    const u32 weight = small_at(slots.weight, s.weight_bytes, slot);
    const Rule* r = feagi_rule(s, source, target, slots);
    if (!r) return weight;
    const u16 paid = column_of(slots, r->column, slot);
    return kept_weight(s, learnt(s, *r, s.spikes[source].last, end_of(s, target), real_weight(s, weight), paid, s.rules_now, s.rules_shown));
}

__device__ __forceinline__ bool has_bit(const u32* bits, u32 j) { return bits[j / WORD_NEURONS] >> j % WORD_NEURONS & 1; }

#define ENDS_AHEAD 16
// Calls f(slot, target, entry of pairs[]) for the synapses of a row that are in a rule, side by side in the warp. The sorted
// part is entered where targets of rules can lie, if it ascends by target.
template <class F>
__device__ __forceinline__ void for_plastic(const State& s, const Row& row, const Slots& slots, u32 area, F f) {
    const PlasticArea& reach = s.plastic_areas[area];
    const u32* pairs = s.pairs + (u64)area * s.areas;
    u32 n = row.sorted, first = 0, last = n;
    if (reach.lowest && !slots.delay) first = first_not_below(slots.target, n, reach.lowest, (u32)((u64)n * reach.lowest / s.neurons));
    if (reach.highest < s.neurons - 1 && !slots.delay) last = first_not_below(slots.target, n, reach.highest + 1, (u32)((u64)n * reach.highest / s.neurons));
    last = max(first, last);
    const u32 count = last - first + (row.length - n);
    for (u32 k = lane_id(); k < count; k += WARP_SIZE) {
        u32 slot = k < last - first ? first + k : n + (k - (last - first)), packed = slots.target[slot], j = packed & TARGET_MASK;
        if (k + ENDS_AHEAD < count) {
            u32 ahead = slots.target[slot + ENDS_AHEAD] & TARGET_MASK;  // about there
            if (has_bit(s.taught_bits, ahead)) prefetch(&s.spikes[ahead]);
        }
        if (packed & SYNAPSE_REMOVED || !has_bit(s.taught_bits, j)) continue;
        End target = end_of(s, j);
        if (u32 entry = pairs[target.area]) f(slot, target, entry);
    }
}
