// rows.cuh -- where the synapses of a source lie.
//
// A row is one block of the arena: `capacity` targets (u32; upper bits SYNAPSE_INHIBITORY and SYNAPSE_REMOVED), then the
// columns of plasticity (u16; none in most rows, an even number beside floats), then weights and, unless one of them serves the
// whole row, psps and delays; the wider ones first, so that all are aligned.
//
// A spike is delivered once for each delay that its row has, so the synapses of a delay lie together: the sorted part ascends by
// delay, then target. Throughout the row the synapses to one target lie in order of age, which says whom an edit means; so one
// that has a shorter delay than an older one to the same target stays behind the sorted part, whoever sorts the row.
#pragma once
#include "physics.cuh"
#include "device.cuh"
#include "state.cuh"

struct Slots {
    u32* target;
    u8* weight;  // u16 where weight_bytes is 2, float where it is 4
    u8* psp;     // likewise; null: the row has one psp
    u8* delay;   // u16 where delay_bytes is 2; null: the row has one delay
    u16* column;  // value c of slot i is column[c * capacity + i], c < columns
    u32 capacity, columns;
};

__device__ __forceinline__ Slots slots_at(const State& s, u8* block, u32 capacity, bool psp_each, u32 columns, bool delay_each) {
    u64 targets = (4 + 2 * (u64)columns) * capacity, psps = psp_each ? (u64)s.psp_bytes * capacity : 0;
    bool psp_first = s.psp_bytes > s.weight_bytes;
    u8* weight = block + targets + (psp_first ? psps : 0);
    u8* psp = block + targets + (psp_first ? 0 : (u64)s.weight_bytes * capacity);
    u8* delay = nullptr;
    if (delay_each) {  // before what is narrower
        u64 delays = (u64)s.delay_bytes * capacity;
        delay = block + targets;
        if (s.weight_bytes < s.delay_bytes) weight += delays;
        else delay += (u64)s.weight_bytes * capacity;
        if (s.psp_bytes < s.delay_bytes) psp += delays;
        else delay += psps;
    }
    return {(u32*)block, weight, psp_each ? psp : nullptr, delay, (u16*)(block + 4ull * capacity), capacity, columns};
}
__device__ __forceinline__ Slots slots_of(const State& s, const Row& row) {
    return slots_at(s, s.arena + row.offset * BLOCK_ALIGNMENT, row.capacity, row.psp == PSP_EACH, row.columns, row.delay == DELAY_EACH);
}

// A weight or a psp: an integer, or the bits of a float.
__device__ __forceinline__ u32 integer_at(const u8* values, u32 bytes, u64 i) { return bytes == 1 ? values[i] : ((const u16*)values)[i]; }
__device__ __forceinline__ u32 small_at(const u8* values, u32 bytes, u64 i) {
    return bytes == 4 ? ((const u32*)values)[i] : integer_at(values, bytes, i);
}
__device__ __forceinline__ void set_small(u8* values, u32 bytes, u64 i, u32 value) {
    if (bytes == 1) values[i] = (u8)value;
    else if (bytes == 2) ((u16*)values)[i] = (u16)value;
    else ((u32*)values)[i] = value;
}

__device__ __forceinline__ u32 delay_at(const State& s, const u8* delays, u64 i) { return integer_at(delays, s.delay_bytes, i); }

// The first of the slots first .. last, which ascend by delay, whose delay is not below `delay`.
__device__ __forceinline__ u32 first_due(const State& s, const u8* delays, u32 first, u32 last, u32 delay) {
    while (first < last) {
        u32 middle = first + (last - first) / 2;
        if (delay_at(s, delays, middle) < delay) first = middle + 1;
        else last = middle;
    }
    return first;
}

// Where a run of slots with one delay that begins at `first` ends, in the sorted part of a row.
__device__ __forceinline__ u32 end_of_delay(const State& s, const Slots& slots, u32 first, u32 sorted) {
    return slots.delay ? first_due(s, slots.delay, first, sorted, delay_at(s, slots.delay, first) + 1) : sorted;
}

// The one psp of all that a fired neuron delivers, or PSP_EACH; bits of a float where terms have fractions. `index`: its place
// in the queue.
__device__ __forceinline__ u32 delivered_psp(const State& s, u32 flags, const Row& row, u32 index) {
    if (flags & FLAG_MP_DRIVEN) {
        float p = psp_of_potential(s.due_potential[index], s.round_driven);
        return s.real_terms ? __float_as_uint(p) : (u32)p;
    }
    return s.real_terms && s.psp_bytes != 4 && row.psp != PSP_EACH ? __float_as_uint((float)row.psp) : row.psp;
}

// What lies in slot i: where `real`, of any width; else it is an integer.
template <bool REAL>
__device__ __forceinline__ u32 value_at(const u8* values, u32 bytes, u64 i) { return REAL ? small_at(values, bytes, i) : integer_at(values, bytes, i); }
// The number that a value of so many bytes is.
__device__ __forceinline__ float real_of(u32 value, u32 bytes) { return bytes == 4 ? __uint_as_float(value) : (float)value; }

// weight * psp of slot i. `psp`: as delivered_psp() says.
__device__ __forceinline__ u32 product_of(const State& s, const u8* weights, const u8* psps, u64 i, u32 psp) {
    return integer_at(weights, s.weight_bytes, i) * (psp == PSP_EACH ? integer_at(psps, s.psp_bytes, i) : psp);
}
// The same where terms have fractions.
__device__ __forceinline__ float real_at(const u8* values, u32 bytes, u64 i) { return real_of(small_at(values, bytes, i), bytes); }
__device__ __forceinline__ float real_product_of(const State& s, const u8* weights, const u8* psps, u64 i, u32 psp) {
    return real_at(weights, s.weight_bytes, i) * (psp == PSP_EACH ? real_at(psps, s.psp_bytes, i) : __uint_as_float(psp));
}

// The first of `n` ascending slots whose target is not below `key`; galloping from `guess`, so that a good guess costs
// two or three reads.
__device__ __forceinline__ u32 first_not_below(const u32* target, u32 n, u32 key, u32 guess) {
    u32 low = 0, high = n;  // the answer is in [low, high]
    if (guess < n) {
        u32 step = 1;
        if ((target[guess] & TARGET_MASK) < key) {
            low = guess + 1;
            while (low + step < n && (target[low + step] & TARGET_MASK) < key) { low += step + 1; step *= 2; }
            high = low + step < n ? low + step : n;
        } else {
            high = guess;
            while (high > step && (target[high - step] & TARGET_MASK) >= key) { high -= step; step *= 2; }
            low = high > step ? high - step : 0;
        }
    }
    while (low < high) {
        u32 middle = low + (high - low) / 2;
        if ((target[middle] & TARGET_MASK) < key) low = middle + 1;
        else high = middle;
    }
    return low;
}

// -- fired rows as work -------------------------------------------------------------------------------------------------
// A row with many synapses is cut into chunks that warps deliver apart. Archival, which knows first that a neuron fired,
// lists them: a task is the neuron's place in the queue, shifted left by 32, and the number of the chunk.
__device__ __forceinline__ u32 chunks_of(const State& s, const Row& row) {
    return row.valid <= s.heavy_row ? 1 : (row.valid + s.heavy_row - 1) / s.heavy_row;
}
__device__ __forceinline__ u64* expected_of(u32* queue) { return (u64*)(queue + QUEUE_EXPECTED); }

// By a whole warp; a lane whose neuron `source` `is` item `index` of this queue lists its tasks, and returns how many synapses
// leave it, for add_expected().
__device__ __forceinline__ u32 list_tasks(const State& s, u32* queue, u64* tasks, bool is, u32 index, u32 source) {
    if (OWNED_EXISTS && s.strategy == STRATEGY_OWNED) return 0;  // wants neither
    Row row = {};
    if (is) row = s.rows[source];
    const u32 chunks = is ? chunks_of(s, row) : 0, listed = chunks > 1 ? chunks : 0;
    if (__any_sync(FULL_MASK, listed > 0)) {
        const u32 before = warp_sum_before(listed), all = warp_sum(listed);
        u32 at = 0;
        if (lane_id() == 0) at = atomicAdd(queue + QUEUE_TASKS, all);
        at = __shfl_sync(FULL_MASK, at, 0) + before;
        for (u32 c = 0; c < listed; ++c) tasks[at + c] = (u64)index << 32 | c;
    }
    return row.valid;
}

// Adds what list_tasks() told the lanes of a warp.
__device__ __forceinline__ void add_expected(u32* queue, u64 synapses) {
    for (u32 d = WARP_SIZE / 2; d > 0; d >>= 1) synapses += __shfl_xor_sync(FULL_MASK, synapses, d);
    if (lane_id() == 0 && synapses) atomicAdd(expected_of(queue), synapses);
}
