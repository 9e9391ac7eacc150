// burst.cu -- many bursts in one launch, with no host in between; and the end of a burst that was launched phase by phase.
//
// All blocks live at once and meet at a barrier of the whole grid after each phase. What decides how a run goes on (the
// number of fired neurons, the room in the ring) every block works out for itself from the same numbers. A launch ends
// when it has reached burst `last`, when its ring is full, or when its time is over; the next one goes on exactly there.
#include "burst_view.cuh"

struct Ring {
    u32* header;   // RING_HEADER words, then `bursts` records, then `ids` ids
    u32 bursts, ids;

    __device__ __forceinline__ u32* record(u32 i) const { return header + RING_HEADER + (u64)i * RECORD; }
    __device__ __forceinline__ u32* id(u32 i) const { return record(bursts) + i; }
};

// By one thread, when all blocks have computed: what the host and the next launch find.
__device__ __forceinline__ void conclude(const State& s, const Ring& ring, u64 burst, u32 bursts, u32 ids, bool unread) {
    ring.header[0] = bursts;
    ring.header[1] = ids;
    ring.header[2] = unread;
    if (bursts) s.control[CONTROL_BURST] = burst;
    if (unread) s.control[CONTROL_UNREAD] = burst;
}

// Bursts up to `last`. `read`: the host has the fired ids of all bursts up to this one; the queue of a later one that did
// not fit its ring may not be overwritten, so nothing is computed then. `nanoseconds`: after this time no burst begins.
// `PLAIN`: there are neither rules nor delays above 1.
template <bool PLAIN>
__device__ __forceinline__ void bursts_of(const State& base, u64 last, u64 read, u32* memory, u32 ring_bursts, u32 ring_ids, u64 nanoseconds) {
    u64 burst = next_burst(base);
    u32 bursts = 0, ids = 0;  // in the ring
    bool go_on = burst <= last && FRESH(base.control + CONTROL_UNREAD) <= read, unread = false;
    if (is_clerk()) base.control[CONTROL_DEADLINE] = device_clock() + nanoseconds;
    if (go_on && scheduled(base, burst)) {
        inject_scheduled(at_burst<!PLAIN>(base, burst), burst);
        grid_barrier(base.control + CONTROL_ARRIVED);
    }
    while (go_on) {
        // The State of the burst anew for each phase: carried along, it would take the registers that phases need.
        propagate<!PLAIN>(base, burst);
        grid_barrier(base.control + CONTROL_ARRIVED);

        step_neurons(at_burst<!PLAIN>(base, burst));
        if (is_clerk()) base.control[CONTROL_LATE] = device_clock() >= base.control[CONTROL_DEADLINE];
        grid_barrier(base.control + CONTROL_ARRIVED);

        Ring ring = {memory, ring_bursts, ring_ids};
        u32 room = ring_ids - ids, fired = archive(at_burst<!PLAIN>(base, burst), ring.record(bursts), ring.id(ids), room);
        unread = fired > room;
        if (!unread) ids += fired;
        ++bursts;
        if (!PLAIN && base.areas) {
            plan(at_burst<!PLAIN>(base, burst));
            grid_barrier(base.control + CONTROL_ARRIVED);
            visit(at_burst<!PLAIN>(base, burst));
        }
        go_on = burst < last && !unread && bursts < ring_bursts && !base.control[CONTROL_LATE];
        if (!go_on) break;
        ++burst;
        // Injection touches nothing that archival does: the next burst's can go on beside it.
        if (scheduled(base, burst)) inject_scheduled(at_burst<!PLAIN>(base, burst), burst);
        grid_barrier(base.control + CONTROL_ARRIVED);
    }
    if (is_clerk()) conclude(base, {memory, ring_bursts, ring_ids}, burst, bursts, ids, unread);
}

WIDE_KERNEL run_bursts(const State base, u64 last, u64 read, u32* memory, u32 ring_bursts, u32 ring_ids, u64 nanoseconds) {
    bursts_of<true>(base, last, read, memory, ring_bursts, ring_ids, nanoseconds);
}
// Where there are plasticity rules or delays above 1. They take registers, which all other networks are spared.
ROOMY_KERNEL run_learning_bursts(const State base, u64 last, u64 read, u32* memory, u32 ring_bursts, u32 ring_ids, u64 nanoseconds) {
    bursts_of<false>(base, last, read, memory, ring_bursts, ring_ids, nanoseconds);
}

// A burst phase by phase: after injection, propagation, dynamics and archival, each a launch of its own.
KERNEL finish_burst(const State base, u32* memory, u32 ring_bursts, u32 ring_ids) {
    if (thread_index() > 0) return;
    u64 burst = next_burst(base);
    u32 fired = at_burst(base, burst).queue[0];
    bool unread = fired > ring_ids;
    conclude(base, {memory, ring_bursts, ring_ids}, burst, 1, unread ? 0 : fired, unread);
}
KERNEL archive_fired(const State base, u32* memory, u32 ring_bursts, u32 ring_ids) {
    Ring ring = {memory, ring_bursts, ring_ids};
    archive(at_next_burst(base), ring.record(0), ring.id(0), ring_ids);
}
