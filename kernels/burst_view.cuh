// burst_view.cuh -- what a burst's number decides: which queue is filled and which delivered, whose slot of the ledger it is.
#pragma once
#include "device.cuh"
#include "state.cuh"

// u32 words from one queue to the other: u64 counters in the header of both are aligned.
__device__ __forceinline__ u32 queue_stride(const State& s) { return (QUEUE_HEADER + s.neurons + 3) / 4 * 4; }

// Makes the queue of a burst the one that is due, to be delivered by synapses of this delay.
__device__ __forceinline__ void set_due(const State& base, State& s, u64 burst, u32 delay, u32 mask) {
    const u32 due = ((u32)burst - delay) & mask;
    s.due_queue = base.queue + (u64)due * queue_stride(base);
    s.due_potential = base.queue_potential + (u64)due * base.neurons;
    s.due_task = base.queue_task + due * base.task_room;
    s.delay = delay;
}

// burst % ledger_slots. The quotient by the reciprocal is at most 1 too small: 2^64 / slots is at most 1 more than that.
__device__ __forceinline__ u32 ledger_slot(const State& s, u64 burst) {
    const u32 rest = (u32)(burst - __umul64hi(burst, s.ledger_reciprocal) * s.ledger_slots);
    return rest < s.ledger_slots ? rest : rest - s.ledger_slots;
}

// The State as burst `burst` sees it: one queue is filled and that of `delay` bursts ago is due, of a power of two of them.
// `LATE`: a delay may be above 1; else these are two queues by turns, which saves registers.
template <bool LATE = true>
__device__ __forceinline__ State at_burst(const State& base, u64 burst) {
    State s = base;
    const u64 odd = burst & 1;
    const u32 mask = LATE ? base.turn_mask : 1, filled = (u32)burst & mask;
    s.queue = base.queue + (u64)filled * queue_stride(base);
    s.queue_potential = base.queue_potential + (u64)filled * base.neurons;
    s.queue_task = base.queue_task + filled * base.task_room;
    set_due(base, s, burst, LATE ? base.delay : 1, mask);
    s.next_queue = LATE ? base.queue + (u64)(((u32)burst + 1) & mask) * queue_stride(base) : s.due_queue;
    s.tile_count = base.tile_count + odd * base.tiles;
    const u32 slot = ledger_slot(base, burst);
    s.fired_bits = base.fired_bits + (u64)slot * base.words;
    s.previous_bits = base.fired_bits + (u64)((slot ? slot : base.ledger_slots) - 1) * base.words;
    s.burst = (u32)burst;
    return s;
}

// Number of the burst that comes next, where the host does not say.
__device__ __forceinline__ u64 next_burst(const State& s) { return FRESH(s.control + CONTROL_BURST) + 1; }
__device__ __forceinline__ State at_next_burst(const State& base) { return at_burst(base, next_burst(base)); }

// Calls deliver(State) for each queue with spikes that is due in burst `burst`, s being its State: that of the one delay, or
// one for each delay that some synapse has. By whole warps, alike in all of them.
template <bool LATE, class F>
__device__ __forceinline__ void for_due(const State& base, const State& s, u64 burst, F deliver) {
    if (!LATE) return deliver(s);
    const u32 count = s.delay_count ? s.delay_count : 1;
    for (u32 first = 0; first < count; first += WARP_SIZE) {  // a lane a delay
        const u32 i = first + lane_id(), delay = s.delay_count && i < count ? s.delays[i] : s.delay;
        const u32 turn = ((u32)burst - delay) & base.turn_mask;
        const bool fired = i < count && base.queue[(u64)turn * queue_stride(base)] > 0;
        for (u32 left = __ballot_sync(FULL_MASK, fired); left; left &= left - 1) {
            State due = s;
            set_due(base, due, burst, __shfl_sync(FULL_MASK, delay, __ffs((int)left) - 1), base.turn_mask);
            deliver(due);
        }
    }
}

// Counters of the burst whose queue this is.
__device__ __forceinline__ u64* counters_of(u32* queue) { return (u64*)(queue + 2); }
