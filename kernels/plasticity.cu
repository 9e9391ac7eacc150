// plasticity.cu -- end of phase 3: synapses learn. What a rule does is on the pages semantics.md and plasticity.md.
//
// A synapse is visited only when its weight or what it remembers has to be right:
//   - its source fired: the row of the source, for the next burst delivers it;
//   - its source's last spike falls out of a window: the row, once;
//   - its target fired and it is in a pair rule: found through `incoming`, unless its row is visited anyway.
// So no synapse is visited twice in a burst, and one visit applies all rules of the burst in their order.
//
// A window rule takes `minus` from a synapse in each burst in which either end is inside the window. While the source is
// silent that adds up to one subtraction, which the synapse owes until it is visited. Up to where it has paid is kept in
// 16 bits, its column:
//   while the source is inside the window every burst counts: the burst up to which it has paid;
//   afterwards those count in which the target is inside: how many of these the target had seen by then.
// Sums of subtractions that stop at 0 do not depend on their order, so rules may owe side by side. Every synapse pays at
// least once in SETTLE_PERIOD bursts, so 16 bits are enough; before the host reads a weight, settle_synapses makes it pay.
//
// Bursts are counted from clock_start: t = 1, 2, ...
#include "rows.cuh"
#include "turn.cuh"

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

__device__ __forceinline__ bool has_bit(const u32* bits, u32 j) { return bits[j / WORD_NEURONS] >> j % WORD_NEURONS & 1; }

#define ENDS_AHEAD 16
// Calls f(slot, target, entry of pairs[]) for the synapses of a row that are in a rule, side by side in the warp. The sorted
// part is entered where targets of rules can lie.
template <class F>
__device__ __forceinline__ void for_plastic(const State& s, const Row& row, const Slots& slots, u32 area, F f) {
    const PlasticArea& reach = s.plastic_areas[area];
    const u32* pairs = s.pairs + (u64)area * s.areas;
    u32 n = row.sorted, first = 0, last = n;
    if (reach.lowest) first = first_not_below(slots.target, n, reach.lowest, (u32)((u64)n * reach.lowest / s.neurons));
    if (reach.highest < s.neurons - 1) last = first_not_below(slots.target, n, reach.highest + 1, (u32)((u64)n * reach.highest / s.neurons));
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

// ------------------------------------------------------------------------------------------------ which rows are visited
// The spike of a neuron that fired in burst t enters what is remembered of it.
__device__ __forceinline__ void note_spike(const State& s, u32 t, u32 j) {
    Spikes& spikes = s.spikes[j];
    const u32 last = spikes.last;
    for (u32 k = 0; k < s.window_kinds; ++k) {
        const Window& w = s.windows[k];
        u32& seen = k ? s.more_seen[(u64)(k - 1) * s.neurons + j] : spikes.seen;
        seen = seen_until(w, last, seen, t - 1) + (t >= w.acts);
    }
    for (u32 k = 0; k < s.trace_values; ++k) {
        const Trace& kind = s.trace_kinds[k];
        u32& trace = s.traces[(u64)k * s.neurons + j];
        trace = (last > kind.since ? decayed(s, kind, trace, t - last) : 0) + ONE_SPIKE;
    }
    s.runs[j] = last && last == t - 1 ? s.runs[j] + 1 : 1;
    spikes.before = last;
    spikes.last = t;
}

// Whether the row of a neuron is visited in burst t though it did not fire.
__device__ __forceinline__ bool falls_due(const State& s, u32 t, u32 j, bool settles) {
    const Spikes& spikes = s.spikes[j];
    if (!s.plastic_areas[spikes.area].expires) return false;
    bool due = settles;
    for (u32 k = 0; k < s.window_kinds; ++k) due = due || (spikes.last > s.windows[k].since && t - spikes.last == s.windows[k].window);
    return due;
}

// First half, once fired_bits are there: the spikes of the burst are noted, and which rows are to be visited. A warp a word
// of neurons; a block adds to the list of visits at once.
__device__ __forceinline__ void plan(const State& s) {
    __shared__ u32 found, at;
    const u32 t = s.burst - s.clock_start, turn = t % SETTLE_PERIOD;
    if (thread_index() == 0) s.visit_count[(t + 1) & 1] = 0;
    if (threadIdx.x == 0) found = 0;
    __syncthreads();
    const u32 warps = warps_in_block(), warp = threadIdx.x / WARP_SIZE;
    Range mine = split(((u64)s.words + warps - 1) / warps, blockIdx.x, gridDim.x);
    for (u64 group = mine.first; group < mine.last; group += mine.step) {
        const u32 word = (u32)group * warps + warp;
        u32 fired = 0, due = 0, first = 0;
        if (word < s.words) {
            fired = s.fired_bits[word];
            where_true(fired, [&](u32 bit) { note_spike(s, t, word * WORD_NEURONS + bit); return true; });
            auto area = [&](u32 bit) -> const PlasticArea& { return s.plastic_areas[s.spikes[word * WORD_NEURONS + bit].area]; };
            u32 learn = where_true(fired, [&](u32 bit) { return area(bit).learns != 0; });
            if (s.longest_window) {
                u32 open = s.open_bits[word] & ~fired;
                u32 settles = word % (SETTLE_PERIOD / WORD_NEURONS) == turn / WORD_NEURONS ? 1u << turn % WORD_NEURONS & ~fired : 0;
                if (word == s.words - 1 && s.neurons % WORD_NEURONS) settles &= (1u << s.neurons % WORD_NEURONS) - 1;
                due = where_true(open | settles, [&](u32 bit) { return falls_due(s, t, word * WORD_NEURONS + bit, settles >> bit & 1); });
                u32 stay = where_true(open, [&](u32 bit) { return t - s.spikes[word * WORD_NEURONS + bit].last < s.longest_window; });
                u32 opens = where_true(learn, [&](u32 bit) { return area(bit).expires != 0; });
                __syncwarp();  // all lanes have read the word
                if (lane_id() == 0) s.open_bits[word] = stay | opens;
            }
            if (lane_id() == 0) {
                s.visit_bits[word] = learn | due;
                if (due) first = atomicAdd(&found, (u32)__popc(due));
            }
            first = __shfl_sync(FULL_MASK, first, 0);
        }
        __syncthreads();
        if (threadIdx.x == 0) {
            at = found ? atomicAdd(s.visit_count + (t & 1), found) : 0;
            found = 0;
        }
        __syncthreads();
        where_true(due, [&](u32 bit) {
            s.visits[at + first + (u32)__popc(due & ((1u << bit) - 1))] = word * WORD_NEURONS + bit;
            return true;
        });
    }
}

// ------------------------------------------------------------------------------------------------------------ the visits
__device__ __forceinline__ void visit_row(const State& s, u32 t, u32 i) {
    const End source = end_of(s, i);
    Row row = s.rows[i];
    Slots slots = slots_of(s, row);
    for_plastic(s, row, slots, source.area, [&](u32 slot, const End& target, u32 entry) { visit_synapse(s, t, source, target, entry, slots, slot); });
}

// Whose rows are visited: first those of neurons that fired, then the others.
__device__ __forceinline__ u32 visited(const State& s, u32 k) {
    u32 fired = s.queue[0];
    return k < fired ? s.queue[QUEUE_HEADER + k] : s.visits[k - fired];
}
__device__ __forceinline__ bool is_visited(const State& s, u32 i) { return has_bit(s.visit_bits, i); }

#define VISITS_AHEAD 16
#if WARP_SIZE == 1
// Rows some visits ahead are fetched while this one is visited.
__device__ __forceinline__ void prefetch_rows(const State& s, u64 at, const Range& mine) {
    const u64 soon = at + VISITS_AHEAD * mine.step, late = soon + VISITS_AHEAD * mine.step;
    if (late < mine.last) {
        u32 later = visited(s, (u32)late);
        if (is_visited(s, later)) {
            prefetch(&s.rows[later]);
            prefetch(&s.spikes[later]);
        }
    }
    if (soon >= mine.last) return;
    u32 i = visited(s, (u32)soon);
    if (!is_visited(s, i)) return;
    const Row& row = s.rows[i];
    const PlasticArea& area = s.plastic_areas[s.spikes[i].area];
    if (!row.length) return;
    Slots slots = slots_of(s, row);
    u32 first = (u32)((u64)row.sorted * area.lowest / s.neurons), last_slot = (u32)((u64)row.sorted * area.highest / s.neurons);
    for (u32 slot = first; slot <= last_slot && slot < first + 256; slot += 16) prefetch(slots.target + slot);
    for (u32 slot = first; slot <= last_slot && slot < first + 256; slot += 32) prefetch(slots.column + slot);
    for (u32 slot = first; slot <= last_slot && slot < first + 256; slot += 64) prefetch(slots.weight + slot);
}
#else
__device__ __forceinline__ void prefetch_rows(const State&, u64, const Range&) {}
#endif

// A warp a row. Rows of some areas cost nothing.
__device__ __forceinline__ void visit_rows(const State& s, u32 t) {
    Range mine = dealt((u64)s.queue[0] + s.visit_count[t & 1], warp_index(), warp_count());
    for (u64 k = mine.first; k < mine.last; k += mine.step) {
        prefetch_rows(s, k, mine);
        u32 i = visited(s, (u32)k);
        if (is_visited(s, i)) visit_row(s, t, i);
    }
}

// The synapses in pair rules that end in a neuron: the first `sorted` ascend by source, the others are younger.
struct Incoming {
    u32* source;  // SYNAPSE_REMOVED in an upper bit
    u16* slot;    // where in the row of the source to look first, see guess_slots
    u32 length, sorted;
};
__device__ __forceinline__ Incoming incoming_of(const State& s, u32 id) {
    const Row& row = s.incoming[id];
    u8* block = s.incoming_arena + row.offset * BLOCK_ALIGNMENT;
    return {(u32*)block, (u16*)(block + 4ull * row.capacity), row.length, row.sorted};
}

// Is there a synapse from the same source before place k?
__device__ __forceinline__ bool is_repeated(const Incoming& in, u32 k) {
    u32 key = in.source[k] & TARGET_MASK, from = k;
    if (k >= in.sorted) {
        for (from = in.sorted; from < k; ++from)
            if ((in.source[from] & (TARGET_MASK | SYNAPSE_REMOVED)) == key) return true;
        from = first_not_below(in.source, in.sorted, key + 1, in.sorted / 2);
    }
    for (; from > 0 && (in.source[from - 1] & TARGET_MASK) == key; --from)
        if (!(in.source[from - 1] & SYNAPSE_REMOVED)) return true;
    return false;
}

// All synapses from one source to one target, found in the row of the source, about where `guess` says.
__device__ __forceinline__ void visit_between(const State& s, u32 t, u32 i, const End& target, u32 guess) {
    const End source = end_of(s, i);
    Row row = s.rows[i];
    Slots slots = slots_of(s, row);
    u32 entry = s.pairs[(u64)source.area * s.areas + target.area];
    u32 slot = first_not_below(slots.target, row.sorted, target.id, guess);
    for (; slot < row.length; ++slot) {
        u32 packed = slots.target[slot];
        if ((packed & (TARGET_MASK | SYNAPSE_REMOVED)) == target.id) visit_synapse(s, t, source, target, entry, slots, slot);
        else if ((packed & TARGET_MASK) != target.id && slot < row.sorted) slot = row.sorted - 1;  // on to the tail
    }
}

// Does a rule change the synapses from a neuron, silent in burst t, to one that fires in it? Not when its spikes are forgotten.
__device__ __forceinline__ bool is_recalled(const State& s, u32 t, const End& source, const End& target) {
    const Rules rules = rules_at(s, s.pairs[(u64)source.area * s.areas + target.area]);
    for (const Rule* r = rules.first; r < rules.last; ++r)
        if (r->pair && trace_of(s, r->source_trace, source, t)) return true;
    return false;
}

#define SOURCES_AT_ONCE 32
#define SOURCES_A_LANE (SOURCES_AT_ONCE / WARP_SIZE)
// The incoming synapses of a neuron from place `first` on, SOURCES_AT_ONCE of them. What they need is far apart: on a CPU all
// of it is asked for before any is used.
__device__ __forceinline__ void visit_sources(const State& s, u32 t, const Incoming& in, u32 first, const End& target) {
    u32 recalled = 0, places[SOURCES_A_LANE];
    for (u32 m = 0; m < SOURCES_A_LANE; ++m) prefetch(&s.spikes[in.source[min(first + m, in.length - 1)] & TARGET_MASK]);
    for (u32 m = 0; m < SOURCES_A_LANE; ++m) {
        const u32 k = first + m * WARP_SIZE + lane_id();
        if (k >= in.length) break;
        const u32 i = in.source[k] & TARGET_MASK;
        if (in.source[k] & SYNAPSE_REMOVED || is_visited(s, i) || !is_recalled(s, t, end_of(s, i), target)) continue;
        prefetch(&s.rows[i]);
        places[recalled++] = k;
    }
    for (u32 m = 0; m < recalled; ++m) {
        const Slots slots = slots_of(s, s.rows[in.source[places[m]] & TARGET_MASK]);
        const u32 slot = in.slot[places[m]];
        prefetch(slots.target + slot);
        prefetch(slots.column + slot);
        prefetch(slots.weight + slot);
    }
    for (u32 m = 0; m < recalled; ++m)
        if (!is_repeated(in, places[m])) visit_between(s, t, in.source[places[m]] & TARGET_MASK, target, in.slot[places[m]]);
}

// Of targets that come later: where their sources are listed, then the list.
#define TARGETS_AHEAD 8
__device__ __forceinline__ void prefetch_targets(const State& s, u64 at, const Range& mine) {
#if WARP_SIZE == 1
    const u64 soon = at + TARGETS_AHEAD * mine.step, late = soon + TARGETS_AHEAD * mine.step;
    if (late < mine.last) {
        u32 later = s.queue[QUEUE_HEADER + late];
        prefetch(&s.incoming[later]);
        prefetch(&s.spikes[later]);
    }
    if (soon >= mine.last) return;
    const Incoming in = incoming_of(s, s.queue[QUEUE_HEADER + soon]);
    for (u32 k = 0; k < in.length && k < SOURCES_AT_ONCE; k += 16) prefetch(in.source + k);
    prefetch(in.slot);
#endif
}

// A warp a target that fired, its sources side by side.
__device__ __forceinline__ void visit_targets(const State& s, u32 t) {
    Range mine = dealt(s.queue[0], warp_index(), warp_count());
    for (u64 f = mine.first; f < mine.last; f += mine.step) {
        prefetch_targets(s, f, mine);
        const End target = end_of(s, s.queue[QUEUE_HEADER + f]);
        if (!s.plastic_areas[target.area].paired) continue;
        const Incoming in = incoming_of(s, target.id);
        for (u32 first = 0; first < in.length; first += SOURCES_AT_ONCE) visit_sources(s, t, in, first, target);
    }
}

// Second half, once the fire queue is there, too.
__device__ __forceinline__ void visit(const State& s) {
    const u32 t = s.burst - s.clock_start;
    visit_rows(s, t);
    if (s.incoming) visit_targets(s, t);
}

// In bursts launched phase by phase.
KERNEL plan_visits(const State base) { plan(at_next_burst(base)); }
ROOMY_KERNEL visit_synapses(const State base) { visit(at_next_burst(base)); }

// --------------------------------------------------------------------------------------------------------- between bursts
// Rows ids[r] (null: all): their synapses pay, if `pays`, what they owe up to burst t, and their columns start from there.
// `residues`: 1: those of synapses in no pair rule become 0; 2: all do. A column 0 that is no pair rule's is not asked about.
KERNEL settle_synapses(const State s, u32 t, u64 n, const u32* ids, u32 pays, u32 residues) {
    Range mine = split(n, warp_index(), warp_count());
    for (u64 r = mine.first; r < mine.last; r += mine.step) {
        const u32 i = ids ? ids[r] : (u32)r;
        Row row = s.rows[i];
        if (!row.columns) continue;
        Slots slots = slots_of(s, row);
        const End source = end_of(s, i);
        if (residues)
            for (u32 slot = lane_id(); slot < row.length; slot += WARP_SIZE) {
                Rules rules = rules_at(s, s.pairs[(u64)source.area * s.areas + s.spikes[slots.target[slot] & TARGET_MASK].area]);
                bool keeps = false;
                for (const Rule* rule = rules.first; rule < rules.last; ++rule) keeps = keeps || rule->pair;
                if (residues == 2 || !keeps) column_of(slots, 0, slot) = 0;
            }
        __syncwarp();
        for_plastic(s, row, slots, source.area, [&](u32 slot, const End& target, u32 entry) {
            const u32 old = small_at(slots.weight, s.weight_bytes, slot);
            const Rules rules = rules_at(s, entry);
            u32 weight = old;
            for (const Rule* rule = rules.first; rule < rules.last && pays; ++rule)
                if (!rule->pair && rule->column < slots.columns)
                    weight = less(weight, rule->minus * owed(s, rule->window, source, target, column_of(slots, rule->column, slot), t));
            for (const Rule* rule = rules.first; rule < rules.last; ++rule)
                if (!rule->pair && rule->column < slots.columns)
                    column_of(slots, rule->column, slot) = paid_until(s, rule->window, source, target, t);
            if (weight != old) set_small(slots.weight, s.weight_bytes, slot, weight);
        });
    }
}

// Neuron j is in plastic area area[j]; what neurons have seen of windows is counted from here on.
KERNEL place_in_areas(const State s, const u32* area) {
    Range mine = split(s.neurons, thread_index(), thread_count());
    for (u64 j = mine.first; j < mine.last; j += mine.step) {
        s.spikes[j].area = area[j];
        s.spikes[j].seen = 0;
    }
}

// Says at each place of `incoming` in which slot the synapse is, or that of the source's first to the same target; of slots from
// 65536 on, the lower half. Rows are edited and slots move: it is where to begin a search, not where it ends.
KERNEL guess_slots(const State s) {
    Range mine = split(s.neurons, warp_index(), warp_count());
    for (u64 j = mine.first; j < mine.last; j += mine.step) {
        const Incoming in = incoming_of(s, (u32)j);
        for (u32 k = lane_id(); k < in.length; k += WARP_SIZE) {
            const Row row = s.rows[in.source[k] & TARGET_MASK];
            in.slot[k] = (u16)first_not_below(slots_of(s, row).target, row.sorted, (u32)j, (u32)((u64)row.sorted * j / s.neurons));
        }
    }
}

// Column 0 of the synapses of rows base + r that are not removed, from (`stores`: to) values[first[r]] on; 0 where a row has
// no column.
KERNEL copy_column(const State s, u64 n, u32 base, const u64* first, u16* values, u32 stores) {
    Range mine = split(n, warp_index(), warp_count());
    for (u64 r = mine.first; r < mine.last; r += mine.step) {
        Row row = s.rows[base + (u32)r];
        Slots slots = slots_of(s, row);
        u64 at = first[r];
        for (u32 begin = 0; begin < row.length; begin += WARP_SIZE) {
            u32 slot = begin + lane_id();
            bool live = slot < row.length && !(slots.target[slot] & SYNAPSE_REMOVED);
            u32 lives = __ballot_sync(FULL_MASK, live);
            u16& value = values[at + (u32)__popc(lives & ((1u << lane_id()) - 1))];
            if (live && stores && row.columns) slots.column[slot] = value;
            if (live && !stores) value = row.columns ? slots.column[slot] : 0;
            at += (u32)__popc(lives);
        }
    }
}
