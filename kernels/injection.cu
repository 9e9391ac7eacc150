// injection.cu -- phase 1, external part: staged potentials and forced neurons. Power is a flag that dynamics reads.
#include "physics.cuh"
#include "state.cuh"

// ids[first .. first + n) ascend, equal ids in the order staged. The thread that meets the first of a run of equal ids
// adds the whole run, one at a time: ext = fl32(ext + p), as the order of float additions is part of the result.
KERNEL inject(const State s, const u32* ids, const float* potentials, u64 first, u64 n) {
    ids += first;
    potentials += first;
    u64* accepted = (u64*)(s.queue + 2) + COUNTER_SENSORY;
    Range mine = split(n, thread_index(), thread_count());
    for (u64 i = mine.first; i < mine.last; i += mine.step) {
        u32 j = ids[i];
        if (i > 0 && ids[i - 1] == j) continue;  // before a look at the neuron: it is another thread's
        u8 flags = s.flags[j];
        if (!(flags & FLAG_VALID)) continue;
        float external = flags & FLAG_INJECTED ? s.input[j] : 0.0f;
        u64 k = i;
        for (; k < n && ids[k] == j; ++k) external = add(external, potentials[k]);
        s.input[j] = external;
        s.flags[j] = (u8)(flags | FLAG_INJECTED);
        atomicAdd(accepted, k - i);
    }
}

// ids are unique.
KERNEL force(const State s, const u32* ids, u64 n) {
    Range mine = split(n, thread_index(), thread_count());
    for (u64 i = mine.first; i < mine.last; i += mine.step) {
        u8 flags = s.flags[ids[i]];
        if (flags & FLAG_VALID) s.flags[ids[i]] = (u8)(flags | FLAG_FORCED);
    }
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
