// building.cu -- the rows of a network made from its synapses in any order, chunk by chunk.
//
// The synapses are gone through twice. First they are counted, so that the host can give every row a block just long enough.
// Then they are placed: every synapse of a chunk claims a slot of its row and leaves its number there (which one gets which
// slot is chance), each row sorts the numbers it got, and fetches what they stand for. So rows are in order of age whatever
// the schedule was; compaction (indexing.cu) then sorts them by target.
//
// Bytes of device memory a synapse, with u8 weights and psps: a chunk written 10, counted 9 (and three atomic additions in L2
// while the table fits there); written again 10, claimed 8, filled 10 + 10; packed with its key 6 + 14, placed 14 + 6: 97.
// Sorting a row of 1,000 touches L1 and L2 alone: 2 * 27 exchanges, 650 bytes. So 1e9 synapses generated on an H200 are, by
// this count and 3.9 TB/s (5.5 of L2), 0.03 s of memory, 0.12 s of L2, and 0.2 s for some 2,000 launches and transfers;
// from the host 10 bytes a synapse come twice over the bus. One warp sorts a row: 4 M slots take it about half a second. All of
// this is an estimate; nothing was measured on a GPU.
//
// A chunk: source, target (with SYNAPSE_INHIBITORY), weight, psp and delay of n < 2^32 synapses; delay null: all have one.
#include "rows.cuh"
#include "sorting.cuh"

// Counts in the table, until rows have blocks: capacity is the number of synapses, psp the one psp + 1 (0: none yet) or PSP_EACH.
// The lower half of offset is likewise the one delay (0: none yet) or NOT_ONE, and bit d of delays_seen says that some synapse
// has a delay of d. in_degree counts synapses by target. Counts may wrap: the host sees that their sum is not what was counted.
#define NOT_ONE 0xffffffffu
KERNEL count_synapses(const State s, u64 n, const u32* source, const u32* target, const u8* psp, const u8* delay, u32* in_degree, u32* delays_seen) {
    Range mine = split(n, thread_index(), thread_count());
    for (u64 i = mine.first; i < mine.last; i += mine.step) {
        Row* row = s.rows + source[i];
        u32 one = small_at(psp, s.psp_bytes, i) + 1, seen = atomicCAS(&row->psp, 0u, one);
        if (seen != 0 && seen != one && seen != PSP_EACH) atomicExch(&row->psp, PSP_EACH);
        if (delay) {
            u32 late = delay_at(s, delay, i), *one_delay = (u32*)&row->offset, met = atomicCAS(one_delay, 0u, late);
            if (met != 0 && met != late && met != NOT_ONE) atomicExch(one_delay, NOT_ONE);
            if (met != late) atomicOr(delays_seen + late / 32, 1u << late % 32);
        }
        atomicAdd(&row->capacity, 1u);
        atomicAdd(in_degree + (target[i] & TARGET_MASK), 1u);
    }
}

// Every synapse of a chunk claims the next slot of its row. A row that gets more than it has room for only counts them.
KERNEL claim_slots(const State s, u64 n, const u32* source) {
    Range mine = split(n, thread_index(), thread_count());
    for (u64 i = mine.first; i < mine.last; i += mine.step) {
        Row* row = s.rows + source[i];
        u32 slot = atomicAdd(&row->length, 1u);
        if (slot < row->capacity) slots_of(s, *row).target[slot] = (u32)i;
    }
}

// The slots that rows got in this chunk, from valid on, in order of age and with what belongs there. others[0] counts
// synapses whose psp or delay is not the one that their row was given: the chunks were not those that were counted.
KERNEL fill_rows(const State s, const u32* target, const u8* weight, const u8* psp, const u8* delay, u32* others) {
    Range mine = split(s.neurons, warp_index(), warp_count());
    for (u64 r = mine.first; r < mine.last; r += mine.step) {
        Row row = s.rows[r];
        u32 last = row.length < row.capacity ? row.length : row.capacity, wrong = 0;
        if (last == row.valid) continue;
        Slots to = slots_of(s, row);
        sort_ascending(to.target + row.valid, last - row.valid);
        for (u32 slot = row.valid + lane_id(); slot < last; slot += WARP_SIZE) {
            u32 i = to.target[slot], one = small_at(psp, s.psp_bytes, i);
            to.target[slot] = target[i];
            set_small(to.weight, s.weight_bytes, slot, small_at(weight, s.weight_bytes, i));
            if (to.psp) set_small(to.psp, s.psp_bytes, slot, one);
            else wrong += one != row.psp;
            u32 late = delay ? delay_at(s, delay, i) : row.delay;
            if (to.delay) set_small(to.delay, s.delay_bytes, slot, late);
            else wrong += late != row.delay;
        }
        if (wrong) atomicAdd(others, wrong);
        __syncwarp();  // every lane has read the entry
        if (lane_id() == 0) s.rows[r].valid = last;
    }
}

// 64 random bits: output `number` of SplitMix64 started at `key`, as in generators.py.
__device__ __forceinline__ u64 draw(u64 key, u64 number) {
    u64 z = key + (number + 1) * 0x9E3779B97F4A7C15ull;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ z >> 27) * 0x94D049BB133111EBull;
    return z ^ z >> 31;
}

// Synapses first .. first + n of RandomSynapses (generators.py, which says what they are) as a chunk. weights, psps, delays: the
// lowest, and how many values there are from there on.
KERNEL generate_synapses(const State s, u64 first, u64 n, u32 neurons, u32 degree, u32 incoming, u64 end_key, u64 value_key, u64 sign_key, u64 delay_key, u64 inhibitory_below, u32 weights, u32 weight_values, u32 psps, u32 psp_values, u32 delays, u32 delay_values, u32* source, u32* target, u8* weight, u8* psp, u8* delay) {
    Range mine = split(n, thread_index(), thread_count());
    for (u64 i = mine.first; i < mine.last; i += mine.step) {
        u64 number = first + i, values = draw(value_key, number);
        u32 given = (u32)(number / degree), drawn = (u32)__umul64hi(draw(end_key, number), neurons);
        u32 from = incoming ? drawn : given;
        source[i] = from;
        target[i] = (incoming ? given : drawn) | (draw(sign_key, from) >> 32 < inhibitory_below ? SYNAPSE_INHIBITORY : 0);
        set_small(weight, s.weight_bytes, i, weights + (u32)((values >> 32) * weight_values >> 32));
        set_small(psp, s.psp_bytes, i, psps + (u32)((values & 0xffffffff) * psp_values >> 32));
        if (delay) set_small(delay, s.delay_bytes, i, delays + (u32)((draw(delay_key, number) >> 32) * delay_values >> 32));
    }
}
