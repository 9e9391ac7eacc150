// types.cuh -- names of fixed width, the thread's place in the launch, and the one way in which work is split.
//
// The kernels are built four times from this text: by NVRTC for a GPU, as emulated 32-lane warps on a CPU, the same
// under sanitizers, and "flat" (WARP_SIZE 1, one thread a block, plain loops). So: no literal 32 where a warp is meant,
// any block size and any grid are right, and every loop goes through split() or block_share().
#pragma once

#ifndef WARP_SIZE
#define WARP_SIZE 32
#endif
#define FULL_MASK (WARP_SIZE == 32 ? 0xffffffffu : 1u)
#define FULL_WORD 0xffffffffu  // 32 neurons, a bit each
// Four blocks of 256 a multiprocessor leave a thread 64 registers: room enough that no architecture spills.
#define KERNEL extern "C" __global__ void __launch_bounds__(256, 4)
// All blocks of the launch live at once, one a multiprocessor with all the dynamic shared memory that a block can have, and
// may meet at grid_barrier(). The fewer blocks meet, the sooner; the fewer threads, the more registers each has.
#define WIDE_KERNEL extern "C" __global__ void __launch_bounds__(768, 1)
// Likewise, with 128 registers a thread.
#define ROOMY_KERNEL extern "C" __global__ void __launch_bounds__(512, 1)

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef long long i64;
typedef unsigned long long u64;

__device__ __forceinline__ u32 lane_id() { return threadIdx.x % WARP_SIZE; }
__device__ __forceinline__ u32 warps_in_block() { return (blockDim.x + WARP_SIZE - 1) / WARP_SIZE; }
__device__ __forceinline__ u64 thread_index() { return (u64)blockIdx.x * blockDim.x + threadIdx.x; }
__device__ __forceinline__ u64 thread_count() { return (u64)gridDim.x * blockDim.x; }
// One thread of the launch, for what is to be done once: of the last warp, which has the least else to do.
__device__ __forceinline__ bool is_clerk() { return thread_index() == thread_count() - 1; }
__device__ __forceinline__ u64 warp_index() { return (u64)blockIdx.x * warps_in_block() + threadIdx.x / WARP_SIZE; }
__device__ __forceinline__ u64 warp_count() { return (u64)gridDim.x * warps_in_block(); }

struct Range {
    u64 first, last, step;
};

// The contiguous share of `block` when n items, in groups of `group`, are dealt to `blocks`. With u32: n is below 2^31.
template <class T>
__device__ __forceinline__ Range block_share(T n, T group, T block, T blocks) {
    T groups = (n + group - 1) / group;
    T each = (groups + blocks - 1) / blocks * group;
    T first = block * each, last = first + each;
    return {first < n ? first : n, last < n ? last : n, 1};
}

// Items dealt one by one: for those that cost more in some places than in others.
__device__ __forceinline__ Range dealt(u64 n, u64 who, u64 of) { return {who, n, of}; }

// Items of worker `who` of `of`: strided where neighbouring threads should read neighbouring items, one contiguous
// chunk (of whole groups) a worker in the flat build, so that each core keeps its own range.
__device__ __forceinline__ Range split(u64 n, u64 who, u64 of, u64 group = 1) {
#if WARP_SIZE == 1
    return block_share<u64>(n, group, who, of);
#else
    return dealt(n, who, of);
#endif
}

// Sum over the warp, in every lane.
template <class T>
__device__ __forceinline__ T warp_sum(T v) {
    for (u32 d = WARP_SIZE / 2; d > 0; d >>= 1) v += __shfl_xor_sync(FULL_MASK, v, d);
    return v;
}

// Sum over the lanes below this one.
__device__ __forceinline__ u32 warp_sum_before(u32 v) {
    u32 sum = v;
    for (u32 d = 1; d < WARP_SIZE; d <<= 1) {
        u32 other = __shfl_up_sync(FULL_MASK, sum, d);
        if (lane_id() >= d) sum += other;
    }
    return sum - v;
}

// Who of the warp has item `at`, where each lane has as many as lie from its `before` to that of the next one: the last lane whose
// items begin at or before `at`.
__device__ __forceinline__ u32 owner_of(u32 at, u32 before) {
    u32 owner = 0;
    for (u32 d = WARP_SIZE / 2; d > 0; d >>= 1) owner += __shfl_sync(FULL_MASK, before, (int)(owner + d)) <= at ? d : 0;
    return owner;
}

// Which bit of a word is its set bit number `n`, from 0 on.
__device__ __forceinline__ u32 set_bit(u32 bits, u32 n) {
    if (n == 0) return (u32)__ffs((int)bits) - 1;
    u32 at = 0;
    for (u32 half = 16; half > 0; half >>= 1) {
        const u32 below = (u32)__popc(bits >> at & ((1u << half) - 1));
        if (n < below) continue;
        n -= below;
        at += half;
    }
    return at;
}

// The 32 neurons from `first` on, as far as there are `n`: a bit for each for which f(neuron) is true, in every lane.
template <class F>
__device__ __forceinline__ u32 bits_where(u32 first, u32 n, F f) {
    u32 bits = 0;
#if WARP_SIZE == 1
    if (first + 32 <= n) {
        for (u32 b = 0; b < 32; ++b) bits |= (u32)f(first + b) << b;  // straight enough for vector instructions
        return bits;
    }
#endif
    for (u32 base = 0; base < 32; base += WARP_SIZE) {  // one round, or 32 with one lane
        u32 j = first + base + lane_id();
        bits |= __ballot_sync(FULL_MASK, j < n && f(j)) << base;
    }
    return bits;
}

// Calls f(bit) for every set bit of a word that the whole warp holds, each lane for its own bit, or one lane for all of
// them in turn; returns, in every lane, the bits for which f was true.
template <class F>
__device__ __forceinline__ u32 where_true(u32 bits, F f) {
#if WARP_SIZE == 1
    u32 found = 0;
    for (; bits; bits &= bits - 1) {
        u32 bit = (u32)__ffs((int)bits) - 1;
        found |= (u32)f(bit) << bit;
    }
    return found;
#else
    bool found = false;
    if (bits >> lane_id() & 1) found = f(lane_id());
    return __ballot_sync(FULL_MASK, found);
#endif
}
