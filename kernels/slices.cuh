// slices.cuh -- the strategy slices: blocks own slices of the targets in shared memory, which are merged.
//
// A target of the slice is a cell of 32 bits, as shared memory adds 64 bits in a loop of compare-and-swap only:
// (sum << cell_bits) + arrivals as in an accumulator, from CELL_START on, modulo 2^32. Arrivals always fit; the sum rarely
// does not, and then the wrap, 2^32, goes to the accumulator at once. Starting in the middle keeps small sums of either
// sign from wrapping to and fro.
#pragma once
#include "deliver.cuh"

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
template <bool LATE>
__device__ __forceinline__ void propagate_slices(const State& s, const Work& work, u32 slices, u32 shares) {
    u32* cell = (u32*)shared_memory();
    const u32 mask = (1u << s.cell_bits) - 1, share = blockIdx.x % shares, groups = gridDim.x / shares;
    if (blockIdx.x / shares >= groups) return;
    for (u32 number = blockIdx.x / shares; number < slices; number += groups) {
        Range slice = block_share<u32>(s.neurons, WORD_NEURONS, number, slices);
        const u32 low = (u32)slice.first, span = (u32)(slice.last - slice.first);
        for (u32 i = threadIdx.x; i < span; i += blockDim.x) cell[i] = CELL_START;
        __syncthreads();
        deliver_range<TERMS_PACKED, LATE>(s, work, warp_across_blocks(share, shares), shares * warps_in_block(), low, low + span, [&](u32 j, u32 m, bool inhibitory, const Share&) {
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
