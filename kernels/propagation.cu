// propagation.cu -- phase 1, synaptic part: every neuron of the previous fire queue delivers along its row.
//
// A term is an integer, so the order of the additions does not matter. It is added to accumulator[target] in one
// operation with its arrival: (term << arrival_bits) + 1, and the sum and the count come apart again in dynamics. Where
// that does not fit (fixed-point terms, huge in-degrees) arrivals[] counts apart.
//
// Two ways, same result:
//   propagate_rows   a warp a row, lanes side by side along it, atomic additions. For a GPU.
//   propagate_owned  each block owns a contiguous slice of the targets and takes every row, entering it where its slice
//                    begins. With one thread a block (the CPU build) no addition needs to be atomic and each core keeps
//                    its slice in its own cache.
#include "physics.cuh"
#include "rows.cuh"
#include "turn.cuh"

// A row as one fired source delivers it.
struct Delivery {
    const u32* target;
    const u8* weight;
    const u8* psp;  // null: one_psp serves
    u32 length, sorted, one_psp, k;
};

// False where a fired neuron has nothing to deliver: deleted since, or no synapses.
__device__ __forceinline__ bool delivery_of(const State& s, u32 fired_index, Delivery& d) {
    u32 source = s.previous_queue[QUEUE_HEADER + fired_index];
    u32 flags = s.flags[source];
    if (!(flags & FLAG_VALID)) return false;
    Row row = s.rows[source];
    Slots slots = slots_of(s, row);
    bool mp_driven = flags & FLAG_MP_DRIVEN;
    d = {slots.target, slots.weight, mp_driven ? nullptr : slots.psp, row.length, row.sorted,
         mp_driven ? s.previous_psp[fired_index] : row.psp, flags & FLAG_NONUNIFORM ? row.valid : 0};
    return row.length > 0;
}

// The usual case, specialised so that the loop has no decision left but "removed?": F = 0, arrivals in the accumulator.
template <class Add, class W, class P>
__device__ __forceinline__ void deliver_packed(const State& s, const Delivery& d, u32 first, u32 last, u32 step, const W* weight, const P* psp, Add add) {
    const u32* target = d.target;
    i64* accumulator = s.accumulator;
    const u32 bits = s.arrival_bits, one_psp = d.one_psp;
    for (u32 i = first; i < last; i += step) {
        u32 t = READ_ONLY(target + i);
        if (t & SYNAPSE_REMOVED) continue;
        u32 m = (u32)READ_ONLY(weight + i) * (psp ? (u32)READ_ONLY(psp + i) : one_psp);
        i64 term = (i64)((u64)m << bits);
        add(accumulator, t & TARGET_MASK, (t & SYNAPSE_INHIBITORY ? -term : term) + 1);
    }
}

template <class Add>
__device__ __forceinline__ void deliver_apart(const State& s, const Delivery& d, u32 first, u32 last, u32 step, Add add) {
    Share share = share_among(d.k ? d.k : 1);
    share.k = d.k;
    for (u32 i = first; i < last; i += step) {
        u32 t = READ_ONLY(d.target + i);
        if (t & SYNAPSE_REMOVED) continue;
        u32 m = small_at(d.weight, s.weight_bytes, i) * (d.psp ? small_at(d.psp, s.psp_bytes, i) : d.one_psp);
        i64 term = s.fraction_bits ? synaptic_term(m, share) : (i64)m;
        add(s.accumulator, t & TARGET_MASK, t & SYNAPSE_INHIBITORY ? -term : term);
        add(s.arrivals, t & TARGET_MASK, 1u);
    }
}

// Slots first, first + step, ... below last of one row.
template <class Add>
__device__ __forceinline__ void deliver(const State& s, const Delivery& d, u32 first, u32 last, u32 step, Add add) {
    if (s.arrivals) return deliver_apart(s, d, first, last, step, add);
    const u16* wide_weight = (const u16*)d.weight;
    const u16* wide_psp = (const u16*)d.psp;
    const u8* none = nullptr;
    if (s.weight_bytes == 1) {
        if (!d.psp) deliver_packed(s, d, first, last, step, d.weight, none, add);
        else if (s.psp_bytes == 1) deliver_packed(s, d, first, last, step, d.weight, d.psp, add);
        else deliver_packed(s, d, first, last, step, d.weight, wide_psp, add);
    } else {
        if (!d.psp) deliver_packed(s, d, first, last, step, wide_weight, none, add);
        else if (s.psp_bytes == 1) deliver_packed(s, d, first, last, step, wide_weight, d.psp, add);
        else deliver_packed(s, d, first, last, step, wide_weight, wide_psp, add);
    }
}

__device__ __forceinline__ void propagate_rows(const State& s) {
    Range mine = split(s.previous_queue[0], warp_index(), warp_count());
    for (u64 i = mine.first; i < mine.last; i += mine.step) {
        Delivery d;
        if (!delivery_of(s, (u32)i, d)) continue;
        deliver(s, d, lane_id(), d.length, WARP_SIZE, [](auto* values, u32 j, auto v) { add_shared(values + j, v); });
    }
}

// A row some deliveries ahead is fetched while this one is delivered. Warps in flight do that for a GPU.
#define ROWS_AHEAD 4
#if WARP_SIZE == 1
__device__ __forceinline__ void prefetch_row(const State& s, u32 fired, u32 ahead) {
    if (ahead + ROWS_AHEAD < fired) prefetch(&s.rows[s.previous_queue[QUEUE_HEADER + ahead + ROWS_AHEAD]]);
    if (ahead >= fired) return;
    const Row& row = s.rows[s.previous_queue[QUEUE_HEADER + ahead]];
    const u8* block = s.arena + row.offset * BLOCK_ALIGNMENT;
    u32 bytes = row.capacity < 256 ? row.capacity * 6 : 1536;  // a long row fetches itself
    for (u32 b = 0; b < bytes; b += 64) prefetch(block + b);
}
#else
__device__ __forceinline__ void prefetch_row(const State&, u32, u32) {}
#endif

__device__ __forceinline__ void propagate_owned(const State& s) {
    Range slice = block_share(s.neurons, TILE_NEURONS, blockIdx.x, gridDim.x);
    u32 low = (u32)slice.first, high = (u32)slice.last, fired = s.previous_queue[0];
    if (low == high) return;
    auto add = [](auto* values, u32 j, auto v) { add_owned(values + j, v); };
    for (u32 i = threadIdx.x / WARP_SIZE; i < fired; i += warps_in_block()) {
        prefetch_row(s, fired, i + ROWS_AHEAD);
        Delivery d;
        if (!delivery_of(s, i, d)) continue;
        // Targets spread evenly make good guesses; any others cost a few reads more.
        u32 first = low == 0 ? 0 : first_not_below(d.target, d.sorted, low, (u32)((u64)d.sorted * low / s.neurons));
        u32 last = high == s.neurons ? d.sorted : first_not_below(d.target, d.sorted, high, (u32)((u64)d.sorted * high / s.neurons));
        deliver(s, d, first + lane_id(), last, WARP_SIZE, add);
        for (u32 t = d.sorted + lane_id(); t < d.length; t += WARP_SIZE) {  // the unsorted tail: pick what is ours
            u32 target = d.target[t] & TARGET_MASK;
            if (low <= target && target < high) deliver(s, d, t, t + 1, 1, add);
        }
    }
}

__device__ __forceinline__ void propagate(const State& s) {
    if (s.owned) propagate_owned(s);
    else propagate_rows(s);
}

KERNEL propagation(const State base) { propagate(at_next_burst(base)); }
