// intrinsics.h -- CUDA's device functions on a CPU: atomics, bits, arithmetic, and the collectives of warps and blocks.
//
// The overloads are exactly CUDA's (no atomicAdd(long long*)), so that what compiles here compiles there. Atomics are
// relaxed, as on the GPU. With one worker (`cuemu::single`) they are plain loads and stores.
#pragma once
#define CUEMU_F inline __attribute__((always_inline))

namespace cuemu {

template <class T, class F> CUEMU_F T plain(T* p, F f) {
    T old = *p;
    *p = f(old);
    return old;
}
template <class T, class F> CUEMU_F T exchange_loop(T* p, F f) {
    T old, now;
    __atomic_load(p, &old, __ATOMIC_RELAXED);
    do now = f(old);
    while (!__atomic_compare_exchange(p, &old, &now, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
    return old;
}
template <class T, class F> CUEMU_F T update(T* p, F f) { return single ? plain(p, f) : exchange_loop(p, f); }

template <class T> CUEMU_F uint64_t bits(T v) {
    static_assert(sizeof(T) == 4 || sizeof(T) == 8, "CUDA shuffles 4 or 8 bytes");
    uint64_t u = 0;
    std::memcpy(&u, &v, sizeof v);
    return u;
}
template <class T> CUEMU_F T unbits(uint64_t u) {
    T v;
    std::memcpy(&v, &u, sizeof v);
    return v;
}
template <class I> CUEMU_F I saturate(float x) {           // as CUDA converts: NaN is 0, out of range is the nearest end
    if (x != x) return 0;
    constexpr double low = double(I(-1) < I(0) ? I(1) << (8 * sizeof(I) - 1) : I(0)), high = double(I(-1) < I(0) ? ~(I(1) << (8 * sizeof(I) - 1)) : ~I(0));
    return double(x) <= low ? I(low) : double(x) >= high ? I(high) : I(x);
}

}  // namespace cuemu

// ------------------------------------------------------------------------------------------------------- atomics
#define CUEMU_EXTREMES(T) \
    CUEMU_F T atomicMin(T* p, T v) { return cuemu::update(p, [=](T o) { return v < o ? v : o; }); } \
    CUEMU_F T atomicMax(T* p, T v) { return cuemu::update(p, [=](T o) { return v > o ? v : o; }); }
#define CUEMU_BUILTIN(T, NAME, BUILTIN, EXPRESSION) \
    CUEMU_F T NAME(T* p, T v) { return cuemu::single ? cuemu::plain(p, [=]([[maybe_unused]] T o) { return EXPRESSION; }) : BUILTIN(p, v, __ATOMIC_RELAXED); }
#define CUEMU_ATOMICS(T) \
    CUEMU_BUILTIN(T, atomicAdd, __atomic_fetch_add, o + v) \
    CUEMU_BUILTIN(T, atomicOr, __atomic_fetch_or, o | v) \
    CUEMU_BUILTIN(T, atomicAnd, __atomic_fetch_and, o & v) \
    CUEMU_BUILTIN(T, atomicXor, __atomic_fetch_xor, o ^ v) \
    CUEMU_BUILTIN(T, atomicExch, __atomic_exchange_n, v) \
    CUEMU_EXTREMES(T) \
    CUEMU_F T atomicCAS(T* p, T expected, T v) { \
        if (cuemu::single) return cuemu::plain(p, [=](T o) { return o == expected ? v : o; }); \
        __atomic_compare_exchange_n(p, &expected, v, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED); \
        return expected; \
    }
CUEMU_ATOMICS(int)
CUEMU_ATOMICS(unsigned)
CUEMU_ATOMICS(unsigned long long)
CUEMU_EXTREMES(long long)
CUEMU_BUILTIN(int, atomicSub, __atomic_fetch_sub, o - v)
CUEMU_BUILTIN(unsigned, atomicSub, __atomic_fetch_sub, o - v)
CUEMU_F float atomicAdd(float* p, float v) { return cuemu::update(p, [=](float o) { return o + v; }); }
CUEMU_F double atomicAdd(double* p, double v) { return cuemu::update(p, [=](double o) { return o + v; }); }

// A fence is stronger here than on a GPU: a missing one is not found by running this.
inline void __threadfence() {
    CUEMU_RELEASE(&cuemu::single);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    CUEMU_ACQUIRE(&cuemu::single);
}
inline void __threadfence_block() { __threadfence(); }

// ------------------------------------------------------------------------------------------- bits, loads, arithmetic
CUEMU_F int __popc(unsigned x) { return std::popcount(x); }
CUEMU_F int __popcll(unsigned long long x) { return std::popcount(x); }
CUEMU_F int __ffs(int x) { return __builtin_ffs(x); }
CUEMU_F int __ffsll(long long x) { return __builtin_ffsll(x); }
CUEMU_F int __clz(int x) { return std::countl_zero((unsigned)x); }
CUEMU_F int __clzll(long long x) { return std::countl_zero((unsigned long long)x); }
CUEMU_F unsigned __umulhi(unsigned a, unsigned b) { return unsigned((uint64_t)a * b >> 32); }
CUEMU_F unsigned long long __umul64hi(unsigned long long a, unsigned long long b) { return (unsigned long long)((unsigned __int128)a * b >> 64); }
template <class T> CUEMU_F T __ldg(const T* p) { return *p; }
template <class T> CUEMU_F T min(T a, T b) { return b < a ? b : a; }
template <class T> CUEMU_F T max(T a, T b) { return a < b ? b : a; }
CUEMU_F int __float_as_int(float f) { return std::bit_cast<int>(f); }
CUEMU_F float __int_as_float(int i) { return std::bit_cast<float>(i); }
CUEMU_F unsigned __float_as_uint(float f) { return std::bit_cast<unsigned>(f); }
CUEMU_F float __uint_as_float(unsigned u) { return std::bit_cast<float>(u); }
CUEMU_F float __fadd_rn(float a, float b) { return a + b; }
CUEMU_F float __fsub_rn(float a, float b) { return a - b; }
CUEMU_F float __fmul_rn(float a, float b) { return a * b; }
CUEMU_F float __fdiv_rn(float a, float b) { return a / b; }
CUEMU_F float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
CUEMU_F float __int2float_rn(int x) { return (float)x; }
CUEMU_F float __uint2float_rn(unsigned x) { return (float)x; }
CUEMU_F float __ll2float_rn(long long x) { return (float)x; }
CUEMU_F float __ull2float_rn(unsigned long long x) { return (float)x; }
CUEMU_F int __float2int_rn(float x) { return cuemu::saturate<int>(std::nearbyint(x)); }
CUEMU_F int __float2int_rz(float x) { return cuemu::saturate<int>(x); }
CUEMU_F unsigned __float2uint_rn(float x) { return cuemu::saturate<unsigned>(std::nearbyint(x)); }
CUEMU_F unsigned __float2uint_rz(float x) { return cuemu::saturate<unsigned>(x); }

// ------------------------------------------------------------------------------------------- dynamic shared memory
namespace cuemu {
#ifdef CUEMU_FLAT
CUEMU_F unsigned char* dynamic_shared() { return nullptr; }
CUEMU_F unsigned dynamic_shared_bytes() { return 0; }
#else
inline unsigned char* dynamic_shared() { return me->shared; }
inline unsigned dynamic_shared_bytes() { return me->shared_bytes; }
#endif
}  // namespace cuemu

// ---------------------------------------------------------------------------------------------------- collectives
#ifdef CUEMU_FLAT
CUEMU_F void __syncthreads() {}
CUEMU_F void __syncwarp(unsigned = 1) {}
CUEMU_F int __syncthreads_count(int p) { return p != 0; }
CUEMU_F int __syncthreads_or(int p) { return p != 0; }
CUEMU_F int __syncthreads_and(int p) { return p != 0; }
CUEMU_F unsigned __activemask() { return 1; }
CUEMU_F unsigned __ballot_sync(unsigned, int p) { return p != 0; }
CUEMU_F int __any_sync(unsigned, int p) { return p != 0; }
CUEMU_F int __all_sync(unsigned, int p) { return p != 0; }
template <class T> CUEMU_F T __shfl_sync(unsigned, T v, int, int = 1) { return v; }
template <class T> CUEMU_F T __shfl_up_sync(unsigned, T v, unsigned, int = 1) { return v; }
template <class T> CUEMU_F T __shfl_down_sync(unsigned, T v, unsigned, int = 1) { return v; }
template <class T> CUEMU_F T __shfl_xor_sync(unsigned, T v, int, int = 1) { return v; }
template <class T> CUEMU_F unsigned __match_any_sync(unsigned, T) { return 1; }
#define CUEMU_REDUCE(NAME, UNSIGNED, SIGNED) \
    CUEMU_F unsigned NAME(unsigned, unsigned v) { return v; } \
    CUEMU_F int NAME(unsigned, int v) { return v; }
#else
inline void __syncthreads() { cuemu::barrier(false, "__syncthreads"); }
inline int __syncthreads_count(int p) { cuemu::barrier(p != 0, "__syncthreads_count"); return (int)cuemu::me->true_count; }
inline int __syncthreads_or(int p) { cuemu::barrier(p != 0, "__syncthreads_or"); return cuemu::me->true_count != 0; }
inline int __syncthreads_and(int p) { cuemu::barrier(p != 0, "__syncthreads_and"); return cuemu::me->all_true; }
inline void __syncwarp(unsigned mask = 0xffffffffu) { cuemu::collective(cuemu::SYNC, mask, 0, 0); }
inline unsigned __activemask() { return 1u << cuemu::lane(); }     // legal: a GPU promises no convergence either
inline unsigned __ballot_sync(unsigned mask, int p) { return (unsigned)cuemu::collective(cuemu::BALLOT, mask, p != 0, 0); }
inline int __any_sync(unsigned mask, int p) { return (int)cuemu::collective(cuemu::ANY, mask, p != 0, 0); }
inline int __all_sync(unsigned mask, int p) { return (int)cuemu::collective(cuemu::ALL, mask, p != 0, 0); }
template <class T> T cuemu_shuffle(unsigned mask, T v, unsigned source) {
    return cuemu::unbits<T>(cuemu::collective(cuemu::SHFL, mask, cuemu::bits(v), source));
}
// `w`: the warp is cut into segments of w lanes; a source outside the caller's segment is the caller itself.
template <class T> T __shfl_sync(unsigned mask, T v, int s, int w = 32) {
    unsigned l = cuemu::lane();
    return cuemu_shuffle(mask, v, (l & ~(w - 1u)) | ((unsigned)s & (w - 1u)));
}
template <class T> T __shfl_up_sync(unsigned mask, T v, unsigned d, int w = 32) {
    unsigned l = cuemu::lane();
    return cuemu_shuffle(mask, v, (l & (w - 1u)) >= d ? l - d : l);
}
template <class T> T __shfl_down_sync(unsigned mask, T v, unsigned d, int w = 32) {
    unsigned l = cuemu::lane();
    return cuemu_shuffle(mask, v, (l & (w - 1u)) + d < (unsigned)w ? l + d : l);
}
template <class T> T __shfl_xor_sync(unsigned mask, T v, int d, int w = 32) {
    unsigned l = cuemu::lane(), s = l ^ (unsigned)d;
    return cuemu_shuffle(mask, v, s < (l & ~(w - 1u)) + w ? s : l);
}
template <class T> unsigned __match_any_sync(unsigned mask, T v) { return (unsigned)cuemu::collective(cuemu::MATCH, mask, cuemu::bits(v), 0); }
#define CUEMU_REDUCE(NAME, UNSIGNED, SIGNED) \
    inline unsigned NAME(unsigned mask, unsigned v) { return (unsigned)cuemu::collective(cuemu::UNSIGNED, mask, v, 0); } \
    inline int NAME(unsigned mask, int v) { return (int)cuemu::collective(cuemu::SIGNED, mask, (unsigned)v, 0); }
#endif
CUEMU_REDUCE(__reduce_add_sync, ADD, ADD)
CUEMU_REDUCE(__reduce_min_sync, UMIN, MIN)
CUEMU_REDUCE(__reduce_max_sync, UMAX, MAX)

// All threads of a cooperative launch meet.
inline void cuemu_grid_barrier() {
    __syncthreads();
    if (gridDim.x > 1 && threadIdx.x == 0) cuemu::grid.meet_or_fail(gridDim.x);
    __syncthreads();
}
// Nanoseconds of a clock that all threads share.
inline unsigned long long cuemu_clock() {
    return (unsigned long long)std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch()).count();
}
