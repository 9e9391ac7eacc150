// meeting.h -- a barrier of OS threads: for launches (the pool), and for the blocks of a cooperative launch.
#pragma once

namespace cuemu {

class Meeting {
    static constexpr std::chrono::microseconds BUSY{3}, SPIN{100};
    alignas(64) std::atomic<uint32_t> phase{0};      // goes up when everybody has arrived
    alignas(64) std::atomic<uint32_t> arrived{0};

    static void pause() {
#if defined(__x86_64__)
        __builtin_ia32_pause();
#elif defined(__aarch64__)
        asm volatile("yield");
#endif
    }
    // Who waits long sleeps; the sleep costs a system call, so those who come soon never pay it.
    void wait(uint32_t now) {
        auto begin = std::chrono::steady_clock::now();
        for (;;) {
            for (int i = 0; i < 32; ++i) {
                if (phase.load(std::memory_order_acquire) != now) return;
                pause();
            }
            auto spent = std::chrono::steady_clock::now() - begin;
            if (spent > SPIN) break;
            if (spent > BUSY) sched_yield();         // whom we wait for may need this core
        }
        phase.wait(now, std::memory_order_acquire);
    }
    void open() {
        phase.fetch_add(1, std::memory_order_release);
        phase.notify_all();                          // a system call only if somebody sleeps
    }

public:
    // Returns when `members` threads are here. `last` is done by the one that comes last, while all others wait.
    template <class F> void meet(const std::atomic<uint32_t>& members, F last) {
        uint32_t now = phase.load(std::memory_order_relaxed);
        // In this order: a member may be added while others are on their way.
        if (arrived.fetch_add(1, std::memory_order_acq_rel) + 1 == members.load(std::memory_order_relaxed)) {
            arrived.store(0, std::memory_order_relaxed);
            last();
            open();
        }
        else wait(now);
    }
    // The same among threads of which one may fail and never come: it abandons the meeting, and then nobody waits.
    void meet_or_fail(uint32_t members) {
        uint32_t now = phase.load(std::memory_order_acquire);
        if (failed.load(std::memory_order_relaxed)) return;
        if (arrived.fetch_add(1, std::memory_order_acq_rel) + 1 == members) {
            arrived.store(0, std::memory_order_relaxed);
            open();
        }
        else wait(now);
    }
    void abandon() { open(); }
    void begin() { arrived.store(0, std::memory_order_relaxed); }
};

// Blocks of the cooperative launch in progress.
inline Meeting grid;

}  // namespace cuemu
