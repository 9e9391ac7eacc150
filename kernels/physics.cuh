// physics.cuh -- the arithmetic of a burst, once. The rules and their numbering are those of the semantics page.
//
// float is IEEE binary32 with round to nearest even; the builds switch fusing, flushing and fast-math off. Every rounded
// result is settled: subnormals and -0 become +0, infinities the largest finite number of their sign.
#pragma once
#include "types.cuh"

#define LARGEST_FLOAT 3.402823466385288598e+38f

// TOGETHER: without a branch, for loops over many neurons that a compiler turns into vector instructions.
template <bool TOGETHER = false>
__device__ __forceinline__ float settle(float x) {
    u32 exponent = __float_as_uint(x) & 0x7f800000u;
    bool ordinary = exponent != 0 && exponent != 0x7f800000u;
    if (!TOGETHER && __builtin_expect(ordinary, 1)) return x;
    float largest = x > 0.0f ? LARGEST_FLOAT : -LARGEST_FLOAT, finite = ordinary ? x : largest;
    return exponent == 0 ? 0.0f : finite;  // zeros and subnormals
}
template <bool TOGETHER = false>
__device__ __forceinline__ float add(float a, float b) { return settle<TOGETHER>(a + b); }
template <bool TOGETHER = false>
__device__ __forceinline__ float multiply(float a, float b) { return settle<TOGETHER>(a * b); }

// Phase 1, step 3: I = fl32(ext + fl32(fl32(syn) * unit)).
__device__ __forceinline__ float candidate_potential(float external, i64 synaptic, float unit) {
    return add(external, multiply((float)synaptic, unit));
}

// Phase 1, step 2: how a fired source turns weight * psp into terms of 2^-F units.
// Non-uniform: floor((m * 2^32 + floor(k / 2)) / k). The division is a multiplication by M = ceil(2^(56 + l) / k),
// l = ceil(log2 k), exact while the dividend stays below 2^56 (m below 2^24); a real division beyond.
struct Share {
    u64 magic;   // M
    u32 shift;   // l
    u32 k;       // valid synapses leaving the source; 0: the area is uniform
};

__device__ __forceinline__ Share share_among(u32 k) {
    u32 l = k > 1 ? 32u - (u32)__clz((int)(k - 1)) : 0u;
    // 2^(56 + l) / k has up to 88 bits: long division in two digits of 32 bits.
    u64 high = 1ull << (24 + l);
    u64 rest = (high % k) << 32;
    u64 magic = ((high / k) << 32) + rest / k + (rest % k != 0);
    return {magic, l, k};
}

__device__ __forceinline__ i64 synaptic_term(u32 m, const Share& share) {
    u64 units = (u64)m << 32;
    if (share.k == 0) return (i64)units;
    units += share.k / 2;
    if (m < (1u << 24)) return (i64)(__umul64hi(units << 8, share.magic) >> share.shift);
    return (i64)(units / share.k);
}

// Where terms have fractions: fl32(fl32(weight * p) / k) to the nearest multiple of 2^-32, ties to even. None is as large as
// 2^31, and what settle() would make 0 is 0 in these units.
__device__ __forceinline__ i64 real_term(float product, u32 k) {
    float term = k ? product / (float)k : product;
    return (i64)rintf(term * 4294967296.0f);
}

// A firing potential as the psp of an mp-driven source: clamped to 0..255, and, where that is asked for, rounded half up.
__device__ __forceinline__ float psp_of_potential(float v, bool round) {
    float p = v > 0.0f ? (v < 255.0f ? v : 255.0f) : 0.0f, whole = floorf(p);
    return round ? whole + (p - whole >= 0.5f ? 1.0f : 0.0f) : p;
}

// r(j, burst) of the semantics: a permuted congruential hash, so that a burst can be replayed without random state.
__device__ __forceinline__ u32 excitability_hash(u32 neuron, u32 burst, u32 random_seed) {
    u32 seed = neuron * 2654435761u + burst * 1597334677u + random_seed;
    u32 s = seed * 747796405u + 2891336453u;
    u32 w = ((s >> ((s >> 28) + 4)) ^ s) * 277803737u;
    return (w >> 22) ^ w;
}

struct Draw {
    u32 neuron, burst, random_seed;
};

__device__ __forceinline__ bool excited(float excitability, const Draw& draw) {
    if (excitability >= 0.999f) return true;
    u32 hash = excitability_hash(draw.neuron, draw.burst, draw.random_seed);
    return excitability > 0.0f && (float)hash * 2.3283064365386963e-10f < excitability;  // 2^-32, exact
}

struct Neuron {
    float potential, threshold, threshold_limit, leak, excitability;
    u32 refractory_period, countdown, fire_limit, fire_count, snooze_period;

    __device__ __forceinline__ bool limited() const { return fire_limit != 0 && fire_limit != 65535; }
    __device__ __forceinline__ bool spent() const { return limited() && fire_count >= fire_limit; }
};

struct Bounds {
    float floor, ceiling;
};

// Step 1: one blocked burst less.
__device__ __forceinline__ void count_down(Neuron& x) {
    x.countdown -= 1;
    if (x.countdown == 0 && x.spent()) x.fire_count = 0;
}

// Step 2: V, the potential with what comes in.
template <bool TOGETHER = false>
__device__ __forceinline__ float charged(float potential, float input, const Bounds& bounds) {
    float v = add<TOGETHER>(potential, input);
    v = v < bounds.floor ? bounds.floor : v;
    return v > bounds.ceiling ? bounds.ceiling : v;
}

// Step 5: what is left of V.
template <bool TOGETHER = false>
__device__ __forceinline__ float leaked(float v, float leak) { return multiply<TOGETHER>(v, settle<TOGETHER>(1.0f - leak)); }

// Steps 2 to 5 of a candidate that is not blocked. Returns whether it fires; `v` is V, the firing potential if it does.
__device__ __forceinline__ bool integrate(Neuron& x, float input, const Draw& draw, const Bounds& bounds, float& v) {
    v = charged(x.potential, input, bounds);
    bool reached = x.threshold <= v && v <= x.threshold_limit;
    if (reached && x.spent()) {  // 3a: the limit of fires in a row; no leak
        x.fire_count = 0;
        x.potential = v;
        return false;
    }
    if (reached && excited(x.excitability, draw)) {
        x.potential = 0.0f;
        x.fire_count = x.fire_count < 65535 ? x.fire_count + 1 : 65535;
        u32 blocked = x.refractory_period + (x.spent() ? x.snooze_period : 0);
        x.countdown = blocked < 65535 ? blocked : 65535;
        return true;
    }
    if (x.limited()) x.fire_count = 0;
    x.potential = leaked(v, x.leak);
    return false;
}
