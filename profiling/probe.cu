// probe.cu -- what the device can do at best, to hold the bursts against: additions to global and to shared memory, reading,
// copying.
//
// Every kernel strides over its work. Indices are computed, not read, so that the additions are all that memory sees.
#include "device.cuh"

struct alignas(16) Quad { u32 a, b, c, d; };  // one 16-byte load, one 16-byte store

__device__ __forceinline__ u32 mixed(u64 i) {  // 32 well-mixed bits of i
    u32 x = (u32)i * 0x9e3779b9u ^ (u32)(i >> 32);
    x = (x ^ x >> 16) * 0x85ebca6bu;
    x = (x ^ x >> 13) * 0xc2b2ae35u;
    return x ^ x >> 16;
}

// Place of addition i among n. row 0: one behind the other, as when a block merges its slice; 1: anywhere; else as in a row of
// so many synapses, a power of two: ascending, one in each of `row` equal ranges.
__device__ __forceinline__ u64 place(u64 i, u32 n, u32 row) {
    if (row == 0) return i % n;
    if (row == 1) return __umulhi(mixed(i), n);
    u32 width = n / row;
    return (u64)((u32)i & (row - 1)) * width + __umulhi(mixed(i), width);
}

template <class T>
__device__ __forceinline__ void add_all(T* sums, u32 n, u32 row, u64 additions) {
    for (u64 i = thread_index(); i < additions; i += thread_count()) atomicAdd(sums + place(i, n, row), (T)1);
}
KERNEL red_u32(u32* sums, u32 n, u32 row, u64 additions) { add_all(sums, n, row, additions); }
KERNEL red_u64(u64* sums, u32 n, u32 row, u64 additions) { add_all(sums, n, row, additions); }
// With a fence in the kernel the same additions become fetches on compute capability 9.0 and above (see add_shared).
KERNEL atom_u64(u64* sums, u32 n, u32 row, u64 additions) {
    add_all(sums, n, row, additions);
    __threadfence();
}

// Where a block's slice lies: its shared memory, or, in the flat build, which has none, its part of `spare`. Decided by the
// build: a pointer that may be either would make the additions generic ones (ATOM in place of ATOMS).
struct Slice {
    u8* memory;
    u32 bytes;
};
__device__ __forceinline__ Slice slice_of(u8* spare, u32 bytes) {
#if WARP_SIZE == 1
    return {spare + (u64)blockIdx.x * bytes, bytes};
#else
    u32 room = shared_memory_bytes();
    return {shared_memory(), room < bytes ? room : bytes};
#endif
}

// Additions to a slice that only this block sees. At the end each block adds up what is in its slice, which must come to all its
// additions.
template <class T>
__device__ __forceinline__ void add_to_slice(u64* total, u8* spare, u32 bytes, u64 term, u64 additions) {
    Slice room = slice_of(spare, bytes);
    T* slice = (T*)room.memory;
    u32 n = room.bytes / sizeof(T);
    for (u32 i = threadIdx.x; i < n; i += blockDim.x) slice[i] = 0;
    __syncthreads();
    for (u64 i = thread_index(); i < additions; i += thread_count()) {
        T* at = slice + __umulhi(mixed(i), n);
#if WARP_SIZE == 1
        *at += (T)term;
#else
        atomicAdd(at, (T)term);  // not a constant: adding 1 has an instruction of its own
#endif
    }
    __syncthreads();
    u64 sum = 0;
    for (u32 i = threadIdx.x; i < n; i += blockDim.x) sum += slice[i];
    atomicAdd(total, sum);
}
WIDE_KERNEL shared_u32(u64* total, u8* spare, u32 bytes, u64 term, u64 additions) { add_to_slice<u32>(total, spare, bytes, term, additions); }
WIDE_KERNEL shared_u64(u64* total, u8* spare, u32 bytes, u64 term, u64 additions) { add_to_slice<u64>(total, spare, bytes, term, additions); }

// Additions of 32 bits whose result is looked at, as the cells of propagation do: a wrap is passed on.
WIDE_KERNEL shared_cell(u64* total, u8* spare, u32 bytes, u64 term, u64 additions) {
    Slice room = slice_of(spare, bytes);
    u32* cell = (u32*)room.memory;
    u32 n = room.bytes / 4, by = (u32)term;
    for (u32 i = threadIdx.x; i < n; i += blockDim.x) cell[i] = 0;
    __syncthreads();
    for (u64 i = thread_index(); i < additions; i += thread_count()) {
        u32 old = atomicAdd(cell + __umulhi(mixed(i), n), by);
        if (old + by < old) atomicAdd(total, 1ull << 32);
    }
    __syncthreads();
    u64 sum = 0;
    for (u32 i = threadIdx.x; i < n; i += blockDim.x) sum += cell[i];
    atomicAdd(total, sum);
}

KERNEL copy_memory(const u8* in, u8* out, u64 quads) {
    for (u64 i = thread_index(); i < quads; i += thread_count()) ((Quad*)out)[i] = ((const Quad*)in)[i];
}

// total += all 32-bit words; four loads of a thread under way at a time.
KERNEL read_memory(const u8* in, u64* total, u64 quads) {
    const Quad* from = (const Quad*)in;
    u64 sum = 0, step = thread_count();
    for (u64 i = thread_index(); i < quads; i += 4 * step) {
        Quad q[4] = {};
        for (u32 k = 0; k < 4; ++k)
            if (i + k * step < quads) q[k] = from[i + k * step];
        for (u32 k = 0; k < 4; ++k) sum += (u64)q[k].a + q[k].b + q[k].c + q[k].d;
    }
    atomicAdd(total, sum);
}

// Next to nothing, for what a launch costs: counts, and tells the host.
KERNEL count_launches(u64* total, u64* told) {
    if (thread_index() == 0) told[0] = total[0] += 1;
}

// n words to memory of the host, neighbouring threads `apart` words from one another; n is a power of two, `apart` is odd.
KERNEL tell_host(u32* told, u32 n, u32 apart) {
    for (u64 i = thread_index(); i < n; i += thread_count()) told[(u32)i * apart & (n - 1)] = (u32)i + 1;
}

// All blocks meet so many times. In the first meetings each block looks whether the next one came: wrong counts those that had
// not. meetings counts all.
#define LOOKED_AT 8
WIDE_KERNEL meet(u64* arrived, u64* came, u64* wrong, u64* meetings, u32 times) {
    for (u32 i = 0; i < times; ++i) {
        if (i < LOOKED_AT && threadIdx.x == 0) *(volatile u64*)(came + blockIdx.x) = i + 1;
        grid_barrier(arrived);
        if (i < LOOKED_AT && threadIdx.x == 0 && FRESH(came + (blockIdx.x + 1) % gridDim.x) < i + 1) atomicAdd(wrong, 1ull);
    }
    if (thread_index() == 0) meetings[0] += times;
}

WIDE_KERNEL read_clock(u64* readings, u32 n) {
    if (thread_index() == 0)
        for (u32 i = 0; i < n; ++i) readings[i] = device_clock();
}
