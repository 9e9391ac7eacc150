// deliver.cuh -- a warp delivers rows: what is to be delivered as work for its lanes, and the additions of a synapse to memory.
// The strategies rows and blocked are this and nothing else.
#pragma once
#include "physics.cuh"
#include "rows.cuh"
#include "burst_view.cuh"

// -- a warp delivers ----------------------------------------------------------------------------------------------------
// A lane's part of what its warp delivers: slots first .. first + count of the row in `block`.
struct Piece {
    const u8* block;
    u32 capacity, first, count;
    u32 form;  // of the block: columns, shifted left by two, + 1 if it holds a psp each, used or not, + 2 if it holds a delay each
    u32 psp;   // the one psp of all slots, or PSP_EACH
    u32 k;     // 0: the area is uniform
    u32 only;  // slots of another delay are passed over; 0: there are none
};

// How the terms of a network are made and counted: integers in an accumulator that counts them, integers or quotients counted
// apart, or terms with fractions, counted apart.
enum Terms { TERMS_PACKED, TERMS_APART, TERMS_REAL };

// The warp walks the slots of all its lanes' pieces as one sequence, so that short rows and long ones fill it alike, and
// calls add(target, m, inhibitory, share) for those that are not removed and whose target is in [low, low + span).
template <Terms TERMS, bool LATE, class Add>
__device__ __forceinline__ void deliver_pieces(const State& s, const Piece& mine, u32 low, u32 span, Add add) {
    constexpr u32 IN_FLIGHT = TERMS == TERMS_PACKED ? SYNAPSES_IN_FLIGHT : 1;  // with more, registers of run_bursts spill
    const u32 before = warp_sum_before(mine.count), total = __shfl_sync(FULL_MASK, before + mine.count, WARP_SIZE - 1);
    const u32 shift = mine.first - before;
    Share own = {};
    if (TERMS == TERMS_APART && mine.k) own = share_among(mine.k);
    if (TERMS == TERMS_REAL) own.k = mine.k;
    for (u32 base = 0; base < total; base += IN_FLIGHT * WARP_SIZE) {
        // All loads of a batch are asked for before the first value is used; lanes that are left over load the last slot again.
        u32 target[IN_FLIGHT], weight[IN_FLIGHT], psp[IN_FLIGHT], owners[IN_FLIGHT];
#pragma unroll
        for (u32 u = 0; u < IN_FLIGHT; ++u) {
            if (base + u * WARP_SIZE >= total) continue;  // the same for all lanes
            u32 at = base + u * WARP_SIZE + lane_id();
            at = at < total ? at : total - 1;
            const u32 owner = owner_of(at, before);
            u32 i = at + __shfl_sync(FULL_MASK, shift, (int)owner);
            u32 capacity = __shfl_sync(FULL_MASK, mine.capacity, (int)owner), one = __shfl_sync(FULL_MASK, mine.psp, (int)owner);
            u32 form = __shfl_sync(FULL_MASK, mine.form, (int)owner);
            u8* block = at_global_address(__shfl_sync(FULL_MASK, global_address(mine.block), (int)owner));
            Slots slots = slots_at(s, block, capacity, form & 1, form >> 2, LATE && form & 2);
            owners[u] = owner;
            target[u] = READ_ONLY(slots.target + i);
            weight[u] = value_at<TERMS == TERMS_REAL>(slots.weight, s.weight_bytes, i);
            psp[u] = one;
            if (one == PSP_EACH) psp[u] = value_at<TERMS == TERMS_REAL>(slots.psp, s.psp_bytes, i);
            if (LATE) {
                u32 only = __shfl_sync(FULL_MASK, mine.only, (int)owner);
                if (only && delay_at(s, slots.delay, i) != only) target[u] |= SYNAPSE_REMOVED;
            }
        }
#pragma unroll
        for (u32 u = 0; u < IN_FLIGHT; ++u) {
            if (base + u * WARP_SIZE >= total) continue;
            Share share = own;
            bool each = false;
            if (TERMS == TERMS_REAL) {
                share.k = __shfl_sync(FULL_MASK, own.k, (int)owners[u]);
                each = __shfl_sync(FULL_MASK, mine.psp, (int)owners[u]) == PSP_EACH;
            }
            if (TERMS == TERMS_APART) {
                share.magic = __shfl_sync(FULL_MASK, own.magic, (int)owners[u]);
                share.shift = __shfl_sync(FULL_MASK, own.shift, (int)owners[u]);
                share.k = __shfl_sync(FULL_MASK, own.k, (int)owners[u]);
            }
            u32 j = target[u] & TARGET_MASK, m = weight[u] * psp[u];
            if (TERMS == TERMS_REAL) m = __float_as_uint(real_of(weight[u], s.weight_bytes) * real_of(psp[u], each ? s.psp_bytes : 4));
            bool there = base + u * WARP_SIZE + lane_id() < total && !(target[u] & SYNAPSE_REMOVED);
            if (there && j - low < span) add(j, m, (target[u] & SYNAPSE_INHIBITORY) != 0, share);
        }
    }
}

// What is to be delivered: fired neurons and tasks, each in so many parts. A part is a unit of work for a lane. `before`: so many
// warps had work from the queues before this one, which is dealt from the next one on.
struct Work {
    u32 fired, tasks, parts;
    u64 before;
};

// Where the targets from `key` on begin in the n ascending slots from `first` on. Targets that are spread evenly are found
// with a few reads; any others cost more.
__device__ __forceinline__ u32 seek(const u32* target, u32 first, u32 n, u32 key, float guess, float density) {
    for (u32 again = 0; again < 2 && guess >= 0.0f && guess < (float)n; ++again)
        guess += (float)((int)key - (int)(target[first + (u32)guess] & TARGET_MASK)) * density;
    u32 start = guess <= 0.0f ? 0 : guess >= (float)n ? n : (u32)guess;
    return first + first_not_below(target + first, n, key, start < n ? start : n ? n - 1 : 0);
}

// Narrows the slots first .. last to part `part` of `parts`.
__device__ __forceinline__ void cut(u32& first, u32& last, u32 part, u32 parts) {
    const u32 end = last, each = (last - first + parts - 1) / parts;
    first = first + part * each < end ? first + part * each : end;
    last = first + each < end ? first + each : end;
}

// A unit as a lane's pieces: slots of the sorted part of its row with targets in [low, high), and of the unsorted tail
// those that may be such. `everything`: no slot has to be looked for, and the tail belongs to the first piece.
// `LATE`: a row may have several delays, and then the slots of the one that is due are a piece, and the tail is another.
template <bool LATE>
__device__ __forceinline__ void cut_unit(const State& s, const Work& work, u32 unit, u32 low, u32 high, bool everything, Piece& piece, Piece& tail) {
    u32 item = unit / work.parts, part = unit % work.parts, index = item, chunk = 0;
    if (item >= work.fired) {
        u64 task = s.due_task[item - work.fired];
        index = (u32)(task >> 32);
        chunk = (u32)task;
    }
    u32 source = s.due_queue[QUEUE_HEADER + index];
    u32 flags = s.flags[source];
    if (!(flags & FLAG_VALID)) return;  // deleted since
    Row row = s.rows[source];
    u32 chunks = chunks_of(s, row);
    if (chunks > 1 && item < work.fired) return;  // its tasks deliver it
    const bool each = LATE && row.delay == DELAY_EACH;
    if (LATE && !each && row.delay != s.delay) return;
    piece = {s.arena + row.offset * BLOCK_ALIGNMENT, row.capacity, 0, 0, 0, delivered_psp(s, flags, row, index), flags & FLAG_NONUNIFORM ? row.valid : 0, 0};
    piece.form = (u32)row.columns << 2 | (u32)each << 1 | (row.psp == PSP_EACH);
    u32 begin = 0, sorted = row.sorted, first = 0, last = row.length;  // ascending by target: begin .. sorted
    if (each) {
        const u8* delays = slots_of(s, row).delay;
        first = begin = first_due(s, delays, 0, row.sorted, s.delay);
        last = sorted = first_due(s, delays, begin, row.sorted, s.delay + 1);
    }
    if (chunks > 1) cut(first, last, chunk, chunks);
    if (work.parts > 1) cut(first, last, part, work.parts);
    tail = piece;
    tail.first = last;
    if (each) {
        u32 tail_end = row.length;
        tail.first = row.sorted;
        if (chunks > 1) cut(tail.first, tail_end, chunk, chunks);
        if (work.parts > 1) cut(tail.first, tail_end, part, work.parts);
        tail.count = tail_end - tail.first;
        tail.only = s.delay;
    }
    if (!everything) {
        u32 end = last < sorted ? last : sorted;
        if (!each) {
            tail.first = first > sorted ? first : end;
            tail.count = last - tail.first;
        }
        if (first >= end) return;
        const u32* target = (const u32*)piece.block;
        float density = (float)(sorted - begin) / (float)s.neurons, guess = (float)low * density - (float)(first - begin);
        u32 n = end - first, from = low == 0 ? first : seek(target, first, n, low, guess, density);
        last = high >= s.neurons ? end : seek(target, from, end - from, high, (float)(high - low) * density, density);
        first = from;
    }
    piece.first = first;
    piece.count = last - first;
}

// This warp's number among those of `blocks` blocks, of which its own is number `block`: neighbours are of different blocks, so
// that few units are spread over all multiprocessors.
__device__ __forceinline__ u32 warp_across_blocks(u32 block, u32 blocks) { return threadIdx.x / WARP_SIZE * blocks + block; }

// Warp `who` of `of` takes its units, and delivers those of their synapses that end in [low, high).
template <Terms TERMS, bool LATE, class Add>
__device__ __forceinline__ void deliver_range(const State& s, const Work& work, u32 who, u32 of, u32 low, u32 high, Add add) {
    u32 units = (work.fired + work.tasks) * work.parts;  // parts: no more units than there are warps, or one
    if (units == 0) return;
    u32 rounds = (units - 1) / (of * WARP_SIZE) + 1, each = (units - 1) / (of * rounds) + 1;
    bool everything = low == 0 && high >= s.neurons;
    Range mine = split((units - 1) / each + 1, who, of);
    for (u64 batch = mine.first; batch < mine.last; batch += mine.step) {
        u32 unit = (u32)batch * each + lane_id();
        Piece piece = {}, tail = {};
        if (lane_id() < each && unit < units) cut_unit<LATE>(s, work, unit, low, high, everything, piece, tail);
        deliver_pieces<TERMS, LATE>(s, piece, low, high - low, add);
        if (__any_sync(FULL_MASK, tail.count > 0)) deliver_pieces<TERMS, LATE>(s, tail, low, high - low, add);
    }
}

// The additions to global memory of one synapse.
template <Terms TERMS>
__device__ __forceinline__ void add_global(const State& s, u32 j, u32 m, bool inhibitory, const Share& share) {
    if (TERMS != TERMS_PACKED) {
        i64 term = TERMS == TERMS_REAL ? real_term(__uint_as_float(m), share.k) : s.fraction_bits ? synaptic_term(m, share) : (i64)m;
        add_shared(s.accumulator + j, inhibitory ? -term : term);
        add_shared(s.arrivals + j, 1u);
    } else {
        i64 term = (i64)((u64)m << s.arrival_bits);
        add_shared(s.accumulator + j, (inhibitory ? -term : term) + 1);
    }
}

// -- rows and blocked ---------------------------------------------------------------------------------------------------
// Passes over ranges of `range` targets; one pass where that is all of them. No pass waits for another.
template <Terms TERMS, bool LATE>
__device__ __forceinline__ void propagate_ranges(const State& s, const Work& work, u32 range) {
    const u32 who = (u32)((warp_across_blocks(blockIdx.x, gridDim.x) + warp_count() - work.before % warp_count()) % warp_count());
    for (u64 low = 0; low < s.neurons; low += range) {
        u32 high = low + range < s.neurons ? (u32)low + range : s.neurons;
        deliver_range<TERMS, LATE>(s, work, who, (u32)warp_count(), (u32)low, high, [&](u32 j, u32 m, bool inhibitory, const Share& share) {
            add_global<TERMS>(s, j, m, inhibitory, share);
        });
    }
}
