// probe.cu -- what the device can do at best, to hold the bursts against: copying, and adding to random places of memory.
//
// Every kernel strides over its work. Indices are computed, not read, so that the additions are all that memory sees.
#define KERNEL extern "C" __global__ void
typedef unsigned char u8;
typedef unsigned int u32;
typedef unsigned long long u64;

struct alignas(16) Quad { u32 a, b, c, d; };  // one 16-byte load, one 16-byte store

#define EACH(i, n) u64 i = blockIdx.x * (u64)blockDim.x + threadIdx.x; i < (n); i += (u64)gridDim.x * blockDim.x

__device__ inline u32 mixed(u64 i) {  // 32 well-mixed bits of i
    u32 x = (u32)i * 0x9e3779b9u ^ (u32)(i >> 32);
    x = (x ^ x >> 16) * 0x85ebca6bu;
    x = (x ^ x >> 13) * 0xc2b2ae35u;
    return x ^ x >> 16;
}

// Place of addition i among n: anywhere (degree 1), or as in a row of `degree` synapses, a power of two: ascending, one in each
// of `degree` equal ranges.
__device__ inline u64 place(u64 i, u32 n, u32 degree) {
    if (degree == 1) return __umulhi(mixed(i), n);
    u32 width = n / degree;
    return (u64)((u32)i & (degree - 1)) * width + __umulhi(mixed(i), width);
}

KERNEL copy_memory(const u8* in, u8* out, u64 quads) {
    for (EACH(i, quads)) ((Quad*)out)[i] = ((const Quad*)in)[i];
}

KERNEL red_u32(u32* sums, u32 n, u32 degree, u64 additions) {
    for (EACH(i, additions)) atomicAdd(sums + place(i, n, degree), 1u);
}

KERNEL red_u64(u64* sums, u32 n, u32 degree, u64 additions) {
    for (EACH(i, additions)) atomicAdd(sums + place(i, n, degree), (u64)1);
}
