// burst_view.cuh -- what a burst's number decides: which queue is filled and which delivered, whose slot of the ledger it is.
#pragma once
#include "device.cuh"
#include "state.cuh"

// u32 words from one queue to the other: u64 counters in the header of both are aligned.
__device__ __forceinline__ u64 queue_stride(const State& s) { return ((u64)QUEUE_HEADER + s.neurons + 3) / 4 * 4; }

// The State as burst `burst` sees it.
__device__ __forceinline__ State at_burst(const State& base, u64 burst) {
    State s = base;
    u64 odd = burst & 1, even = odd ^ 1, stride = queue_stride(base);
    s.queue = base.queue + odd * stride;
    s.previous_queue = base.queue + even * stride;
    s.queue_potential = base.queue_potential + odd * base.neurons;
    s.previous_potential = base.queue_potential + even * base.neurons;
    s.queue_task = base.queue_task + odd * base.task_room;
    s.previous_task = base.queue_task + even * base.task_room;
    s.tile_count = base.tile_count + odd * base.tiles;
    s.fired_bits = base.fired_bits + burst % base.ledger_slots * base.words;
    s.previous_bits = base.fired_bits + (burst - 1) % base.ledger_slots * base.words;
    s.burst = (u32)burst;
    return s;
}

// Number of the burst that comes next, where the host does not say.
__device__ __forceinline__ u64 next_burst(const State& s) { return FRESH(s.control + CONTROL_BURST) + 1; }
__device__ __forceinline__ State at_next_burst(const State& base) { return at_burst(base, next_burst(base)); }

// Counters of the burst whose queue this is.
__device__ __forceinline__ u64* counters_of(u32* queue) { return (u64*)(queue + 2); }
