// archival.cu -- phases 3 and 5: from fired bits to ascending ids, and clean counters for the next burst.
//
// The fired bits that dynamics wrote are themselves the ledger's entry of this burst: history costs nothing more.
#include "physics.cuh"
#include "rows.cuh"
#include "burst_view.cuh"

// The fired neurons of a tile, by one warp, a neuron a lane: to the queue from `start` on, and to `ids` unless it is null. Returns
// how many synapses leave those of this lane.
__device__ __forceinline__ u64 write_tile(const State& s, u32 tile, u32 start, u32* ids) {
    u64 synapses = 0;
    for (u32 base = 0; base < TILE_WORDS; base += WARP_SIZE) {
        const u32 own = tile * TILE_WORDS + base + lane_id();
        u32 bits = own < s.words ? s.fired_bits[own] : 0;
        const u32 count = (u32)__popc(bits), before = warp_sum_before(count), fired = warp_sum(count);
        for (u32 round = 0; round < fired; round += WARP_SIZE) {
            const u32 i = round + lane_id(), owner = owner_of(i, before), at = start + i;
            const u32 word = __shfl_sync(FULL_MASK, bits, (int)owner);
            const u32 number = WARP_SIZE == 1 ? 0 : i - __shfl_sync(FULL_MASK, before, (int)owner);  // one lane takes its bits away
            const bool is = i < fired;
            u32 j = 0;
            if (is) {
                j = (tile * TILE_WORDS + base + owner) * WORD_NEURONS + set_bit(word, number);
                s.queue[QUEUE_HEADER + at] = j;
                s.queue_potential[at] = s.fire_potential[j];
                if (ids) ids[at] = j;
            }
            synapses += list_tasks(s, s.queue, s.queue_task, is, at, j);
            if (WARP_SIZE == 1) bits &= bits - 1;
        }
        start += fired;
    }
    return synapses;
}

// The fire queue of this burst, its record, and its ids once more at `ids` where they fit into `room`. Returns, in every
// thread, how many neurons fired. Each block takes a contiguous share of the tiles, each warp a contiguous part of that.
__device__ __forceinline__ u32 archive(const State& s, u32* record, u32* ids, u32 room) {
    __shared__ u32 sum[2];  // fired before this block's tiles; fired in all
    for (u32 i = threadIdx.x; i < 2; i += blockDim.x) sum[i] = 0;
    __syncthreads();
    Range block = block_share<u32>(s.tiles, 1, blockIdx.x, gridDim.x);
    u32 before = 0, all = 0;
    for (u32 t = threadIdx.x; t < s.tiles; t += blockDim.x) {
        u32 count = s.tile_count[t];
        all += count;
        before += t < block.first ? count : 0;
    }
    before = warp_sum(before);
    all = warp_sum(all);
    if (lane_id() == 0) {
        atomicAdd(&sum[0], before);
        atomicAdd(&sum[1], all);
    }
    __syncthreads();
    u32 start = sum[0], fired = sum[1];
    if (fired > room) ids = nullptr;

    Range warp = block_share<u32>((u32)(block.last - block.first), 1, threadIdx.x / WARP_SIZE, warps_in_block());
    u32 first = (u32)(block.first + warp.first), last = (u32)(block.first + warp.last), skipped = 0;
    for (u32 t = (u32)block.first + lane_id(); t < first; t += WARP_SIZE) skipped += s.tile_count[t];
    start += warp_sum(skipped);
    u32* next_count = s.burst & 1 ? s.tile_count - s.tiles : s.tile_count + s.tiles;  // the next burst adds to zeros
    u64 synapses = 0;
    for (u32 tile = first; tile < last; ++tile) {
        u32 count = s.tile_count[tile];
        if (count) synapses += write_tile(s, tile, start, ids);
        if (lane_id() == 0) next_count[tile] = 0;
        start += count;
    }
    add_expected(s.queue, synapses);

    if (is_clerk()) {
        const u64* counters = counters_of(s.queue);
        s.queue[0] = fired;
        record[0] = fired;
        for (u32 c = 0; c < COUNTERS; ++c) counters_of(record)[c] = counters[c];
        counters_of(record)[COUNTERS] = device_clock();
    }
    return fired;
}
