// burst_view.cuh -- what a burst's number decides: which queue is filled and which delivered, whose slot of the ledger it is.
#pragma once
#include "device.cuh"
#include "state.cuh"

// u32 words from one queue to the other: u64 counters in the header of both are aligned.
__device__ __forceinline__ u32 queue_stride(const State& s) { return (QUEUE_HEADER + s.neurons + 3) / 4 * 4; }

// The State as burst `burst` sees it: one queue is filled and that of `delay` bursts ago is due, of a power of two of them.
// `LATE`: the delay may be above 1; else these are two queues by turns, which saves registers.
template <bool LATE = true>
__device__ __forceinline__ State at_burst(const State& base, u64 burst) {
    State s = base;
    const u64 odd = burst & 1;
    const u32 mask = LATE ? base.turn_mask : 1, filled = (u32)burst & mask, due = ((u32)burst - (LATE ? base.delay : 1)) & mask;
    const u32 stride = queue_stride(base);
    s.queue = base.queue + (u64)filled * stride;
    s.due_queue = base.queue + (u64)due * stride;
    s.queue_potential = base.queue_potential + (u64)filled * base.neurons;
    s.due_potential = base.queue_potential + (u64)due * base.neurons;
    s.queue_task = base.queue_task + filled * base.task_room;
    s.due_task = base.queue_task + due * base.task_room;
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
