// device.cuh -- the only home of what is not portable between a GPU and the CPU builds.
#pragma once
#include "types.cuh"

// A load that sees what other threads have written meanwhile.
#define FRESH(pointer) (*(const volatile u64*)(pointer))

#ifdef __CUDA_ON_CPU__
// Whether STRATEGY_OWNED exists: a GPU has no use for it, and its code would cost the others registers there.
#define OWNED_EXISTS 1
#define SYNAPSES_IN_FLIGHT 4
#define WORDS_AT_ONCE (WARP_SIZE == 1 ? 1 : 4)
#define READ_ONLY(pointer) (*(pointer))
__device__ __forceinline__ void prefetch(const void* p) { __builtin_prefetch(p); }
__device__ __forceinline__ u64 global_address(const void* p) { return (u64)p; }
__device__ __forceinline__ u8* at_global_address(u64 address) { return (u8*)address; }
__device__ __forceinline__ u8* shared_memory() { return cuemu::dynamic_shared(); }
__device__ __forceinline__ u32 shared_memory_bytes() { return cuemu::dynamic_shared_bytes(); }
__device__ __forceinline__ u64 device_clock() { return cuemu_clock(); }
__device__ __forceinline__ void grid_barrier(u64*) { cuemu_grid_barrier(); }
#else
#define OWNED_EXISTS 0
// Synapses whose loads a lane has under way together: as many as have registers.
#define SYNAPSES_IN_FLIGHT (__CUDA_ARCH__ >= 1000 ? 2 : 4)
// Words of neurons at which a warp looks together, likewise.
#define WORDS_AT_ONCE (__CUDA_ARCH__ >= 1000 ? 2 : 4)
// A load through the read-only path: for what no launch of bursts ever writes.
#define READ_ONLY(pointer) __ldg(pointer)
// Warps in flight hide the latency of a row on a GPU; only a CPU is told ahead of time.
__device__ __forceinline__ void prefetch(const void*) {}
// The dynamic shared memory of the block, aligned to 16, and how many bytes of it the launch gave.
extern __shared__ __align__(16) u8 dynamic_shared[];
// A pointer into global memory as a number, and back: after a shuffle too it is then read by LDG, not by LD.
__device__ __forceinline__ u64 global_address(const void* p) { return __cvta_generic_to_global(p); }
__device__ __forceinline__ u8* at_global_address(u64 address) { return (u8*)__cvta_global_to_generic(address); }
__device__ __forceinline__ u8* shared_memory() { return dynamic_shared; }
__device__ __forceinline__ u32 shared_memory_bytes() {
    u32 bytes;
    asm("mov.u32 %0, %%dynamic_smem_size;" : "=r"(bytes));
    return bytes;
}

// Nanoseconds of a clock that all multiprocessors share.
__device__ __forceinline__ u64 device_clock() {
    u64 now;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
    return now;
}

// All threads of the grid meet; what any of them wrote before, all see afterwards. For WIDE_KERNELs. A meeting adds 2^63 to
// `arrived`, however many blocks there are: the top bit turns when the last one comes, and launches of any grid may follow. BARRIER_LIMIT: the
// launch ends as an error where a block waits longer, in nanoseconds.
__device__ __forceinline__ void grid_barrier(u64* arrived) {
    __syncthreads();
    if (threadIdx.x == 0) {
        __threadfence();
        const u64 turn = 1ull << 63;
        u64 before = atomicAdd(arrived, blockIdx.x ? 1ull : turn - (gridDim.x - 1));
#ifdef BARRIER_LIMIT
        const u64 since = device_clock();
        while (!((before ^ FRESH(arrived)) & turn))
            if (device_clock() - since > BARRIER_LIMIT) __trap();
#else
        while (!((before ^ FRESH(arrived)) & turn)) {}
#endif
        __threadfence();
    }
    __syncthreads();
}
#endif

// An addition to global memory whose result nobody reads. Two's complement makes the unsigned one do for i64, which CUDA has
// not. Said in PTX, because from compute capability 9.0 on a kernel that has a fence anywhere, as every one with a grid_barrier(),
// would get a fetch (ATOMG) for an atomicAdd, and a way back through L2 with it.
#ifdef __CUDA_ON_CPU__
__device__ __forceinline__ void add_shared(i64* p, i64 v) { atomicAdd((u64*)p, (u64)v); }
__device__ __forceinline__ void add_shared(u32* p, u32 v) { atomicAdd(p, v); }
#else
__device__ __forceinline__ void add_shared(i64* p, i64 v) {
    asm volatile("red.relaxed.gpu.global.add.u64 [%0], %1;" : : "l"(__cvta_generic_to_global(p)), "l"(v) : "memory");
}
__device__ __forceinline__ void add_shared(u32* p, u32 v) {
    asm volatile("red.relaxed.gpu.global.add.u32 [%0], %1;" : : "l"(__cvta_generic_to_global(p)), "r"(v) : "memory");
}
#endif

// An addition to memory that only this block touches: its threads still race, unless it has just one (flat build).
#if WARP_SIZE == 1
__device__ __forceinline__ void add_owned(i64* p, i64 v) { *p += v; }
__device__ __forceinline__ void add_owned(u32* p, u32 v) { *p += v; }
#else
__device__ __forceinline__ void add_owned(i64* p, i64 v) { add_shared(p, v); }
__device__ __forceinline__ void add_owned(u32* p, u32 v) { add_shared(p, v); }
#endif
