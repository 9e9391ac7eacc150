// archival.cu -- phases 3 and 5: from fired bits to ascending ids, and clean counters for the next burst.
//
// The fired bits that dynamics wrote are themselves the ledger's entry of this burst: history costs nothing more.
#include "physics.cuh"
#include "state.cuh"

// tile_start = exclusive sums of tile_count. One block; thread t takes a contiguous chunk of tiles.
KERNEL scan_fired(const State s) {
    __shared__ u32 warp_total[1024 / WARP_SIZE];
    u32 each = (s.tiles + blockDim.x - 1) / blockDim.x;
    u32 first = min(threadIdx.x * each, s.tiles), last = min(first + each, s.tiles);
    u32 sum = 0;
    for (u32 t = first; t < last; ++t) sum += s.tile_count[t];

    u32 before = warp_sum_before(sum);
    if (lane_id() == WARP_SIZE - 1) warp_total[threadIdx.x / WARP_SIZE] = before + sum;
    __syncthreads();
    for (u32 w = 0; w < threadIdx.x / WARP_SIZE; ++w) before += warp_total[w];

    for (u32 t = first; t < last; ++t) {
        u32 count = s.tile_count[t];
        s.tile_start[t] = before;
        s.tile_count[t] = 0;
        before += count;
    }
    if (threadIdx.x == blockDim.x - 1) s.queue[0] = before;  // the last thread has summed everything
    // The queue that was delivered in this burst is the next one's to fill: its counters start at 0.
    for (u32 c = threadIdx.x; c < 2 * COUNTERS; c += blockDim.x) s.previous_queue[2 + c] = 0;
}

// A warp a tile, a lane a word.
KERNEL write_fired(const State s) {
    Range mine = split(s.tiles, warp_index(), warp_count());
    for (u64 tile = mine.first; tile < mine.last; tile += mine.step) {
        u32 start = s.tile_start[tile];
        u32 end = tile + 1 < s.tiles ? s.tile_start[tile + 1] : s.queue[0];
        for (u32 base = 0; base < TILE_WORDS && start < end; base += WARP_SIZE) {  // both bounds are warp-uniform
            u32 word = (u32)tile * TILE_WORDS + base + lane_id();
            u32 bits = word < s.words ? s.fired_bits[word] : 0;
            u32 count = (u32)__popc(bits), at = start + warp_sum_before(count);
            start += warp_sum(count);
            for (; bits; bits &= bits - 1, ++at) {
                u32 j = word * WORD_NEURONS + (u32)__ffs((int)bits) - 1;
                float v = s.fire_potential[j];
                s.queue[QUEUE_HEADER + at] = j;
                s.queue_potential[at] = v;
                s.queue_psp[at] = psp_of_potential(v);
            }
        }
    }
}
