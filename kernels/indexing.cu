// indexing.cu -- rows built, edited, listed and moved between bursts. A warp a row throughout.
//
// The host decides where a row goes (the row table entries `planned`); these kernels touch the rows named and no others.
// edit_bytes[0] counts the bytes of rows that edits read and write.
#include "rules.cuh"
#include "sorting.cuh"

__device__ __forceinline__ u32 lanes_before() { return (1u << lane_id()) - 1; }

__device__ __forceinline__ u32 slot_bytes(const State& s, const Slots& slots) {
    return 4 + s.weight_bytes + (slots.psp ? s.psp_bytes : 0) + (slots.delay ? s.delay_bytes : 0) + 2 * slots.columns;
}

__device__ __forceinline__ void count_bytes(const State& s, u64 bytes) {
    if (lane_id() == 0) atomicAdd(s.edit_bytes, bytes);
}

// Copies the synapses of a row that are not removed, in order, to `to`, which may be the same block or one that lies
// apart. Columns that only `to` has become 0. Returns how many there are; `sorted` becomes how many of them stood in the
// sorted part.
__device__ __forceinline__ u32 pack(const State& s, const Row& row, const Slots& from, const Slots& to, u32& sorted) {
    u32 length = 0;
    sorted = 0;
    for (u32 base = 0; base < row.length; base += WARP_SIZE) {
        u32 i = base + lane_id(), target = SYNAPSE_REMOVED, weight = 0, psp = 0, delay = 0;
        if (i < row.length) {
            target = from.target[i];
            weight = small_at(from.weight, s.weight_bytes, i);
            psp = from.psp ? small_at(from.psp, s.psp_bytes, i) : row.psp;
            delay = from.delay ? delay_at(s, from.delay, i) : row.delay;
        }
        bool live = !(target & SYNAPSE_REMOVED);
        u32 lives = __ballot_sync(FULL_MASK, live);
        u32 at = length + (u32)__popc(lives & lanes_before());
        length += (u32)__popc(lives);
        sorted += (u32)__popc(__ballot_sync(FULL_MASK, live && i < row.sorted));
        __syncwarp();  // in place, a slot is read by one lane and written by another
        if (live) {
            to.target[at] = target;
            set_small(to.weight, s.weight_bytes, at, weight);
            if (to.psp) set_small(to.psp, s.psp_bytes, at, psp);
            if (to.delay) set_small(to.delay, s.delay_bytes, at, delay);
        }
        __syncwarp();
        for (u32 c = 0; c < to.columns; ++c) {
            u16 value = live && c < from.columns ? from.column[(u64)c * from.capacity + i] : 0;
            __syncwarp();
            if (live) to.column[(u64)c * to.capacity + at] = value;
            __syncwarp();
        }
    }
    return length;
}

// Adds to row ids[r] the synapses first[r] .. first[r + 1) of the batch, which ascend by target, equal ones by age.
// planned[r] says where the row is afterwards: its old block, the same after squeezing out removed synapses (length
// below old length + added), or a new block; whether it has a psp each, or a delay each, and how many columns: 0 in what is
// added. `delay` null: none has.
KERNEL append_synapses(const State s, u64 n, const u32* ids, const Row* planned, const u32* first, const u32* target, const u8* weight, const u8* psp, const u8* delay) {
    Range mine = split(n, warp_index(), warp_count());
    for (u64 r = mine.first; r < mine.last; r += mine.step) {
        Row old = s.rows[ids[r]], row = planned[r];
        u32 begin = first[r], added = first[r + 1] - begin, kept = row.length - added;
        Slots to = slots_of(s, row);
        u32 sorted = old.sorted;
        if (old.length && (row.offset != old.offset || kept != old.length)) {
            Slots from = slots_of(s, old);
            pack(s, old, from, to, sorted);
            count_bytes(s, (u64)old.length * slot_bytes(s, from) + (u64)kept * slot_bytes(s, to));
        }
        // A batch that goes on where the sorted part ends lengthens it, where one delay serves.
        bool ordered = kept == 0 || (sorted == kept && (added == 0 || (to.target[kept - 1] & TARGET_MASK) <= (target[begin] & TARGET_MASK)));
        row.sorted = ordered && !to.delay ? row.length : sorted;
        for (u32 i = lane_id(); i < added; i += WARP_SIZE) {
            to.target[kept + i] = target[begin + i];
            set_small(to.weight, s.weight_bytes, kept + i, small_at(weight, s.weight_bytes, begin + i));
            if (to.psp) set_small(to.psp, s.psp_bytes, kept + i, small_at(psp, s.psp_bytes, begin + i));
            if (to.delay) set_small(to.delay, s.delay_bytes, kept + i, delay_at(s, delay, begin + i));
            for (u32 c = 0; c < to.columns; ++c) to.column[(u64)c * to.capacity + kept + i] = 0;
            settle_edited(s, ids[r], target[begin + i] & TARGET_MASK, to, kept + i);
        }
        __syncwarp();  // every lane has read the old entry
        if (lane_id() == 0) s.rows[ids[r]] = row;
        count_bytes(s, (u64)added * slot_bytes(s, to) + 2 * sizeof(Row));
    }
}

// The oldest synapse to `key` that is not removed; row.length if there is none. Adds the bytes it read.
__device__ __forceinline__ u32 find_oldest(const State& s, const Row& row, const Slots& slots, u32 key, u64& bytes) {
    const u32* target = slots.target;
    for (u32 first = 0, last; first < row.sorted; first = last) {
        last = end_of_delay(s, slots, first, row.sorted);
        bytes += (slots.delay ? 4 + s.delay_bytes : 4) * (33 - (u32)__clz((int)(last - first)));
        for (u32 i = first + first_not_below(target + first, last - first, key, (last - first) / 2); i < last; ++i) {
            u32 t = target[i];
            bytes += 4;
            if ((t & TARGET_MASK) != key) break;
            if (!(t & SYNAPSE_REMOVED)) return i;
        }
    }
    for (u32 base = row.sorted; base < row.length; base += WARP_SIZE) {
        u32 i = base + lane_id();
        bool here = i < row.length && (target[i] & (TARGET_MASK | SYNAPSE_REMOVED)) == key;
        u32 lanes = __ballot_sync(FULL_MASK, here);
        bytes += 4 * WARP_SIZE;
        if (lanes) return base + (u32)__ffs((int)lanes) - 1;
    }
    return row.length;
}

// Row ids[r]: edits first[r] .. first[r + 1) of the batch, one after the other. With a weight: reweight, and what columns said
// is forgotten. With a delay: that is set, unless the row has one; from a synapse on that is out of order then, the row is
// unsorted. With neither: remove.
KERNEL edit_synapses(const State s, u64 n, const u32* ids, const u32* first, const u32* target, const u8* weight, const u8* delay, u8* found) {
    Range mine = split(n, warp_index(), warp_count());
    for (u64 r = mine.first; r < mine.last; r += mine.step) {
        Row row = s.rows[ids[r]];
        Slots slots = slots_of(s, row);
        u64 bytes = 2 * sizeof(Row);
        u32 valid = row.valid;
        const bool removes = !weight && !delay;
        for (u32 e = first[r]; e < first[r + 1]; ++e) {
            u32 slot = find_oldest(s, row, slots, target[e], bytes);
            bool there = slot < row.length;
            if (there && delay && slot < row.sorted && slots.delay && delay_at(s, slots.delay, slot) != delay_at(s, delay, e)) row.sorted = slot;
            __syncwarp();  // all lanes have searched before one writes
            if (lane_id() == 0) {
                found[e] = there;
                if (there && weight) {
                    set_small(slots.weight, s.weight_bytes, slot, small_at(weight, s.weight_bytes, e));
                    for (u32 c = 0; c < slots.columns; ++c) slots.column[(u64)c * slots.capacity + slot] = 0;
                    settle_edited(s, ids[r], target[e], slots, slot);
                }
                if (there && delay && slots.delay) set_small(slots.delay, s.delay_bytes, slot, delay_at(s, delay, e));
                if (there && removes) slots.target[slot] |= SYNAPSE_REMOVED;
            }
            __syncwarp();
            valid -= there && removes;
        }
        if (lane_id() == 0) {
            s.rows[ids[r]].valid = valid;
            s.rows[ids[r]].sorted = row.sorted;
        }
        count_bytes(s, bytes);
    }
}

// Synapses of rows ids[r] (ids null: base + r) that are not removed and, unless `wanted` is null, end in a neuron whose
// bit is set there. first null: only counts them. Else writes those of row r from first[r] on, targets with their upper bits;
// delays unless that is null.
KERNEL list_synapses(const State s, u64 n, const u32* ids, u32 base, const u32* wanted, u32* count, const u64* first, u32* source, u32* target, u8* weight, u8* psp, u8* delay) {
    Range mine = split(n, warp_index(), warp_count());
    for (u64 r = mine.first; r < mine.last; r += mine.step) {
        u32 id = ids ? ids[r] : base + (u32)r, listed = 0;
        Row row = s.rows[id];
        Slots slots = slots_of(s, row);
        for (u32 begin = 0; begin < row.length; begin += WARP_SIZE) {
            u32 i = begin + lane_id(), t = i < row.length ? slots.target[i] : SYNAPSE_REMOVED, j = t & TARGET_MASK;
            bool take = !(t & SYNAPSE_REMOVED) && (!wanted || (wanted[j / WORD_NEURONS] >> j % WORD_NEURONS & 1));
            u32 taken = __ballot_sync(FULL_MASK, take);
            if (take && first) {
                u64 at = first[r] + listed + (u32)__popc(taken & lanes_before());
                source[at] = id;
                target[at] = t;
                set_small(weight, s.weight_bytes, at, shown_weight(s, id, j, slots, i));
                set_small(psp, s.psp_bytes, at, slots.psp ? small_at(slots.psp, s.psp_bytes, i) : row.psp);
                if (delay) set_small(delay, s.delay_bytes, at, slots.delay ? delay_at(s, slots.delay, i) : row.delay);
            }
            listed += (u32)__popc(taken);
        }
        if (!first && lane_id() == 0) count[r] = listed;
    }
}

// Where a row lies in the scratch of a compaction: a block just long enough, then a key for each slot of the unsorted tail.
struct Packed {
    Slots slots;
    u64* keys;
};
__device__ __forceinline__ Packed packed_at(const State& s, u8* block, const Row& row) {
    Slots slots = slots_at(s, block, row.valid, row.psp == PSP_EACH, row.columns, row.delay == DELAY_EACH);
    u64 units = ((u64)row.valid * slot_bytes(s, slots) + BLOCK_ALIGNMENT - 1) / BLOCK_ALIGNMENT;
    return {slots, (u64*)(block + units * BLOCK_ALIGNMENT)};
}

// Compaction, first step: rows ids[r] without what was removed go to scratch, at packed[r] (units of BLOCK_ALIGNMENT), in
// their old order. packed_sorted[r] is the length of the sorted part: none where a row has several delays, whose runs are not merged
// but sorted anew.
ROOMY_KERNEL pack_rows(const State s, u64 n, const u32* ids, const u64* packed, u32* packed_sorted, u8* scratch) {
    Range mine = split(n, warp_index(), warp_count());
    for (u64 r = mine.first; r < mine.last; r += mine.step) {
        Row row = s.rows[ids[r]];
        u32 sorted;
        pack(s, row, slots_of(s, row), packed_at(s, scratch + packed[r] * BLOCK_ALIGNMENT, row).slots, sorted);
        if (lane_id() == 0) packed_sorted[r] = row.delay == DELAY_EACH ? 0 : sorted;
    }
}

// Bits of a slot, and of a place in the order by target, in a key that orders by delay too. A longer row stays unsorted.
#define PLACE_BITS 23
#define BEHIND (1ull << 63)

// A packed row whose n keys are in order of target and age, in the order of its delays: those that may not lie in the sorted part,
// because an older synapse to the same target has a longer delay, come behind the others in the order that they have. Keys say
// the slot in their lower PLACE_BITS. Returns how many are in the sorted part.
__device__ __forceinline__ u32 order_by_delay(const State& s, const Packed& part, u32 n) {
    if (n >> PLACE_BITS) return 0;
    const u32 mask = (1u << PLACE_BITS) - 1;
    u32 behind = 0;
    // The lane that meets the oldest synapse to a target marks those that stay behind; nothing here is removed.
    for (u32 p = lane_id(); p < n; p += WARP_SIZE) {
        if (p > 0 && part.keys[p - 1] >> 32 == part.keys[p] >> 32) continue;
        u32 longest = 0;
        bool stays = false;
        for (u32 q = p; q < n && part.keys[q] >> 32 == part.keys[p] >> 32; ++q) {
            u32 slot = (u32)part.keys[q], delay = delay_at(s, part.slots.delay, slot);
            stays = stays || delay < longest;
            longest = delay;
            if (stays) part.slots.target[slot] |= SYNAPSE_REMOVED;
            behind += stays;
        }
    }
    __syncwarp();  // all marks are there, and all keys read
    for (u32 p = lane_id(); p < n; p += WARP_SIZE) {
        u32 slot = (u32)part.keys[p] & mask;
        bool stays = part.slots.target[slot] & SYNAPSE_REMOVED;
        u64 order = stays ? BEHIND : (u64)delay_at(s, part.slots.delay, slot) << 2 * PLACE_BITS;
        part.keys[p] = order | (u64)p << PLACE_BITS | slot;
    }
    __syncwarp();
    sort_ascending(part.keys, n);
    return n - warp_sum(behind);
}

// Second step: the tail of each row in order, by keys: target << 32 | slot, so that equal targets stay in order of age.
KERNEL sort_tails(const State s, u64 n, const u32* ids, const u64* packed, u32* packed_sorted, u8* scratch) {
    Range mine = split(n, warp_index(), warp_count());
    for (u64 r = mine.first; r < mine.last; r += mine.step) {
        Row row = s.rows[ids[r]];
        Packed part = packed_at(s, scratch + packed[r] * BLOCK_ALIGNMENT, row);
        u32 sorted = packed_sorted[r];
        for (u32 i = sorted + lane_id(); i < row.valid; i += WARP_SIZE)
            part.keys[i - sorted] = (u64)(part.slots.target[i] & TARGET_MASK) << 32 | i;
        __syncwarp();
        sort_ascending(part.keys, row.valid - sorted);
        if (row.delay != DELAY_EACH) continue;
        sorted = order_by_delay(s, part, row.valid);
        if (lane_id() == 0) packed_sorted[r] = sorted;
    }
}

// Third step: from scratch to where planned[r] says, sorted part and tail merged. A synapse's place is the number of
// synapses before it in its own part and in the other; among equal targets the sorted part is older. The keys of a row with several
// delays are its order.
ROOMY_KERNEL place_rows(const State s, u64 n, const u32* ids, const Row* planned, const u64* packed, const u32* packed_sorted, u8* scratch) {
    Range mine = split(n, warp_index(), warp_count());
    for (u64 r = mine.first; r < mine.last; r += mine.step) {
        Row row = planned[r];
        Packed part = packed_at(s, scratch + packed[r] * BLOCK_ALIGNMENT, row);
        Slots from = part.slots, to = slots_of(s, row);
        const bool ordered = row.delay == DELAY_EACH;
        if (ordered) row.sorted = packed_sorted[r];
        u32 sorted = ordered ? 0 : packed_sorted[r], tail = row.length - sorted, slots = row.length >> PLACE_BITS ? ~0u : (1u << PLACE_BITS) - 1;
        for (u32 k = lane_id(); k < row.length; k += WARP_SIZE) {
            u32 i = k < sorted ? k : (u32)part.keys[k - sorted] & slots, target = from.target[i], key = target & TARGET_MASK, at = k;
            if (!ordered) at = k < sorted ? k + keys_below(part.keys, tail, (u64)key << 32)
                                          : k - sorted + first_not_below(from.target, sorted, key + 1, sorted / 2);
            to.target[at] = target & ~SYNAPSE_REMOVED;
            if (to.delay) set_small(to.delay, s.delay_bytes, at, delay_at(s, from.delay, i));
            set_small(to.weight, s.weight_bytes, at, small_at(from.weight, s.weight_bytes, i));
            if (to.psp) set_small(to.psp, s.psp_bytes, at, small_at(from.psp, s.psp_bytes, i));
            for (u32 c = 0; c < to.columns; ++c) to.column[(u64)c * to.capacity + at] = from.column[(u64)c * from.capacity + i];
        }
        if (lane_id() == 0) s.rows[ids[r]] = row;
    }
}
