// plasticity.cu -- end of phase 3: which synapses learn in a burst. What a rule does to one is in rules.cuh.
//
// A synapse is visited only when its weight or what it remembers has to be right:
//   - its source fired: the row of the source, for the next burst delivers it;
//   - its source's last spike falls out of a window: the row, once;
//   - its target fired and it is in a pair rule: found through `incoming`, unless its row is visited anyway.
// So no synapse is visited twice in a burst, and one visit applies all rules of the burst in their order. Every synapse pays
// what it owes at least once in SETTLE_PERIOD bursts, so that 16 bits are enough; before the host reads a weight,
// settle_synapses makes it pay.
#include "rules.cuh"

// ------------------------------------------------------------------------------------------------ which rows are visited
// Likewise into its history, which holds 64 bursts.
__device__ __forceinline__ void note_history(const State& s, u32 last, u32 t, u32 j) {
    const u64 recent = s.history[j];
    const u32 gap = t - last;
    const u64 gone = gap < 64 ? recent >> (64 - gap) : 0;  // what falls out of it
    if (gone) s.older[j] = last - (64 - gap) - ((u32)__ffsll((i64)gone) - 1);
    if (gap >= 64) s.older[j] = last;
    s.history[j] = (gap < 64 ? recent << gap : 0) | 1;
}

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
    if (s.history) note_history(s, last, t, j);
    s.runs[j] = last && last == t - 1 ? s.runs[j] + 1 : 1;
    spikes.before = last;
    spikes.last = t;
}

// Whether the row of a neuron is visited in burst t though it did not fire.
__device__ __forceinline__ bool falls_due(const State& s, u32 t, u32 j, bool settles) {
    const Spikes& spikes = s.spikes[j];
    if (!s.plastic_areas[spikes.area].expires) return false;
    bool due = settles || (s.history && (t - spikes.last) % RECALL_PERIOD == 0);
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
    for_plastic(s, row, slots, source.area, [&](u32 slot, const End& target, u32 entry) {
        if (s.history) visit_feagi(s, t, source, target, s.rules[entry >> 8], slots, slot);
        else visit_synapse(s, t, source, target, entry, slots, slot);
    });
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

// All synapses from one source to one target, found in the row of the source, about where `guess` says: in the run of each delay,
// and behind the sorted part.
__device__ __forceinline__ void visit_between(const State& s, u32 t, u32 i, const End& target, u32 guess) {
    const End source = end_of(s, i);
    Row row = s.rows[i];
    Slots slots = slots_of(s, row);
    u32 entry = s.pairs[(u64)source.area * s.areas + target.area];
    auto visit_if_live = [&](u32 slot) {
        if (!(slots.target[slot] & SYNAPSE_REMOVED)) visit_synapse(s, t, source, target, entry, slots, slot);
    };
    for (u32 first = 0, last; first < row.sorted; first = last) {
        last = end_of_delay(s, slots, first, row.sorted);
        u32 slot = first + first_not_below(slots.target + first, last - first, target.id, guess > first ? guess - first : 0);
        for (; slot < last && (slots.target[slot] & TARGET_MASK) == target.id; ++slot) visit_if_live(slot);
    }
    for (u32 slot = row.sorted; slot < row.length; ++slot)
        if ((slots.target[slot] & TARGET_MASK) == target.id) visit_if_live(slot);
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
            if (s.history) {
                const Rule& r = s.rules[entry >> 8];
                if (r.column >= slots.columns) return;
                u16& paid = column_of(slots, r.column, slot);
                const float weight = pays ? learnt(s, r, source.last, target, real_weight(s, old), paid, t, t) : 0.0f;
                if (pays) set_small(slots.weight, s.weight_bytes, slot, kept_weight(s, weight));
                paid = paid_in(s, r.window, source, target, t, t);
                return;
            }
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

// Of the synapses of rows base + r that are not removed, the next burst delivers weight[first[r]] and on: where that is not their
// weight, the rule that made it so in burst t is held back.
KERNEL hold_back(const State s, u32 t, u64 n, u32 base, const u64* first, const u8* weight) {
    Range mine = split(n, warp_index(), warp_count());
    for (u64 r = mine.first; r < mine.last; r += mine.step) {
        const u32 i = base + (u32)r;
        Row row = s.rows[i];
        Slots slots = slots_of(s, row);
        u64 at = first[r];
        for (u32 begin = 0; begin < row.length; begin += WARP_SIZE) {
            u32 slot = begin + lane_id(), target = slot < row.length ? slots.target[slot] : SYNAPSE_REMOVED, j = target & TARGET_MASK;
            bool live = !(target & SYNAPSE_REMOVED);
            u32 lives = __ballot_sync(FULL_MASK, live);
            u64 place = at + (u32)__popc(lives & ((1u << lane_id()) - 1));
            if (const Rule* rule = live ? feagi_rule(s, i, j, slots) : nullptr) {
                u32 before = small_at(weight, s.weight_bytes, place);
                if (before != small_at(slots.weight, s.weight_bytes, slot)) {
                    set_small(slots.weight, s.weight_bytes, slot, before);
                    column_of(slots, rule->column, slot) = paid_in(s, rule->window, end_of(s, i), end_of(s, j), t, t - 1);
                }
            }
            at += (u32)__popc(lives);
        }
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
