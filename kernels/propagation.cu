// propagation.cu -- phase 1, synaptic part: every neuron of the fire queue that is due delivers along its row.
//
// A term is an integer, so the order of the additions does not matter. It is added to accumulator[target] in one
// operation with its arrival: (term << arrival_bits) + 1, and the sum and the count come apart again in dynamics. Where
// that does not fit (fixed-point terms, huge in-degrees) arrivals[] counts apart.
//
// Four strategies, same result:
//   rows      all warps share the fired rows; an atomic addition to global memory for each synapse.
//   slices    each block owns a slice of the targets in shared memory and a share of the rows; the slices are merged. Pays
//             when many synapses deliver to few targets.
//   blocked   as rows, but in passes over ranges of the targets whose accumulators fit the cache.
//   owned     each block owns a slice of the targets in global memory and takes every row. With one thread a block (the
//             CPU build) no addition needs to be atomic and each core keeps its slice in its own cache. Where many fire,
//             there are two sets of accumulators, for two parts of the rows. Not on a GPU, where it is as rows.
// The first three are for a GPU, and chosen by choose(). They enter rows where their range of targets begins.
#include "choice.cuh"
#include "deliver.cuh"
#include "owned.cuh"
#include "slices.cuh"

// Announces the queue that is due anew, where rows were edited since it was written. Its header must say 0 tasks, 0 expected.
__device__ __forceinline__ void tally_queue(const State& s) {
    u64 synapses = 0;
    const u32 fired = s.due_queue[0];
    Range mine = split((fired + WARP_SIZE - 1) / WARP_SIZE, warp_index(), warp_count());
    for (u64 batch = mine.first; batch < mine.last; batch += mine.step) {
        const u32 i = (u32)batch * WARP_SIZE + lane_id();
        const bool is = i < fired;
        synapses += list_tasks(s, s.due_queue, s.due_task, is, i, is ? s.due_queue[QUEUE_HEADER + i] : 0);
    }
    add_expected(s.due_queue, synapses);
}

// Phase 1 on a GPU, of one queue. The header of the queue that is due must be complete. `before`: as Work says. Returns it for the
// queue after this one.
template <bool LATE>
__device__ __forceinline__ u64 propagate_chosen(const State& s, u64 before) {
    u32 fired = s.due_queue[0], tasks = s.due_queue[QUEUE_TASKS];
    u64 expected = *expected_of(s.due_queue);
    if (LATE && s.delay_count) expected = expected / s.delay_count + 1;  // as if all delays were as frequent
    Choice choice = choose(s, fired, tasks, expected);
    Work work = {fired, tasks, choice.parts, before};
    if (choice.strategy == STRATEGY_SLICES) propagate_slices<LATE>(s, work, choice.slices, choice.shares);
    else if (s.real_terms) propagate_ranges<TERMS_REAL, LATE>(s, work, choice.range);
    else if (s.arrivals) propagate_ranges<TERMS_APART, LATE>(s, work, choice.range);
    else propagate_ranges<TERMS_PACKED, LATE>(s, work, choice.range);
    return before + ((u64)fired + tasks) * choice.parts;
}

// -- as launches of their own -------------------------------------------------------------------------------------------
template <bool LATE>
__device__ __forceinline__ void propagate(const State& base, u64 burst) {
    const State s = at_burst<LATE>(base, burst);
#if OWNED_EXISTS
    if (s.strategy == STRATEGY_OWNED) return propagate_owned<LATE>(base, s, burst);
#endif
    u64 before = 0;
    for_due<LATE>(base, s, burst, [&](const State& due) { before = propagate_chosen<LATE>(due, before); });
}
WIDE_KERNEL propagation(const State base) { propagate<false>(base, next_burst(base)); }
// Where spikes are kept for more than one burst.
ROOMY_KERNEL late_propagation(const State base) { propagate<true>(base, next_burst(base)); }

// What would be chosen: strategy, range, slices, shares, parts. For benchmarks and tests.
WIDE_KERNEL choice_of_propagation(const State base, u32 fired, u32 tasks, u64 expected, u32* out) {
    if (thread_index() > 0) return;
    Choice choice = choose(base, fired, tasks, expected);
    out[0] = choice.strategy;
    out[1] = choice.range;
    out[2] = choice.slices;
    out[3] = choice.shares;
    out[4] = choice.parts;
}

// Before propagation where rows were edited since the last burst, of all queues under way: the first by one block.
KERNEL forget_tally(const State base) {
    if (thread_index() > 0) return;
    State s = base;
    for (u32 delay = 1; delay <= base.longest_delay; ++delay) {
        set_due(base, s, next_burst(base), delay, base.turn_mask);
        s.due_queue[QUEUE_TASKS] = 0;
        *expected_of(s.due_queue) = 0;
    }
}
KERNEL tally(const State base) {
    State s = base;
    for (u32 delay = 1; delay <= base.longest_delay; ++delay) {
        set_due(base, s, next_burst(base), delay, base.turn_mask);
        tally_queue(s);
    }
}
