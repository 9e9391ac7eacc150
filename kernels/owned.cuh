// owned.cuh -- the strategy owned: each block delivers every row to its own slice of the targets. For a CPU.
#pragma once
#include "rows.cuh"
#include "physics.cuh"
#include "burst_view.cuh"

#if OWNED_EXISTS
// A row as one fired source delivers it: slots first .. sorted, which ascend by target, and tail .. length.
struct Delivery {
    const u32* target;
    const u8* weight;
    const u8* psp;    // null: one_psp serves
    const u8* delay;  // of the tail; null: there is one
    u32 first, sorted, tail, length, one_psp, k;
    i64* accumulator;
};

// first_due() for a row of a CPU: counting the delays below is some vector instructions, and no branch depends on them.
#define DELAYS_COUNTED 256
__device__ __forceinline__ u32 enter_delay(const State& s, const u8* delays, u32 first, u32 last, u32 delay) {
#if WARP_SIZE == 1
    if (s.delay_bytes == 1) {
        while (last - first > DELAYS_COUNTED) {
            u32 middle = first + (last - first) / 2;
            if (delays[middle] < delay) first = middle + 1;
            else last = middle;
        }
        u32 below = 0;
        for (u32 i = first; i < last; ++i) below += delays[i] < delay;
        return first + below;
    }
#endif
    return first_due(s, delays, first, last, delay);
}

// False where a fired neuron has nothing to deliver: deleted since, or no synapses, or none of the delay that is due.
template <bool LATE>
__device__ __forceinline__ bool delivery_of(const State& s, u32 fired_index, Delivery& d) {
    u32 source = s.due_queue[QUEUE_HEADER + fired_index];
    u32 flags = s.flags[source];
    if (!(flags & FLAG_VALID)) return false;
    Row row = s.rows[source];
    const bool each = LATE && row.delay == DELAY_EACH;
    if (LATE && !each && row.delay != s.delay) return false;
    Slots slots = slots_at(s, s.arena + row.offset * BLOCK_ALIGNMENT, row.capacity, row.psp == PSP_EACH, row.columns, each);
    u32 psp = delivered_psp(s, flags, row, fired_index), first = 0, sorted = row.sorted;
    if (each) {
        first = enter_delay(s, slots.delay, 0, row.sorted, s.delay);
        sorted = enter_delay(s, slots.delay, first, row.sorted, s.delay + 1);
    }
    d = {slots.target, slots.weight, psp == PSP_EACH ? slots.psp : nullptr, slots.delay, first, sorted, row.sorted, row.length, psp, flags & FLAG_NONUNIFORM ? row.valid : 0, s.accumulator};
    return first < sorted || row.sorted < row.length;
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
template <bool LATE>
__device__ __forceinline__ void deliver_slice(const State& s, i64* accumulator, u32 first_row, u32 last_row, const Range& slice) {
    const u32 low = (u32)slice.first, high = (u32)slice.last;
    if (low == high) return;
    // Where the slice lies in a row whose targets are spread evenly, in 2^-32: a good guess, any other row costs more reads.
    const u64 low_share = ((u64)low << 32) / s.neurons, high_share = ((u64)high << 32) / s.neurons;
    for (u32 i = first_row + threadIdx.x / WARP_SIZE; i < last_row; i += warps_in_block()) {
        prefetch_row(s, last_row, i + ROWS_AHEAD);
        Delivery d;
        if (!delivery_of<LATE>(s, i, d)) continue;
        d.accumulator = accumulator;
        const u32* target = d.target + (LATE ? d.first : 0);
        const u32 begin = LATE ? d.first : 0, n = d.sorted - begin;
        u32 first = low == 0 ? 0 : enter_row(target, n, low, (u32)(n * low_share >> 32));
        u32 last = high == s.neurons ? n : enter_row(target, n, high, (u32)(n * high_share >> 32));
        deliver(s, d, begin + first + lane_id(), begin + last, WARP_SIZE);
        for (u32 t = d.tail + lane_id(); t < d.length; t += WARP_SIZE) {  // the unsorted tail: pick what is ours
            if (LATE && d.delay && delay_at(s, d.delay, t) != s.delay) continue;
            u32 end = d.target[t] & TARGET_MASK;
            if (low <= end && end < high) deliver(s, d, t, t + 1, 1);
        }
    }
}

// Where more than one in so many neurons fires, rows that are entered twice, and fetched by two cores, cost more than a
// second set of accumulators that is merged: every other block delivers a part of the rows to those. Measured with two
// workers, 100,000 neurons of 100 synapses (profiling/NOTES.md).
#define FEW_FIRE 32

template <bool LATE>
__device__ __forceinline__ void propagate_owned(const State& base, const State& s, u64 burst) {
    u64 fired = 0;
    for_due<LATE>(base, s, burst, [&](const State& due) { fired += due.due_queue[0]; });
    const bool twice = gridDim.x > 1 && !s.arrivals && fired > s.neurons / FEW_FIRE;
    // Blocks of even number deliver the rows before `middle`, those of odd number the others.
    const u32 sets = twice ? 2 : 1, set = blockIdx.x % sets, blocks = (gridDim.x + sets - 1 - set) / sets;
    i64* to = set ? s.second_accumulator : s.accumulator;
    for_due<LATE>(base, s, burst, [&](const State& due) {
        const u32 rows = due.due_queue[0], middle = (u32)((u64)rows * ((gridDim.x + sets - 1) / sets) / gridDim.x);
        deliver_slice<LATE>(due, to, set ? middle : 0, set ? rows : middle, block_share<u32>(s.neurons, TILE_NEURONS, blockIdx.x / sets, blocks));
    });
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
