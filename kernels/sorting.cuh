// sorting.cuh -- a warp sorts in place.
#pragma once
#include "types.cuh"

// Pairs of a bitonic step in which both places are below n: blocks of 2 * half places give half pairs each, the last what
// it has.
__device__ __forceinline__ u32 pairs_below(u32 n, u32 half) {
    u32 rest = n % (2 * half);
    return n / (2 * half) * half + (rest > half ? rest - half : 0);
}

template <class T>
__device__ __forceinline__ void put_in_order(T* keys, u32 low, u32 high) {
    T a = keys[low], b = keys[high];
    keys[low] = b < a ? b : a;
    keys[high] = b < a ? a : b;
}

// Sorts n < 2^31 keys, by the whole warp. Bitonic, n log^2 n comparisons: a merge begins with a mirrored step, so that all
// comparisons go one way and a number of keys that is no power of two needs no keys to fill it up. Keys that ascend
// already are only looked at. Equal keys may change places: make them differ where that matters.
template <class T>
__device__ __forceinline__ void sort_ascending(T* keys, u32 n) {
    bool falls = false;
    for (u32 i = 1 + lane_id(); i < n; i += WARP_SIZE) falls |= keys[i] < keys[i - 1];
    bool sorted = !__any_sync(FULL_MASK, falls);
    __syncwarp();  // every lane has looked before one writes, here or in the caller: a vote orders no memory
    if (sorted) return;
    for (u32 half = 1; half < n; half *= 2) {  // ascending runs of `half` keys become runs of twice as many
        for (u32 pair = lane_id(); pair < pairs_below(n, half); pair += WARP_SIZE) {
            u32 k = pair & (half - 1), middle = 2 * (pair - k) + half;
            put_in_order(keys, middle - 1 - k, middle + k);
        }
        __syncwarp();
        for (u32 step = half / 2; step > 0; step /= 2) {
            for (u32 pair = lane_id(); pair < pairs_below(n, step); pair += WARP_SIZE) {
                u32 low = 2 * pair - (pair & (step - 1));
                put_in_order(keys, low, low + step);
            }
            __syncwarp();
        }
    }
}

// How many of n ascending keys are below `key`.
template <class T>
__device__ __forceinline__ u32 keys_below(const T* keys, u32 n, T key) {
    u32 low = 0, high = n;
    while (low < high) {
        u32 middle = low + (high - low) / 2;
        if (keys[middle] < key) low = middle + 1;
        else high = middle;
    }
    return low;
}
