// parameters.cu -- values of neurons read and written between bursts, by ids or by area.
#include "device.cuh"
#include "state.cuh"

__device__ __forceinline__ void copy_bytes(u8* to, const u8* from, u32 size) {
    for (u32 b = 0; b < size; ++b) to[b] = from[b];
}

// array[ids[i]] = values[i], elements of `size` bytes; ids are unique.
KERNEL scatter_values(u64 n, const u32* ids, u8* array, u32 size, const u8* values) {
    Range mine = split(n, thread_index(), thread_count());
    for (u64 i = mine.first; i < mine.last; i += mine.step) copy_bytes(array + (u64)ids[i] * size, values + i * size, size);
}

// values[i] = array[ids[i]].
KERNEL gather_values(u64 n, const u32* ids, const u8* array, u32 size, u8* values) {
    Range mine = split(n, thread_index(), thread_count());
    for (u64 i = mine.first; i < mine.last; i += mine.step) copy_bytes(values + i * size, array + (u64)ids[i] * size, size);
}

// Bits of `mask` in flags[ids[i]] become those of bits[i]; bits null: 0. before[i] (unless null) is what the flags were.
KERNEL write_flags(const State s, u64 n, const u32* ids, u32 mask, const u8* bits, u8* before) {
    Range mine = split(n, thread_index(), thread_count());
    for (u64 i = mine.first; i < mine.last; i += mine.step) {
        u8 flags = s.flags[ids[i]];
        if (before) before[i] = flags;
        s.flags[ids[i]] = (u8)((flags & ~mask) | (bits ? bits[i] & mask : 0));
    }
}

// The neurons of an area: array[j] = value (unless array is null), and the bits of `mask` in flags[j] become `bits`.
// valid_only leaves out deleted and not yet created ids. written[0] counts the neurons.
KERNEL write_area(const State s, u32 area, u32 valid_only, u8* array, u32 size, const u8* value, u32 mask, u32 bits, u32* written) {
    Range mine = split(s.neurons, thread_index(), thread_count());
    for (u64 j = mine.first; j < mine.last; j += mine.step) {
        u8 flags = s.flags[j];
        if (s.cortical_area[j] != area || (valid_only && !(flags & FLAG_VALID))) continue;
        if (mask) s.flags[j] = (u8)((flags & ~mask) | bits);
        if (array) copy_bytes(array + j * size, value, size);
        atomicAdd(written, 1u);
    }
}
