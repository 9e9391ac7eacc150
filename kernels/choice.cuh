// choice.cuh -- which strategy delivers a burst: a model of its time.
//
// Rates of an H200, a nanosecond, as expected from published figures: nothing here has been measured. Only their ratios
// decide; profiling/NOTES.md has where they come from.
#pragma once
#include "slices.cuh"

#define RED_RATE 115.0f         // additions to accumulators in the cache, random targets
#define RED_RATE_MEMORY 40.0f   // and to accumulators that are not
#define MERGE_RATE 450.0f       // additions to accumulators, neighbours side by side
#define CELL_RATE 330.0f        // additions in shared memory, all multiprocessors together
#define SEEK_RATE 30.0f         // rows entered at a target, all multiprocessors together
#define PASS_START 2000.0f      // nanoseconds: the reads of a pass that wait for one another
#define SLICES_START 3000.0f    // nanoseconds: cells set to their start and read again, warps that wait for the last

struct Choice {
    u32 strategy, range, slices, shares, parts;
};

// The strategy of least expected time, unless the host forces one. Every block decides alike, from the same numbers.
__device__ __forceinline__ Choice choose(const State& s, u32 fired, u32 tasks, u64 expected) {
    const float events = (float)expected, neurons = (float)s.neurons, blocks = (float)gridDim.x, items = (float)fired + (float)tasks;
    Choice choice = {STRATEGY_ROWS, s.neurons, 1, 1, 1};

    // Fewer rows than warps: each row in as many parts as keep the lanes of a warp busy.
    if (items > 0.0f) {
        float parts = events / items / (float)WARP_SIZE, most = (float)warp_count() / items;
        parts = parts < most ? parts : most;
        if (parts > 1.0f) choice.parts = (u32)parts;
    }
    bool resident = s.neurons <= s.resident_neurons;
    float best = events / (resident ? RED_RATE : RED_RATE_MEMORY);
    if (s.strategy == STRATEGY_CHOOSE && best <= PASS_START) return choice;  // slices begin later still

    float passes = ceilf(neurons / (float)s.resident_neurons), blocked = events / RED_RATE + passes * (PASS_START + items / SEEK_RATE);
    if (s.strategy == STRATEGY_BLOCKED || (s.strategy == STRATEGY_CHOOSE && blocked < best)) {
        choice = {STRATEGY_BLOCKED, s.resident_neurons, 1, 1, 1};
        best = blocked;
    }

    u32 cells = cells_of_block();
    if (cells && s.cell_bits && items > 0.0f) {
        // More slices: more rows to enter. Fewer: more blocks a slice, whose results are merged.
        float fewest = (float)((s.neurons + cells - 1) / cells), most = blocks > fewest ? blocks : fewest;
        float slices = sqrtf(neurons * blocks / items * (SEEK_RATE / MERGE_RATE));
        slices = slices < fewest ? fewest : slices > most ? most : ceilf(slices);
        float shares = floorf(blocks / slices);
        if (shares < 1.0f) shares = 1.0f;
        if (shares > 1.0f) slices = floorf(blocks / shares);  // blocks that would be left over
        float used = slices * shares < blocks ? slices * shares / blocks : 1.0f;
        float time = SLICES_START + events / (CELL_RATE * used) + items * slices / (SEEK_RATE * used) + neurons * shares / MERGE_RATE;
        if (s.strategy == STRATEGY_SLICES || (s.strategy == STRATEGY_CHOOSE && time < best)) choice = {STRATEGY_SLICES, s.neurons, (u32)slices, (u32)shares, 1};
    }
    return choice;
}
