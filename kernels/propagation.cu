// propagation.cu -- phase 1, synaptic part: every neuron of the previous fire queue delivers along its row.
//
// A term is an integer, so the order of the additions does not matter. It is added to accumulator[target] in one
// operation with its arrival: (term << arrival_bits) + 1, and the sum and the count come apart again in dynamics. Where
// that does not fit (fixed-point terms, huge in-degrees) arrivals[] counts apart.
//
// Four strategies, same result:
//   rows      all warps share the fired rows; an atomic addition to global memory for each synapse.
//   slices    each block owns a slice of the targets in shared memory and a share of the rows; the slices are merged. Pays
//             when many synapses deliver to few targets.
//   blocked   as rows, but in passes over ranges of the targets whose accumulators fit the cache.
//   owned     each block owns a slice of the targets in global memory and takes every row. With one thread a block (the
//             CPU build) no addition needs to be atomic and each core keeps its slice in its own cache. Where many fire,
//             there are two sets of accumulators, for two parts of the rows. Not on a GPU, where it is as rows.
// The first three are for a GPU, and chosen by choose(). They enter rows where their range of targets begins.
#include "physics.cuh"
#include "rows.cuh"
#include "turn.cuh"

// Announces the previous queue anew, where rows were edited since it was written. Its header must say 0 tasks, 0 expected.
__device__ __forceinline__ void tally_queue(const State& s) {
    u64 synapses = 0;
    Range mine = split(s.previous_queue[0], thread_index(), thread_count());
    for (u64 i = mine.first; i < mine.last; i += mine.step)
        synapses += announce_row(s, s.previous_queue, s.previous_task, (u32)i, s.previous_queue[QUEUE_HEADER + i]);
    add_expected(s.previous_queue, synapses);
}

// -- a warp delivers ----------------------------------------------------------------------------------------------------
// A lane's part of what its warp delivers: slots first .. first + count of the row in `block`.
struct Piece {
    const u8* block;
    u32 capacity, first, count;
    u32 form;  // of the block: columns, shifted left by one, + 1 if it holds a psp each, used or not
    u32 psp;   // the one psp of all slots, or PSP_EACH
    u32 k;     // 0: the area is uniform
};

// Synapses of a piece that are in flight at a time, for each lane.
#define IN_FLIGHT 4

// The warp walks the slots of all its lanes' pieces as one sequence, so that short rows and long ones fill it alike, and
// calls add(target, m, inhibitory, share) for those that are not removed and whose target is in [low, low + span).
template <bool APART, class Add>
__device__ __forceinline__ void deliver_pieces(const State& s, const Piece& mine, u32 low, u32 span, Add add) {
    const u32 before = warp_sum_before(mine.count), total = __shfl_sync(FULL_MASK, before + mine.count, WARP_SIZE - 1);
    const u32 shift = mine.first - before;
    Share own = {};
    if (APART && mine.k) own = share_among(mine.k);
    for (u32 base = 0; base < total; base += IN_FLIGHT * WARP_SIZE) {
        u32 target[IN_FLIGHT], m[IN_FLIGHT], owners[IN_FLIGHT];
#pragma unroll
        for (u32 u = 0; u < IN_FLIGHT; ++u) {
            target[u] = SYNAPSE_REMOVED;
            m[u] = owners[u] = 0;
            u32 at = base + u * WARP_SIZE + lane_id();
            if (base + u * WARP_SIZE >= total) continue;  // the same for all lanes
            u32 owner = 0;                                // the last lane whose slots begin at or before `at`
            for (u32 d = WARP_SIZE / 2; d > 0; d >>= 1) owner += __shfl_sync(FULL_MASK, before, (int)(owner + d)) <= at ? d : 0;
            u32 i = at + __shfl_sync(FULL_MASK, shift, (int)owner);
            u32 capacity = __shfl_sync(FULL_MASK, mine.capacity, (int)owner), psp = __shfl_sync(FULL_MASK, mine.psp, (int)owner);
            u32 form = __shfl_sync(FULL_MASK, mine.form, (int)owner);
            const u8* block = (const u8*)__shfl_sync(FULL_MASK, (u64)mine.block, (int)owner);
            owners[u] = owner;
            if (at >= total) continue;
            Slots slots = slots_at(s, (u8*)block, capacity, form & 1, form >> 1);
            target[u] = READ_ONLY(slots.target + i);
            m[u] = small_at(slots.weight, s.weight_bytes, i) * (psp == PSP_EACH ? small_at(slots.psp, s.psp_bytes, i) : psp);
        }
#pragma unroll
        for (u32 u = 0; u < IN_FLIGHT; ++u) {
            Share share = own;
            if (APART) {
                if (base + u * WARP_SIZE >= total) continue;
                share.magic = __shfl_sync(FULL_MASK, own.magic, (int)owners[u]);
                share.shift = __shfl_sync(FULL_MASK, own.shift, (int)owners[u]);
                share.k = __shfl_sync(FULL_MASK, own.k, (int)owners[u]);
            }
            u32 j = target[u] & TARGET_MASK;
            if (!(target[u] & SYNAPSE_REMOVED) && j - low < span) add(j, m[u], (target[u] & SYNAPSE_INHIBITORY) != 0, share);
        }
    }
}

// What is to be delivered: fired neurons and tasks, each in so many parts. A part is a unit of work for a lane.
struct Work {
    u32 fired, tasks, parts;
};

// Where the targets from `key` on begin in the n ascending slots from `first` on. Targets that are spread evenly are found
// with a few reads; any others cost more.
__device__ __forceinline__ u32 seek(const u32* target, u32 first, u32 n, u32 key, float guess, float density) {
    for (u32 again = 0; again < 2 && guess >= 0.0f && guess < (float)n; ++again)
        guess += (float)((int)key - (int)(target[first + (u32)guess] & TARGET_MASK)) * density;
    u32 start = guess <= 0.0f ? 0 : guess >= (float)n ? n : (u32)guess;
    return first + first_not_below(target + first, n, key, start < n ? start : n ? n - 1 : 0);
}

// A unit as a lane's pieces: slots of the sorted part of its row with targets in [low, high), and of the unsorted tail
// those that may be such. `everything`: no slot has to be looked for, and the tail belongs to the first piece.
__device__ __forceinline__ void cut_unit(const State& s, const Work& work, u32 unit, u32 low, u32 high, bool everything, Piece& piece, Piece& tail) {
    u32 item = unit / work.parts, part = unit % work.parts, index = item, chunk = 0;
    if (item >= work.fired) {
        u64 task = s.previous_task[item - work.fired];
        index = (u32)(task >> 32);
        chunk = (u32)task;
    }
    u32 source = s.previous_queue[QUEUE_HEADER + index];
    u32 flags = s.flags[source];
    if (!(flags & FLAG_VALID)) return;  // deleted since
    Row row = s.rows[source];
    u32 chunks = chunks_of(s, row);
    if (chunks > 1 && item < work.fired) return;  // its tasks deliver it
    u32 form = row.columns << 1 | (row.psp == PSP_EACH), psp = flags & FLAG_MP_DRIVEN ? s.previous_psp[index] : row.psp;
    piece = {s.arena + row.offset * BLOCK_ALIGNMENT, row.capacity, 0, 0, form, psp, flags & FLAG_NONUNIFORM ? row.valid : 0};
    u32 first = (u32)((u64)row.length * chunk / chunks), last = (u32)((u64)row.length * (chunk + 1) / chunks), slots = last - first;
    last = first + (u32)((u64)slots * (part + 1) / work.parts);
    first += (u32)((u64)slots * part / work.parts);
    tail = piece;
    tail.first = last;
    if (!everything) {
        u32 end = last < row.sorted ? last : row.sorted;
        tail.first = first > row.sorted ? first : end;
        tail.count = last - tail.first;
        if (first >= end) return;
        const u32* target = (const u32*)piece.block;
        float density = (float)row.sorted / (float)s.neurons, guess = (float)low * density - (float)first;
        u32 n = end - first, from = low == 0 ? first : seek(target, first, n, low, guess, density);
        last = high >= s.neurons ? end : seek(target, from, end - from, high, (float)(high - low) * density, density);
        first = from;
    }
    piece.first = first;
    piece.count = last - first;
}

// Warp `who` of `of` takes its units, and delivers those of their synapses that end in [low, high).
template <bool APART, class Add>
__device__ __forceinline__ void deliver_range(const State& s, const Work& work, u32 who, u32 of, u32 low, u32 high, Add add) {
    u32 units = (work.fired + work.tasks) * work.parts;  // parts: no more units than there are warps, or one
    if (units == 0) return;
    u32 rounds = (units - 1) / (of * WARP_SIZE) + 1, each = (units - 1) / (of * rounds) + 1;
    bool everything = low == 0 && high >= s.neurons;
    Range mine = split((units - 1) / each + 1, who, of);
    for (u64 batch = mine.first; batch < mine.last; batch += mine.step) {
        u32 unit = (u32)batch * each + lane_id();
        Piece piece = {}, tail = {};
        if (lane_id() < each && unit < units) cut_unit(s, work, unit, low, high, everything, piece, tail);
        deliver_pieces<APART>(s, piece, low, high - low, add);
        if (__any_sync(FULL_MASK, tail.count > 0)) deliver_pieces<APART>(s, tail, low, high - low, add);
    }
}

// The additions to global memory of one synapse.
template <bool APART>
__device__ __forceinline__ void add_global(const State& s, u32 j, u32 m, bool inhibitory, const Share& share) {
    if (APART) {
        i64 term = s.fraction_bits ? synaptic_term(m, share) : (i64)m;
        add_shared(s.accumulator + j, inhibitory ? -term : term);
        add_shared(s.arrivals + j, 1u);
    } else {
        i64 term = (i64)((u64)m << s.arrival_bits);
        add_shared(s.accumulator + j, (inhibitory ? -term : term) + 1);
    }
}

// -- rows and blocked ---------------------------------------------------------------------------------------------------
// Passes over ranges of `range` targets; one pass where that is all of them. No pass waits for another.
template <bool APART>
__device__ __forceinline__ void propagate_ranges(const State& s, const Work& work, u32 range) {
    for (u64 low = 0; low < s.neurons; low += range) {
        u32 high = low + range < s.neurons ? (u32)low + range : s.neurons;
        deliver_range<APART>(s, work, (u32)warp_index(), (u32)warp_count(), (u32)low, high, [&](u32 j, u32 m, bool inhibitory, const Share& share) {
            add_global<APART>(s, j, m, inhibitory, share);
        });
    }
}

// -- slices -------------------------------------------------------------------------------------------------------------
// A target of the slice is a cell of 32 bits, as shared memory adds 64 bits in a loop of compare-and-swap only:
// (sum << cell_bits) + arrivals as in an accumulator, from CELL_START on, modulo 2^32. Arrivals always fit; the sum rarely
// does not, and then the wrap, 2^32, goes to the accumulator at once. Starting in the middle keeps small sums of either
// sign from wrapping to and fro.
#define CELL_START 0x80000000u

__device__ __forceinline__ u32 cells_of_block() { return shared_memory_bytes() / 4 / WORD_NEURONS * WORD_NEURONS; }

__device__ __forceinline__ void add_cell(const State& s, u32* cell, u32 j, u32 m, bool inhibitory) {
    int by = (int)(m << s.cell_bits);
    by = (inhibitory ? -by : by) + 1;
    u32 old = atomicAdd(cell, (u32)by), now = old + (u32)by;
    if (by < 0 ? now <= old : now >= old) return;
    i64 wrap = (i64)1 << (32 - s.cell_bits + s.arrival_bits);
    add_shared(s.accumulator + j, by < 0 ? -wrap : wrap);
}

// `slices` of the targets, each the work of `shares` blocks; where there are more slices than blocks, one after another.
__device__ __forceinline__ void propagate_slices(const State& s, const Work& work, u32 slices, u32 shares) {
    u32* cell = (u32*)shared_memory();
    const u32 mask = (1u << s.cell_bits) - 1, share = blockIdx.x % shares, groups = gridDim.x / shares;
    if (blockIdx.x / shares >= groups) return;
    for (u32 number = blockIdx.x / shares; number < slices; number += groups) {
        Range slice = block_share(s.neurons, WORD_NEURONS, number, slices);
        const u32 low = (u32)slice.first, span = (u32)(slice.last - slice.first);
        for (u32 i = threadIdx.x; i < span; i += blockDim.x) cell[i] = CELL_START;
        __syncthreads();
        u32 who = share * warps_in_block() + threadIdx.x / WARP_SIZE, of = shares * warps_in_block();
        deliver_range<false>(s, work, who, of, low, low + span, [&](u32 j, u32 m, bool inhibitory, const Share&) {
            add_cell(s, cell + (j - low), j, m, inhibitory);
        });
        __syncthreads();
        for (u32 i = threadIdx.x; i < span; i += blockDim.x) {
            u32 value = cell[i];
            if (value == CELL_START) continue;
            i64 sum = (i64)(value >> s.cell_bits) - (i64)(CELL_START >> s.cell_bits);
            add_shared(s.accumulator + low + i, (i64)((u64)sum << s.arrival_bits) + (value & mask));
        }
        __syncthreads();
    }
}

// -- the choice ---------------------------------------------------------------------------------------------------------
// Rates of an H200, a nanosecond, as expected from published figures: nothing here has been measured. Only their ratios
// decide; profiling/NOTES.md has where they come from.
#define RED_RATE 115.0f         // additions to accumulators in the cache, random targets
#define RED_RATE_MEMORY 40.0f   // and to accumulators that are not
#define MERGE_RATE 450.0f       // additions to accumulators, neighbours side by side
#define CELL_RATE 330.0f        // additions in shared memory, all multiprocessors together
#define SEEK_RATE 30.0f         // rows entered at a target, all multiprocessors together
#define PASS_START 2000.0f      // nanoseconds: the reads of a pass that wait for one another
#define SLICES_START 3000.0f    // nanoseconds: cells set to their start and read again, warps that wait for the last

struct Choice {
    u32 strategy, range, slices, shares, parts;
};

// The strategy of least expected time, unless the host forces one. Every block decides alike, from the same numbers.
__device__ __forceinline__ Choice choose(const State& s, u32 fired, u32 tasks, u64 expected) {
    const float events = (float)expected, neurons = (float)s.neurons, blocks = (float)gridDim.x, items = (float)fired + (float)tasks;
    Choice choice = {STRATEGY_ROWS, s.neurons, 1, 1, 1};

    // Fewer rows than warps: each row in as many parts as keep the lanes of a warp busy.
    if (items > 0.0f) {
        float parts = events / items / (float)WARP_SIZE, most = (float)warp_count() / items;
        parts = parts < most ? parts : most;
        if (parts > 1.0f) choice.parts = (u32)parts;
    }
    bool resident = s.neurons <= s.resident_neurons;
    float best = events / (resident ? RED_RATE : RED_RATE_MEMORY);

    float passes = ceilf(neurons / (float)s.resident_neurons), blocked = events / RED_RATE + passes * (PASS_START + items / SEEK_RATE);
    if (s.strategy == STRATEGY_BLOCKED || (s.strategy == STRATEGY_CHOOSE && blocked < best)) {
        choice = {STRATEGY_BLOCKED, s.resident_neurons, 1, 1, 1};
        best = blocked;
    }

    u32 cells = cells_of_block();
    if (cells && s.cell_bits && items > 0.0f) {
        // More slices: more rows to enter. Fewer: more blocks a slice, whose results are merged.
        float fewest = (float)((s.neurons + cells - 1) / cells), most = blocks > fewest ? blocks : fewest;
        float slices = sqrtf(neurons * blocks / items * (SEEK_RATE / MERGE_RATE));
        slices = slices < fewest ? fewest : slices > most ? most : ceilf(slices);
        float shares = floorf(blocks / slices);
        if (shares < 1.0f) shares = 1.0f;
        if (shares > 1.0f) slices = floorf(blocks / shares);  // blocks that would be left over
        float used = slices * shares < blocks ? slices * shares / blocks : 1.0f;
        float time = SLICES_START + events / (CELL_RATE * used) + items * slices / (SEEK_RATE * used) + neurons * shares / MERGE_RATE;
        if (s.strategy == STRATEGY_SLICES || (s.strategy == STRATEGY_CHOOSE && time < best)) choice = {STRATEGY_SLICES, s.neurons, (u32)slices, (u32)shares, 1};
    }
    return choice;
}

// Phase 1 on a GPU. The header of the previous queue must be complete.
__device__ __forceinline__ void propagate_chosen(const State& s) {
    u32 fired = s.previous_queue[0], tasks = s.previous_queue[QUEUE_TASKS];
    Choice choice = choose(s, fired, tasks, *expected_of(s.previous_queue));
    Work work = {fired, tasks, choice.parts};
    if (choice.strategy == STRATEGY_SLICES) propagate_slices(s, work, choice.slices, choice.shares);
    else if (s.arrivals) propagate_ranges<true>(s, work, choice.range);
    else propagate_ranges<false>(s, work, choice.range);
}

#if OWNED_EXISTS
// -- owned --------------------------------------------------------------------------------------------------------------
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
    u32 source = s.previous_queue[QUEUE_HEADER + fired_index];
    u32 flags = s.flags[source];
    if (!(flags & FLAG_VALID)) return false;
    Row row = s.rows[source];
    Slots slots = slots_of(s, row);
    bool mp_driven = flags & FLAG_MP_DRIVEN;
    d = {slots.target, slots.weight, mp_driven ? nullptr : slots.psp, row.length, row.sorted,
         mp_driven ? s.previous_psp[fired_index] : row.psp, flags & FLAG_NONUNIFORM ? row.valid : 0, s.accumulator};
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

__device__ __forceinline__ void deliver_apart(const State& s, const Delivery& d, u32 first, u32 last, u32 step) {
    Share share = share_among(d.k ? d.k : 1);
    share.k = d.k;
    for (u32 i = first; i < last; i += step) {
        u32 t = READ_ONLY(d.target + i);
        if (t & SYNAPSE_REMOVED) continue;
        u32 m = small_at(d.weight, s.weight_bytes, i) * (d.psp ? small_at(d.psp, s.psp_bytes, i) : d.one_psp);
        i64 term = s.fraction_bits ? synaptic_term(m, share) : (i64)m;
        add_owned(d.accumulator + (t & TARGET_MASK), t & SYNAPSE_INHIBITORY ? -term : term);
        add_owned(s.arrivals + (t & TARGET_MASK), 1u);
    }
}

// Slots first, first + step, ... below last of one row.
__device__ __forceinline__ void deliver(const State& s, const Delivery& d, u32 first, u32 last, u32 step) {
    if (s.arrivals) return deliver_apart(s, d, first, last, step);
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
    const u32 fired = s.previous_queue[0];
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

// -- as launches of their own -------------------------------------------------------------------------------------------
__device__ __forceinline__ void propagate(const State& s) {
#if OWNED_EXISTS
    if (s.strategy == STRATEGY_OWNED) return propagate_owned(s);
#endif
    propagate_chosen(s);
}
WIDE_KERNEL propagation(const State base) { propagate(at_next_burst(base)); }

// What would be chosen: strategy, range, slices, shares, parts. For benchmarks and tests.
WIDE_KERNEL choice_of_propagation(const State base, u32 fired, u32 tasks, u64 expected, u32* out) {
    if (thread_index() > 0) return;
    Choice choice = choose(base, fired, tasks, expected);
    out[0] = choice.strategy;
    out[1] = choice.range;
    out[2] = choice.slices;
    out[3] = choice.shares;
    out[4] = choice.parts;
}

// Before propagation where rows were edited since the last burst: the first by one block.
KERNEL forget_tally(const State base) {
    if (thread_index() > 0) return;
    u32* queue = at_next_burst(base).previous_queue;
    queue[QUEUE_TASKS] = 0;
    *expected_of(queue) = 0;
}
KERNEL tally(const State base) { tally_queue(at_next_burst(base)); }
