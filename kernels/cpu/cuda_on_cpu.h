// cuda_on_cpu.h -- compiles the project's CUDA kernels as C++20 and runs them on a CPU.
//
//   #include "cuda_on_cpu.h"          the words of CUDA (this file, intrinsics.h, fibers.h)
//   #include "dynamics.cu" ...        the kernels, untouched
//   #include "launch.h"               thread pool, npu_launch()
//   NPU_EXPORT(update_neurons) ...    one line a kernel, written by the builder
//
// Two builds of one kernel source:
//
//   emulated (default)        32-lane warps and blocks of up to 1024 threads. A CUDA thread becomes a fiber only when
//                             it must wait for another; threads that never wait run as a plain loop. Blocks are dealt
//                             out to OS threads that use real atomics. Slow; meant for tests and sanitizers.
//   flat (-DCUEMU_FLAT)       WARP_SIZE 1, one thread a block: warp and block collectives are identities, a __shared__
//                             array is a local one, and the kernel is a plain loop. One block a worker: the CPU backend.
//
// What a kernel must keep to: `extern "C" __global__ void`, no template on the kernel itself; grids and blocks of one
// dimension, any size; WARP_SIZE, never a literal 32, 31 or 5; warp- or block-uniform bounds around collectives; dynamic
// shared memory by cuemu::dynamic_shared() where CUDA has an `extern __shared__`; no threads that spin for one another but
// at cuemu_grid_barrier(), no inline PTX.
#pragma once
#include <atomic>
#include <bit>
#include <chrono>
#include <cmath>
#include <cstdarg>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <mutex>
#include <new>
#include <system_error>
#include <thread>
#include <type_traits>
#include <utility>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>

#define __CUDA_ON_CPU__ 1
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __grid_constant__
#define __constant__ static
#define __align__(n) alignas(n)
#ifdef CUEMU_FLAT
#  define WARP_SIZE 1
#  define __shared__                 /* one thread a block: an automatic array will do */
#else
#  define WARP_SIZE 32
#  define __shared__ thread_local    /* an OS thread runs one block at a time */
#endif

// Under TSan the emulator itself is not instrumented (its bookkeeping is shared between "threads" by design), the
// kernels are, and the order that barriers promise is told to TSan by hand.
#if defined(__SANITIZE_THREAD__)
#  define CUEMU_TSAN 1
#  define CUEMU_RT __attribute__((noinline, no_sanitize("thread")))
#  define CUEMU_HOT CUEMU_RT
#  define __global__ __attribute__((noinline))
#  define CUEMU_ACQUIRE(p) __tsan_acquire(p)
#  define CUEMU_RELEASE(p) __tsan_release(p)
extern "C" {
void* __tsan_create_fiber(unsigned);
void* __tsan_get_current_fiber();
void __tsan_switch_to_fiber(void*, unsigned);
void __tsan_acquire(void*);
void __tsan_release(void*);
}
#else
#  define CUEMU_TSAN 0
#  define CUEMU_RT __attribute__((noinline))
#  define CUEMU_HOT __attribute__((always_inline))
#  define __global__
#  define CUEMU_ACQUIRE(p) ((void)(p))
#  define CUEMU_RELEASE(p) ((void)(p))
#endif
#if defined(__SANITIZE_ADDRESS__)
#  define CUEMU_ASAN 1
extern "C" {
void __sanitizer_start_switch_fiber(void**, const void*, size_t);
void __sanitizer_finish_switch_fiber(void*, const void**, size_t*);
void __asan_poison_memory_region(void const volatile*, size_t);
void __asan_unpoison_memory_region(void const volatile*, size_t);
}
#else
#  define CUEMU_ASAN 0
#endif

// Vector types, with the alignment that CUDA gives them.
template <class T> struct alignas(2 * sizeof(T)) cuemu_vec2 { T x, y; };
template <class T> struct alignas(4 * sizeof(T) < 16 ? 4 * sizeof(T) : 16) cuemu_vec4 { T x, y, z, w; };
using uchar2 = cuemu_vec2<unsigned char>;           using uchar4 = cuemu_vec4<unsigned char>;
using ushort2 = cuemu_vec2<unsigned short>;         using ushort4 = cuemu_vec4<unsigned short>;
using int2 = cuemu_vec2<int>;                       using int4 = cuemu_vec4<int>;
using uint2 = cuemu_vec2<unsigned>;                 using uint4 = cuemu_vec4<unsigned>;
using float2 = cuemu_vec2<float>;                   using float4 = cuemu_vec4<float>;
using ulonglong2 = cuemu_vec2<unsigned long long>;  using ulonglong4 = cuemu_vec4<unsigned long long>;
inline int2 make_int2(int x, int y) { return {x, y}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline float2 make_float2(float x, float y) { return {x, y}; }

// Where a thread is. Grids and blocks have one dimension.
struct cuemu_index { unsigned x; static constexpr unsigned y = 0, z = 0; };
struct cuemu_extent { unsigned x; static constexpr unsigned y = 1, z = 1; };
inline thread_local cuemu_index blockIdx;
inline thread_local cuemu_extent gridDim;
#ifdef CUEMU_FLAT
struct cuemu_zero { static constexpr unsigned x = 0, y = 0, z = 0; };
struct cuemu_one { static constexpr unsigned x = 1, y = 1, z = 1; };
inline constexpr cuemu_zero threadIdx{};
inline constexpr cuemu_one blockDim{};
#else
inline thread_local cuemu_index threadIdx;
inline thread_local cuemu_extent blockDim;
#endif

namespace cuemu {

// True while the launch in progress has one worker: atomics need no lock prefix. Written between launches only.
inline bool single = false;

// The first failure of a batch, and whether there was one.
inline std::atomic<bool> failed{false};
inline char error[512];

__attribute__((format(printf, 1, 2))) CUEMU_RT inline void fail(const char* format, ...) {
    if (failed.exchange(true)) return;
    va_list list;
    va_start(list, format);
    std::vsnprintf(error, sizeof error, format, list);
    va_end(list);
}

}  // namespace cuemu

#include "meeting.h"
#ifndef CUEMU_FLAT
#include "fibers.h"
#endif
#include "intrinsics.h"
