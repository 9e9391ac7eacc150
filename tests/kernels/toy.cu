// toy.cu -- what CUDA promises, feature by feature, for the tests of the CPU builds and of the devices.
// NVRTC compiles it too: nothing here may exist on the CPU alone.
#ifndef WARP_SIZE
#define WARP_SIZE 32
#endif
#ifndef BUG
#define BUG 0  // tests leave out the BUG-th barrier of block_scan
#endif
#define FULL_MASK (WARP_SIZE == 32 ? 0xffffffffu : 1u)
#define KERNEL extern "C" __global__ void
typedef unsigned char u8;
typedef unsigned int u32;
typedef unsigned long long u64;

struct Toy {  // larger than registers, as the project's State is
    u64 n;
    u32* out;
    const u32* in;
    float scale;
    u32 padding[99];
};

__device__ inline u32 lane_id() { return threadIdx.x % WARP_SIZE; }
__device__ inline u64 thread_id() { return blockIdx.x * (u64)blockDim.x + threadIdx.x; }
__device__ inline u64 thread_count() { return (u64)gridDim.x * blockDim.x; }

// -- launches ----------------------------------------------------------------------------------------------------------
KERNEL by_value(const Toy toy, u32 add, float scale, u64 big) {
    for (u64 i = thread_id(); i < toy.n; i += thread_count()) toy.out[i] = toy.in[i] + add + (u32)(scale * toy.scale) + (u32)(big >> 32);
}
KERNEL increment(u32* values, u64 n) {
    for (u64 i = thread_id(); i < n; i += thread_count()) values[i] += 1;
}
KERNEL neighbour(const u32* in, u32* out, u64 n) {
    for (u64 i = thread_id(); i < n; i += thread_count()) out[i] = in[(i + 1) % n] + 1;
}
KERNEL is_null(const u32* pointer, u8* out) {
    if (thread_id() == 0) out[0] = pointer == nullptr;
}
KERNEL extent(u32* out) {  // blocks of the grid, threads of a block
    if (thread_id() == 0) { out[0] = gridDim.x; out[1] = blockDim.x; }
}
KERNEL order_of_threads(u32* ticket, u32* order) { order[atomicAdd(ticket, 1u)] = threadIdx.x; }
KERNEL multiply(const float* a, const float* b, float* out, u64 n) {
    for (u64 i = thread_id(); i < n; i += thread_count()) out[i] = a[i] * b[i];
}
KERNEL multiply_add(const float* a, const float* b, const float* c, float* out, u64 n) {
    for (u64 i = thread_id(); i < n; i += thread_count()) out[i] = a[i] * b[i] + c[i];
}

// -- atomics: every thread applies each to its own cell of out -----------------------------------------------------------
template <class T> __device__ void all_atomics(T* out, T v) {
    atomicAdd(out + 0, v);
    atomicOr(out + 1, v);
    atomicAnd(out + 2, v);
    atomicXor(out + 3, v);
    atomicMin(out + 4, v);
    atomicMax(out + 5, v);
    if (v == 3) atomicExch(out + 6, v);
    T seen = atomicAdd(out + 7, (T)0), old;
    do { old = seen; seen = atomicCAS(out + 7, old, old + v); } while (seen != old);
}
KERNEL atomics(int* i, u32* u, u64* l, const u32* values, u64 n) {
    for (u64 k = thread_id(); k < n; k += thread_count()) {
        all_atomics(i, (int)values[k]);
        all_atomics(u, values[k]);
        all_atomics(l, (u64)values[k] << 32 | values[k]);
    }
}
KERNEL intrinsics(u32* out) {
    if (thread_id()) return;
    u32 k = 0;
    out[k++] = __popc(0xf0f0u); out[k++] = __popcll(0xf0f0f0f0f0ull); out[k++] = __ffs(0x50); out[k++] = __clz(0x50);
    out[k++] = __ffsll(1ll << 40); out[k++] = __clzll(1ll << 40); out[k++] = __umulhi(0x80000000u, 6u);
    out[k++] = (u32)__umul64hi(0x8000000000000000ull, 14ull);
    out[k++] = __float_as_uint(1.0f); out[k++] = (u32)__uint_as_float(0x40a00000u); out[k++] = (u32)__fadd_rn(1.5f, 2.5f);
    out[k++] = __float_as_uint(__ll2float_rn(-(1ll << 62) - 1)); out[k++] = __float_as_uint(__ull2float_rn(0xffffffffffffffffull));
    out[k++] = __float2int_rn(2.5f); out[k++] = __float2uint_rn(-3.0f); out[k++] = __float2uint_rn(1e20f); out[k++] = __float2int_rn(-1e20f);
    out[k++] = min(3u, 2u); out[k++] = max(3, 7); out[k++] = __ldg(out); out[k++] = (u32)__fmul_rn(3.0f, 2.0f);
}

// -- warps ---------------------------------------------------------------------------------------------------------------
KERNEL warp_sums(const int* in, int* out) {  // one sum a warp; blocks of whole warps
    int v = in[thread_id()];
    for (u32 d = WARP_SIZE / 2; d; d >>= 1) v += __shfl_down_sync(FULL_MASK, v, d);
    if (lane_id() == 0) out[thread_id() / WARP_SIZE] = v;
}
KERNEL shuffles(int* out) {  // one warp
    u32 l = lane_id();
    int* mine = out + 8 * l;
    mine[0] = __shfl_sync(FULL_MASK, (int)l, 5);
    mine[1] = __shfl_sync(FULL_MASK, (int)l, 3, 8);
    mine[2] = __shfl_up_sync(FULL_MASK, (int)l, 3);
    mine[3] = __shfl_down_sync(FULL_MASK, (int)l, 3, 16);
    mine[4] = __shfl_xor_sync(FULL_MASK, (int)l, 9);
    mine[5] = (int)__ballot_sync(FULL_MASK, l % 3 == 0);
    mine[6] = __any_sync(FULL_MASK, l == 7) + 2 * __all_sync(FULL_MASK, l < 31);
    mine[7] = (int)__shfl_sync(FULL_MASK, 1ull << 40 | l, 2) + (int)__popc(__activemask() >> l & 1);
}
KERNEL divergent_halves(int* out) {  // each half has its own mask
    int lane = (int)lane_id(), r;
    if (lane < 16) r = __shfl_sync(0x0000ffffu, lane * 10, 3);
    else {
        r = 1000;
        for (int d = 8; d; d >>= 1) r += __shfl_xor_sync(0xffff0000u, lane, d);
    }
    out[threadIdx.x] = r;
}

// -- blocks --------------------------------------------------------------------------------------------------------------
KERNEL early_exit(int* out) {  // threads that have left do not hold a barrier
    __shared__ int s[64];
    if (threadIdx.x >= 40) return;
    s[threadIdx.x] = (int)threadIdx.x;
    __syncthreads();
    out[threadIdx.x] = s[39 - threadIdx.x] + 100 * __syncthreads_count(threadIdx.x & 1) + 10000 * __syncthreads_or(threadIdx.x == 3) +
                       20000 * __syncthreads_and(threadIdx.x < 39);
}
#define SYNC(n) do { if (BUG != n) __syncthreads(); } while (0)
KERNEL block_scan(const u32* flag, u32* out, u32* count, u64 n) {  // indices whose flag is set, gathered; any order of blocks
    __shared__ u32 sum[1024 / WARP_SIZE];
    __shared__ u32 base;
    u32 warps = (blockDim.x + WARP_SIZE - 1) / WARP_SIZE;
    for (u64 first = blockIdx.x * (u64)blockDim.x; first < n; first += thread_count()) {
        u64 i = first + threadIdx.x;
        bool set = i < n && flag[i];
        u32 mask = __ballot_sync(FULL_MASK, set);
        if (lane_id() == 0) sum[threadIdx.x / WARP_SIZE] = __popc(mask);
        SYNC(1);
        if (threadIdx.x == 0) {
            u32 total = 0;
            for (u32 w = 0; w < warps; ++w) { u32 c = sum[w]; sum[w] = total; total += c; }
            base = atomicAdd(count, total);
        }
        SYNC(2);
        if (set) out[base + sum[threadIdx.x / WARP_SIZE] + __popc(mask & ((1u << lane_id()) - 1))] = (u32)i;
        SYNC(3);  // sum and base are written again in the next round
    }
}

#ifdef __CUDA_ON_CPU__
__device__ inline u8* dynamic_shared() { return cuemu::dynamic_shared(); }
__device__ inline u32 dynamic_shared_bytes() { return cuemu::dynamic_shared_bytes(); }
#else
extern __shared__ __align__(16) u8 room[];
__device__ inline u8* dynamic_shared() { return room; }
__device__ inline u32 dynamic_shared_bytes() { u32 n; asm("mov.u32 %0, %%dynamic_smem_size;" : "=r"(n)); return n; }
#endif
KERNEL shared_histogram(const u32* values, u32* counts, u32* bytes, u64 n) {  // in dynamic shared memory, as far as there is any
    u32* mine = (u32*)dynamic_shared();
    u32 cells = dynamic_shared_bytes() / 4;
    for (u32 i = threadIdx.x; i < cells; i += blockDim.x) mine[i] = 0;
    SYNC(1);
    for (u64 i = thread_id(); i < n && cells; i += thread_count()) atomicAdd(mine + values[i] % cells, 1u);
    SYNC(2);
    for (u32 i = threadIdx.x; i < cells; i += blockDim.x) if (mine[i]) atomicAdd(counts + i, mine[i]);
    if (thread_id() == 0) bytes[0] = dynamic_shared_bytes();
}

// Each block adds to the cell of a round, all meet, and each reads what all have added.
#ifdef __CUDA_ON_CPU__
__device__ inline void grid_meets(u64*) { cuemu_grid_barrier(); }
#else
__device__ inline void grid_meets(u64* arrived) {
    __syncthreads();
    if (threadIdx.x == 0) {
        __threadfence();
        u64 goal = (atomicAdd(arrived, 1ull) / gridDim.x + 1) * gridDim.x;
        while (*(volatile u64*)arrived < goal) {}
        __threadfence();
    }
    __syncthreads();
}
#endif
KERNEL meet_in_rounds(u32* cell, u32* seen, u64* arrived, u64 rounds) {
    for (u64 r = 0; r < rounds; ++r) {
        atomicAdd(cell + r, 1u);
        grid_meets(arrived);
        if (threadIdx.x == 0) seen[blockIdx.x * rounds + r] = cell[r];
    }
}

// -- bugs ----------------------------------------------------------------------------------------------------------------
KERNEL deadlock(int* out) {  // a collective and a barrier in two branches
    if (threadIdx.x < 16) out[0] = (int)__ballot_sync(0xffffffffu, 1);
    else __syncthreads();
}
KERNEL deadlock_of_one_block(u32* out, u64* arrived) {  // the others wait for it
    if (blockIdx.x == 1) {
        if (threadIdx.x < 16) out[0] = __ballot_sync(0xffffffffu, 1);
        else __syncthreads();
    }
    grid_meets(arrived);
}
KERNEL wrong_mask(int* out) { out[threadIdx.x] = (int)__ballot_sync(1u << (lane_id() ^ 1), 1); }
KERNEL missing_atomic(u32* out) { out[0] += 1; }
KERNEL dynamic_shared_out_of_bounds(u32* out) { dynamic_shared()[dynamic_shared_bytes()] = 1; out[0] = 1; }
KERNEL out_of_bounds(u32* out) { out[thread_id()] = 1; }
KERNEL before_the_start(u32* out) { if (thread_id() == 0) out[-1] = 7; }
KERNEL shared_out_of_bounds(u32* out) {
    __shared__ u32 s[8];
    s[threadIdx.x] = 1;
    __syncthreads();
    out[threadIdx.x] = s[threadIdx.x];
}
