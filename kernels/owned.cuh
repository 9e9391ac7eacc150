// owned.cuh -- the strategy owned: each block delivers every row to its own slice of the targets. For a CPU.
#pragma once
#include "rows.cuh"
#include "physics.cuh"
#include "burst_view.cuh"

#if OWNED_EXISTS
// A row as one fired source delivers it.
struct Delivery {
    const u32* target;
    const u8* weight;
    const u8* psp;  // null: one_psp serves
    u32 length, sorted, one_psp, k;
    i64* accumulator;
};

// False where a fired neuron has nothing to deliver: deleted since, or no synapses.
__device__ __forceinline__ bool delivery_of(const State& s, u32 fired_index, Delivery& d) {
    u32 source = s.due_queue[QUEUE_HEADER + fired_index];
    u32 flags = s.flags[source];
    if (!(flags & FLAG_VALID)) return false;
    Row row = s.rows[source];
    Slots slots = slots_of(s, row);
    u32 psp = delivered_psp(s, flags, row, fired_index);
    d = {slots.target, slots.weight, psp == PSP_EACH ? slots.psp : nullptr, row.length, row.sorted, psp, flags & FLAG_NONUNIFORM ? row.valid : 0, s.accumulator};
    return row.length > 0;
}

// The usual case, specialised so that the loop has no decision left but "removed?": F = 0, arrivals in the accumulator.
template <class W, class P>
__device__ __forceinline__ void deliver_packed(const State& s, const Delivery& d, u32 first, u32 last, u32 step, const W* weight, const P* psp) {
    const u32* target = d.target;
    i64* accumulator = d.accumulator;
    const u32 bits = s.arrival_bits, one_psp = d.one_psp;
    for (u32 i = first; i < last; i += step) {
        u32 t = READ_ONLY(target + i);
        if (t & SYNAPSE_REMOVED) continue;
        u32 m = (u32)weight[i] * (psp ? (u32)READ_ONLY(psp + i) : one_psp);
        i64 term = (i64)((u64)m << bits);
        add_owned(accumulator + (t & TARGET_MASK), (t & SYNAPSE_INHIBITORY ? -term : term) + 1);
    }
}

// term_of(slot) is what each synapse adds.
template <class Term>
__device__ __forceinline__ void deliver_apart(const State& s, const Delivery& d, u32 first, u32 last, u32 step, Term term_of) {
    for (u32 i = first; i < last; i += step) {
        u32 t = READ_ONLY(d.target + i);
        if (t & SYNAPSE_REMOVED) continue;
        i64 term = term_of(i);
        add_owned(d.accumulator + (t & TARGET_MASK), t & SYNAPSE_INHIBITORY ? -term : term);
        add_owned(s.arrivals + (t & TARGET_MASK), 1u);
    }
}

// Slots first, first + step, ... below last of one row.
__device__ __forceinline__ void deliver(const State& s, const Delivery& d, u32 first, u32 last, u32 step) {
    if (s.real_terms)
        return deliver_apart(s, d, first, last, step, [&](u32 i) { return real_term(real_product_of(s, d.weight, d.psp, i, d.one_psp), d.k); });
    if (s.arrivals) {
        Share share = share_among(d.k ? d.k : 1);
        share.k = d.k;
        return deliver_apart(s, d, first, last, step, [&](u32 i) {
            u32 m = product_of(s, d.weight, d.psp, i, d.one_psp);
            return s.fraction_bits ? synaptic_term(m, share) : (i64)m;
        });
    }
    const u16* wide_weight = (const u16*)d.weight;
    const u16* wide_psp = (const u16*)d.psp;
    const u8* none = nullptr;
    if (s.weight_bytes == 1) {
        if (!d.psp) deliver_packed(s, d, first, last, step, d.weight, none);
        else if (s.psp_bytes == 1) deliver_packed(s, d, first, last, step, d.weight, d.psp);
        else deliver_packed(s, d, first, last, step, d.weight, wide_psp);
    } else {
        if (!d.psp) deliver_packed(s, d, first, last, step, wide_weight, none);
        else if (s.psp_bytes == 1) deliver_packed(s, d, first, last, step, wide_weight, d.psp);
        else deliver_packed(s, d, first, last, step, wide_weight, wide_psp);
    }
}

// A row some deliveries ahead is fetched while this one is delivered. Warps in flight do that for a GPU.
#define ROWS_AHEAD 4
#if WARP_SIZE == 1
__device__ __forceinline__ void prefetch_row(const State& s, u32 fired, u32 ahead) {
    if (ahead + ROWS_AHEAD < fired) prefetch(&s.rows[s.due_queue[QUEUE_HEADER + ahead + ROWS_AHEAD]]);
    if (ahead >= fired) return;
    const Row& row = s.rows[s.due_queue[QUEUE_HEADER + ahead]];
    const u8* block = s.arena + row.offset * BLOCK_ALIGNMENT;
    u32 bytes = row.capacity < 256 ? row.capacity * 6 : 1536;  // a long row fetches itself
    for (u32 b = 0; b < bytes; b += 64) prefetch(block + b);
}
#else
__device__ __forceinline__ void prefetch_row(const State&, u32, u32) {}
#endif

// first_not_below() for a row of a CPU: where the answer is near the guess, no branch depends on the targets, which would
// cost more than all reads together; counting those below the key in a window is a few vector instructions.
#define WINDOW 32
__device__ __forceinline__ u32 enter_row(const u32* target, u32 n, u32 key, u32 guess) {
    if (n >= WINDOW) {
        u32 from = guess > WINDOW / 2 ? guess - WINDOW / 2 : 0, below = 0;
        if (from > n - WINDOW) from = n - WINDOW;
        for (u32 i = 0; i < WINDOW; ++i) below += (target[from + i] & TARGET_MASK) < key;
        if ((below > 0 || from == 0) && (below < WINDOW || from + WINDOW == n)) return from + below;
    }
    return first_not_below(target, n, key, guess);
}

// The fired rows first .. last, as far as they end in a slice: to `accumulator`, and to arrivals[] where that counts apart.
__device__ __forceinline__ void deliver_slice(const State& s, i64* accumulator, u32 first_row, u32 last_row, const Range& slice) {
    const u32 low = (u32)slice.first, high = (u32)slice.last;
    if (low == high) return;
    // Where the slice lies in a row whose targets are spread evenly, in 2^-32: a good guess, any other row costs more reads.
    const u64 low_share = ((u64)low << 32) / s.neurons, high_share = ((u64)high << 32) / s.neurons;
    for (u32 i = first_row + threadIdx.x / WARP_SIZE; i < last_row; i += warps_in_block()) {
        prefetch_row(s, last_row, i + ROWS_AHEAD);
        Delivery d;
        if (!delivery_of(s, i, d)) continue;
        d.accumulator = accumulator;
        u32 first = low == 0 ? 0 : enter_row(d.target, d.sorted, low, (u32)(d.sorted * low_share >> 32));
        u32 last = high == s.neurons ? d.sorted : enter_row(d.target, d.sorted, high, (u32)(d.sorted * high_share >> 32));
        deliver(s, d, first + lane_id(), last, WARP_SIZE);
        for (u32 t = d.sorted + lane_id(); t < d.length; t += WARP_SIZE) {  // the unsorted tail: pick what is ours
            u32 target = d.target[t] & TARGET_MASK;
            if (low <= target && target < high) deliver(s, d, t, t + 1, 1);
        }
    }
}

// Where more than one in so many neurons fires, rows that are entered twice, and fetched by two cores, cost more than a
// second set of accumulators that is merged: every other block delivers a part of the rows to those. Measured with two
// workers, 100,000 neurons of 100 synapses (profiling/NOTES.md).
#define FEW_FIRE 32

__device__ __forceinline__ void propagate_owned(const State& s) {
    const u32 fired = s.due_queue[0];
    const bool twice = gridDim.x > 1 && !s.arrivals && fired > s.neurons / FEW_FIRE;
    // Blocks of even number deliver the rows before `middle`, those of odd number the others.
    const u32 sets = twice ? 2 : 1, set = blockIdx.x % sets, blocks = (gridDim.x + sets - 1 - set) / sets;
    const u32 middle = (u32)((u64)fired * ((gridDim.x + sets - 1) / sets) / gridDim.x);
    i64* to = set ? s.second_accumulator : s.accumulator;
    deliver_slice(s, to, set ? middle : 0, set ? fired : middle, block_share(s.neurons, TILE_NEURONS, blockIdx.x / sets, blocks));
    if (!twice) return;
    grid_barrier(s.control + CONTROL_ARRIVED);
    i64 *accumulator = s.accumulator, *second = s.second_accumulator;
    Range mine = split(s.neurons, thread_index(), thread_count(), TILE_NEURONS);
    for (u64 j = mine.first; j < mine.last; j += mine.step) {
        accumulator[j] += second[j];
        second[j] = 0;
    }
}
#endif
