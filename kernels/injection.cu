// injection.cu -- phase 1, external part: staged potentials and forced neurons. Power is a flag that dynamics reads.
#include "physics.cuh"
#include "burst_view.cuh"

// A potential that is not a number stands for "force this neuron": injected ones are finite.
__device__ __forceinline__ bool forces(float potential) { return potential != potential; }

// ids[0 .. n) ascend, equal ids in the order staged. The thread that meets the first of a run of equal ids adds the whole
// run, one at a time: ext = fl32(ext + p), as the order of float additions is part of the result.
__device__ __forceinline__ void inject_items(const State& s, const u32* ids, const float* potentials, u64 n) {
    u64 accepted = 0;
    Range mine = split(n, thread_index(), thread_count());
    for (u64 i = mine.first; i < mine.last; i += mine.step) {
        u32 j = ids[i];
        if (i > 0 && ids[i - 1] == j) continue;  // before a look at the neuron: it is another thread's
        u32 flags = s.flags[j];
        if (!(flags & FLAG_VALID)) continue;
        float external = flags & FLAG_INJECTED ? s.input[j] : 0.0f;
        u64 before = accepted;
        for (u64 k = i; k < n && ids[k] == j; ++k) {
            if (forces(potentials[k])) {
                flags |= FLAG_FORCED;
                continue;
            }
            external = add(external, potentials[k]);
            flags |= FLAG_INJECTED;
            ++accepted;
        }
        if (accepted > before) s.input[j] = external;
        s.flags[j] = (u8)flags;
    }
    accepted = warp_sum(accepted);
    if (lane_id() == 0 && accepted) atomicAdd(counters_of(s.queue) + COUNTER_SENSORY_INJECTIONS, accepted);
}

KERNEL inject(const State base, const u32* ids, const float* potentials, u64 first, u64 n) {
    inject_items(at_next_burst(base), ids + first, potentials + first, n);
}

// ids are unique.
KERNEL force(const State s, const u32* ids, u64 n) {
    Range mine = split(n, thread_index(), thread_count());
    for (u64 i = mine.first; i < mine.last; i += mine.step) {
        u8 flags = s.flags[ids[i]];
        if (flags & FLAG_VALID) s.flags[ids[i]] = (u8)(flags | FLAG_FORCED);
    }
}

// Whether anything is scheduled for a burst.
__device__ __forceinline__ bool scheduled(const State& s, u64 burst) {
    u64 i = burst - s.schedule_first;  // before the first: wraps to a large number
    return i < s.schedule_bursts && s.schedule_begin[i] != s.schedule_begin[i + 1];
}

__device__ __forceinline__ void inject_scheduled(const State& s, u64 burst) {
    u64 i = burst - s.schedule_first;
    u32 begin = s.schedule_begin[i];
    inject_items(s, s.schedule_neuron + begin, s.schedule_potential + begin, s.schedule_begin[i + 1] - begin);
}

KERNEL inject_from_schedule(const State base) {
    u64 burst = next_burst(base);
    if (scheduled(base, burst)) inject_scheduled(at_burst(base, burst), burst);
}

// What a device array of injections may not be. wrong[0] ends as the lowest position at fault, shifted left by two, with
// the reason in the low bits: 0 id out of range, 1 ids not ascending, 2 potential not finite. Settles the potentials.
KERNEL check_injection(const State s, const u32* ids, float* potentials, u64 first, u64 n, u64* wrong) {
    ids += first;
    potentials += first;
    Range mine = split(n, thread_index(), thread_count());
    for (u64 i = mine.first; i < mine.last; i += mine.step) {
        if (ids[i] >= s.neurons) atomicMin(wrong, i << 2);
        else if (i > 0 && ids[i - 1] > ids[i]) atomicMin(wrong, (i << 2) + 1);
        else if (!(-LARGEST_FLOAT <= potentials[i] && potentials[i] <= LARGEST_FLOAT)) atomicMin(wrong, (i << 2) + 2);
        potentials[i] = settle(potentials[i]);
    }
}
