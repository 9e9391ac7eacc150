// launch.h -- runs batches of kernel launches on a pool of OS threads. Comes after the kernels.
//
// npu_launch(n, list) runs n launches in order, each seeing all that the ones before it wrote: one call a burst. The
// caller is worker 0. Blocks are dealt out: worker w runs blocks w, w + workers, ...; in the flat build there is one
// block a worker, so that a worker always sees the same part of the data and its cache stays warm.
//
// The pool costs no system call while it is busy. All workers, the caller among them, meet at one barrier before the
// first launch of a batch and after each launch. Who waits there spins for a while, then sleeps on a futex.
// Idle workers are simply those that wait at the first barrier of the next batch.
#pragma once

namespace cuemu {

using Body = void (*)(void** args);

struct Launch {          // mirrored in gpu_npu/backends/devices/cpu.py
    Body body;           // of one block
    void** args;         // args[i] points to the i-th argument's value
    uint64_t seed;       // emulated build: 0 is index order, anything else shuffles the schedule of a block's threads
    uint32_t grid, block, workers, shared;  // shared: bytes of dynamic shared memory a block (emulated build)
    uint64_t cooperative;                   // all blocks must live at once: a worker a block
};

// ------------------------------------------------------------------------------------------------------- one block
#ifdef CUEMU_FLAT
CUEMU_F void begin_launch(const Launch& launch, unsigned) { gridDim.x = launch.grid; }
CUEMU_F void run_block(const Launch& launch) { launch.body(launch.args); }
#endif

template <auto K> struct Entry;
template <class... A, void (*K)(A...)> struct Entry<K> {
    // A by-value parameter is read from where args[i] points; a `const T&` parameter binds to it, without a copy.
    template <size_t... I> CUEMU_HOT static inline void call(void** args, std::index_sequence<I...>) {
        K(*static_cast<std::remove_reference_t<A>*>(args[I])...);
    }
    CUEMU_RT static void body(void** args) {
#ifdef CUEMU_FLAT
        call(args, std::index_sequence_for<A...>{});
#else
        Worker& w = *me;
        CUEMU_ACQUIRE(&w.edge[BLOCK_BEGIN]);
        while (begin_thread(w)) {
            call(args, std::index_sequence_for<A...>{});
            end_thread(w);
        }
#endif
    }

    // The kernel's arguments as codes: "u4" a value, "*f4" a pointer, "s496" a struct of 496 bytes, "*?" a pointer to one.
    template <class T> static size_t code(char* out, size_t room) {
        using V = std::remove_cvref_t<T>;
        using P = std::remove_cv_t<std::remove_pointer_t<V>>;
        const char* star = std::is_pointer_v<V> ? "*" : "";
        const char* kind = std::is_same_v<P, bool> ? "b" : std::is_floating_point_v<P> ? "f" : std::is_signed_v<P> ? "i" : "u";
        if constexpr (std::is_arithmetic_v<P>) return (size_t)std::snprintf(out, room, "%s%s%zu ", star, kind, sizeof(P));
        else if constexpr (std::is_pointer_v<V>) return (size_t)std::snprintf(out, room, "*? ");
        else return (size_t)std::snprintf(out, room, "s%zu ", sizeof(P));
    }
    static void signature(char* out, size_t room) {
        size_t n = 0;
        out[0] = 0;
        ((n += n < room ? code<A>(out + n, room - n) : 0), ...);
    }
};

// -------------------------------------------------------------------------------------------------- floating point
// Round to nearest, no flush of subnormals to zero: libraries built with -ffast-math leave the flush on in the threads
// that load them, and new threads inherit it.
class PlainFloats {
#if defined(__x86_64__)
    unsigned saved = __builtin_ia32_stmxcsr();
    static void set(unsigned mode) { __builtin_ia32_ldmxcsr(mode); }
    static constexpr unsigned plain_mode = 0x1f80;
#elif defined(__aarch64__)
    uint64_t saved = __builtin_aarch64_get_fpcr64();
    static void set(uint64_t mode) { __builtin_aarch64_set_fpcr64(mode); }
    static constexpr uint64_t plain_mode = 0;
#endif
public:
    PlainFloats() { set(plain_mode); }
    ~PlainFloats() { set(saved); }
    PlainFloats(const PlainFloats&) = delete;
};

// New threads leave signals to the threads of the interpreter. On Linux sigprocmask does what pthread_sigmask does; a
// library linked to the latter asks for glibc 2.32 (and one with std::call_once for 2.34).
class SignalsBlocked {
    sigset_t saved;
public:
    SignalsBlocked() {
        sigset_t all;
        sigfillset(&all);
        sigprocmask(SIG_SETMASK, &all, &saved);
    }
    ~SignalsBlocked() { sigprocmask(SIG_SETMASK, &saved, nullptr); }
    SignalsBlocked(const SignalsBlocked&) = delete;
};

// ------------------------------------------------------------------------------------------------------------ pool
class Pool {
    Meeting barrier;
    alignas(64) std::atomic<uint32_t> members{1};    // threads that meet, the caller included
    const Launch* list = nullptr;
    unsigned count = 0;

    void meet(unsigned next) {                       // next: the launch that comes after this barrier
        barrier.meet(members, [this, next] { announce(next); });
    }
    void announce(unsigned i) {                      // by one thread, while all others wait
        if (i >= count) return;
        single = list[i].workers == 1 && !CUEMU_TSAN;
        grid.begin();
    }
    static void perform(const Launch& launch, unsigned id) {
        if (id >= launch.workers || failed.load(std::memory_order_relaxed)) return;
        begin_launch(launch, id);
        for (unsigned b = id; b < launch.grid; b += launch.workers) {
            blockIdx.x = b;
            run_block(launch);
        }
        if (launch.cooperative && failed.load(std::memory_order_relaxed)) grid.abandon();
    }
    void work(unsigned id) {
        const Launch* launches = list;               // the caller may write the next batch once the last barrier opens
        const unsigned n = count;
        for (unsigned i = 0; i < n; ++i) {
            perform(launches[i], id);
            // Worker 0 alone ran this one and alone runs the next: nobody has to be waited for.
            if (i + 1 == n || launches[i].workers > 1 || launches[i + 1].workers > 1) meet(i + 1);
        }
    }

    void add_member() {
        // Counted before it starts: it may arrive at once, and must not take itself for the last one.
        unsigned id = members.fetch_add(1, std::memory_order_relaxed);
        SignalsBlocked blocked;
        try {
            std::thread([this, id] {
                PlainFloats plain;
                for (;;) {
                    meet(0);
                    work(id);
                }
            }).detach();                             // sleeps until the process ends
        }
        catch (...) {
            members.fetch_sub(1, std::memory_order_relaxed);
            throw;
        }
    }

public:
    // Threads there are, the caller included, once up to `wanted` were started, as far as the system starts any.
    unsigned grow(unsigned wanted) {
        while (members.load(std::memory_order_relaxed) < wanted) {
            try { add_member(); }
            catch (const std::system_error&) { break; }
        }
        return members.load(std::memory_order_relaxed);
    }
    void run(unsigned n, const Launch* launches, unsigned workers) {
        if (workers == 1) {                          // nobody to meet
            single = !CUEMU_TSAN;
            for (unsigned i = 0; i < n; ++i) perform(launches[i], 0);
            return;
        }
        while (members.load(std::memory_order_relaxed) < workers) add_member();
        list = launches;
        count = n;
        meet(0);
        work(0);
    }
};

// One batch at a time, and a pool for this process: a forked child has none of its parent's threads and makes new ones.
struct Process {
    std::mutex gate;
    Pool pool;
    static inline Process* here = nullptr;
    static Process& get() {
        static const bool once = [] {
            here = new Process;
            return pthread_atfork(nullptr, nullptr, [] { here = new Process; }) == 0;
        }();
        (void)once;
        return *here;
    }
};

inline bool valid(const Launch& launch) {
#ifdef CUEMU_FLAT
    constexpr unsigned most = 1;
#else
    constexpr unsigned most = MAX_THREADS;
#endif
    bool fits = launch.cooperative ? launch.workers == launch.grid : launch.workers <= launch.grid;
    if (launch.body && launch.grid && launch.workers && fits && launch.block && launch.block <= most) return true;
    fail("invalid launch: %u blocks of %u threads (1..%u) on %u workers%s", launch.grid, launch.block, most, launch.workers,
         launch.cooperative ? ", and a cooperative launch needs a worker a block" : "");
    return false;
}

}  // namespace cuemu

#define NPU_API extern "C" __attribute__((visibility("default")))

// Runs the launches in order; 0, or 1 and a message in npu_error(). After a failure the rest of the batch is left out.
NPU_API int npu_launch(unsigned n, const cuemu::Launch* list) {
    using namespace cuemu;
    Process& process = Process::get();
    std::lock_guard lock(process.gate);
    failed = false;
    unsigned workers = 1;
    for (unsigned i = 0; i < n; ++i) {
        if (!valid(list[i])) return 1;
        workers = max(workers, list[i].workers);
    }
    PlainFloats plain;
    try {
        process.pool.run(n, list, workers);
    }
    catch (const std::system_error& problem) {
        fail("cannot start a worker thread: %s", problem.what());
    }
    return failed;
}
NPU_API unsigned npu_threads(unsigned wanted) {
    cuemu::Process& process = cuemu::Process::get();
    std::lock_guard lock(process.gate);
    return process.pool.grow(wanted);
}
NPU_API const char* npu_error() { return cuemu::error; }

// Under ASan: whether a kernel may touch this memory. Elsewhere: nothing.
NPU_API void npu_guard([[maybe_unused]] void* memory, [[maybe_unused]] size_t bytes, [[maybe_unused]] int on) {
#if CUEMU_ASAN
    if (on) __asan_poison_memory_region(memory, bytes);
    else __asan_unpoison_memory_region(memory, bytes);
#endif
}

#define NPU_EXPORT(K) \
    NPU_API void npu_body_##K(void** args) { cuemu::Entry<&K>::body(args); } \
    NPU_API void npu_signature_##K(char* out, size_t room) { cuemu::Entry<&K>::signature(out, room); }
