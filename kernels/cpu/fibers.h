// fibers.h -- the emulated build: a block of CUDA threads on one OS thread.
//
// Threads of a block are run one after another on one fiber for as long as none has to wait. A thread that waits at a
// barrier or a warp collective keeps its fiber, and the next thread starts on another. A collective completes when every
// living thread named in its mask has arrived at the same collective with the same mask; a barrier, when every living
// thread of the block has. When nobody can run and somebody is alive, the block is deadlocked: reported with who waits
// where, and the stacks are abandoned. With a seed, the order in which threads start and wake is shuffled.
//
// TSan wants a fiber a CUDA thread (it then sees them as threads that nothing orders but the barriers), ASan wants to be
// told of every switch of stacks; both make this slower, not different.
#pragma once

namespace cuemu {

constexpr unsigned MAX_THREADS = 1024;
constexpr size_t STACK = CUEMU_ASAN || CUEMU_TSAN ? 256 << 10 : 64 << 10;

// Saves the callee-saved registers and the stack pointer, takes another stack, restores.
extern "C" void cuemu_swap(void** save, void* load);
#if defined(__x86_64__)
asm(".text\n.type cuemu_swap,@function\ncuemu_swap:\n"
    " pushq %rbp\n pushq %rbx\n pushq %r12\n pushq %r13\n pushq %r14\n pushq %r15\n"
    " movq %rsp,(%rdi)\n movq %rsi,%rsp\n"
    " popq %r15\n popq %r14\n popq %r13\n popq %r12\n popq %rbx\n popq %rbp\n ret\n");
constexpr int FRAME_WORDS = 7, RETURN_WORD = 6;
#elif defined(__aarch64__)
asm(".text\n.type cuemu_swap,%function\ncuemu_swap:\n"
    " sub sp,sp,#160\n stp x19,x20,[sp]\n stp x21,x22,[sp,#16]\n stp x23,x24,[sp,#32]\n stp x25,x26,[sp,#48]\n"
    " stp x27,x28,[sp,#64]\n stp x29,x30,[sp,#80]\n stp d8,d9,[sp,#96]\n stp d10,d11,[sp,#112]\n stp d12,d13,[sp,#128]\n stp d14,d15,[sp,#144]\n"
    " mov x2,sp\n str x2,[x0]\n mov sp,x1\n"
    " ldp x19,x20,[sp]\n ldp x21,x22,[sp,#16]\n ldp x23,x24,[sp,#32]\n ldp x25,x26,[sp,#48]\n"
    " ldp x27,x28,[sp,#64]\n ldp x29,x30,[sp,#80]\n ldp d8,d9,[sp,#96]\n ldp d10,d11,[sp,#112]\n ldp d12,d13,[sp,#128]\n ldp d14,d15,[sp,#144]\n"
    " add sp,sp,#160\n ret\n");
constexpr int FRAME_WORDS = 20, RETURN_WORD = 11;
#else
#error "the emulated build needs cuemu_swap for this CPU"
#endif

enum Op : uint8_t { SYNC, BALLOT, ALL, ANY, SHFL, ADD, MIN, MAX, UMIN, UMAX, MATCH };
inline constexpr const char* op_name[] = {"__syncwarp", "__ballot_sync", "__all_sync", "__any_sync", "__shfl*_sync",
    "__reduce_add_sync", "__reduce_min_sync", "__reduce_max_sync", "__reduce_min_sync", "__reduce_max_sync", "__match_any_sync"};

struct Fiber {
    void* sp;              // while switched away
    char* stack;           // STACK bytes above a guard page
    unsigned thread;       // CUDA thread that runs here, its index in the block
    const char* where;     // what it waits at; null: nothing
    void* tsan;
};
struct Slot {              // a lane's arrival at a collective
    uint64_t value, result;
    Fiber* fiber;
    unsigned mask, source;
    Op op;
};
struct Warp {
    unsigned waiting, exited;    // lanes
    Slot slot[32];
};

// Addresses that stand for happens-before edges: the two generations of a barrier, the begin and the end of a block.
enum Edge { BARRIER_EVEN, BARRIER_ODD, BLOCK_BEGIN, BLOCK_END };

struct Queue {             // ring of fibers that can run
    Fiber* item[MAX_THREADS];
    unsigned head, size;
};

struct Worker {            // an OS thread
    void (*body)(void**) = nullptr;
    void** args = nullptr;
    unsigned threads = 0, next = 0, alive = 0;      // of the block: all, the next to start, not yet finished
    uint64_t random = 0;
    bool shuffle = false;
    unsigned order[MAX_THREADS];                    // in which threads start, when shuffled
    Warp warps[MAX_THREADS / 32];

    Fiber* current = nullptr;                       // null: the OS thread's own stack
    Fiber* fibers[MAX_THREADS];                     // all there are
    Fiber* idle[MAX_THREADS];
    unsigned made = 0, idle_count = 0, used = 0;    // used: by this block, under TSan
    Queue ready;

    Fiber* at_barrier[MAX_THREADS];
    unsigned barrier_count = 0, barrier_true = 0, barrier_phase = 0;
    unsigned true_count = 0;                        // results of the last barrier
    bool all_true = false;

    unsigned char* shared = nullptr;                // dynamic shared memory of the block
    unsigned shared_bytes = 0;

    void *main_sp = nullptr, *main_tsan = nullptr;
    const void* main_stack = nullptr;
    size_t main_size = 0;
    char edge[4];
};
inline thread_local Worker* me = nullptr;           // kept until the process ends

inline unsigned lane() { return me->current->thread % 32; }

CUEMU_RT inline unsigned draw(Worker& w, unsigned n) {
    w.random ^= w.random << 13;
    w.random ^= w.random >> 7;
    w.random ^= w.random << 17;
    return unsigned((w.random >> 11) % n);
}

// ----------------------------------------------------------------------------------------------------------- fibers
CUEMU_RT inline void switch_to(Worker& w, Fiber* to) {              // null: back to the OS thread
    Fiber* self = w.current;
    w.current = to;
#if CUEMU_TSAN
    __tsan_switch_to_fiber(to ? to->tsan : w.main_tsan, 1);         // 1: a switch orders nothing
#endif
#if CUEMU_ASAN
    void* fake = nullptr;
    __sanitizer_start_switch_fiber(&fake, to ? to->stack : w.main_stack, to ? STACK : w.main_size);
#endif
    cuemu_swap(self ? &self->sp : &w.main_sp, to ? to->sp : w.main_sp);
#if CUEMU_ASAN
    const void* from;
    size_t size;
    __sanitizer_finish_switch_fiber(fake, &from, &size);
#endif
}
CUEMU_RT inline Fiber* take_ready(Worker& w) {
    if (!w.ready.size) return nullptr;
    Fiber* f = w.ready.item[w.ready.head];
    w.ready.head = (w.ready.head + 1) % MAX_THREADS;
    --w.ready.size;
    return f;
}
CUEMU_RT inline void make_ready(Worker& w, Fiber* f) {
    unsigned at = (w.ready.head + w.ready.size++) % MAX_THREADS;
    w.ready.item[at] = f;
    if (!w.shuffle) return;
    Fiber*& other = w.ready.item[(w.ready.head + draw(w, w.ready.size)) % MAX_THREADS];
    w.ready.item[at] = other;                                        // by hand: TSan would watch std::swap, which is not CUEMU_RT
    other = f;
}
CUEMU_RT inline void fiber_main() {
#if CUEMU_ASAN
    const void* from;
    size_t size;
    __sanitizer_finish_switch_fiber(nullptr, &from, &size);
    if (!me->main_stack) {                                           // a worker's very first switch is from its own stack
        me->main_stack = from;
        me->main_size = size;
    }
#endif
    for (;;) {
        Worker& w = *me;
        w.body(w.args);                                              // runs threads until none can be started here
        if (!CUEMU_TSAN) w.idle[w.idle_count++] = w.current;
        switch_to(w, take_ready(w));
    }
}
CUEMU_RT inline void rewind(Fiber* f, unsigned i) {                  // the next switch to it enters fiber_main
#if CUEMU_ASAN
    __asan_unpoison_memory_region(f->stack, STACK);
#endif
    uintptr_t top = (uintptr_t)f->stack + STACK - 64 - (i % 29) * 192;    // colours the stacks: not all in one cache set
    void** sp = (void**)(top & ~uintptr_t(15)) - FRAME_WORDS - 1;
    std::memset(sp, 0, (FRAME_WORDS + 1) * sizeof(void*));
    sp[RETURN_WORD] = (void*)&fiber_main;
    f->sp = sp;
    f->where = nullptr;
}
CUEMU_RT inline Fiber* get_fiber(Worker& w) {
    if (CUEMU_TSAN ? w.used < w.made : w.idle_count > 0) return CUEMU_TSAN ? w.fibers[w.used++] : w.idle[--w.idle_count];
    ++w.used;
    Fiber* f = new Fiber{};
    char* memory = (char*)mmap(nullptr, STACK + 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    mprotect(memory, 4096, PROT_NONE);
    f->stack = memory + 4096;
#if CUEMU_TSAN
    f->tsan = __tsan_create_fiber(0);
#endif
    rewind(f, w.made);
    return w.fibers[w.made++] = f;
}
CUEMU_RT inline void suspend(Worker& w, const char* where) {         // the current thread cannot go on
    Fiber* self = w.current;
    self->where = where;
    CUEMU_RELEASE(&w.edge[BLOCK_END]);
    Fiber* to = take_ready(w);
    if (!to && w.next < w.threads) to = get_fiber(w);
    switch_to(w, to);                                                // null: nobody can run, run_block() reports it
    threadIdx.x = self->thread;
    self->where = nullptr;
}

// ------------------------------------------------------------------------------------------------------ collectives
// Completes the collective that the lanes of `mask` wait at, if all of them are there; wakes all but lane `self`.
CUEMU_RT inline bool complete(Worker& w, Warp& warp, unsigned mask, Op op, int self) {
    unsigned need = mask & ~warp.exited;
    if ((warp.waiting & need) != need) return false;
    uint64_t sum = 0;
    bool first = true, all = true;
    for (unsigned m = need; m; m &= m - 1) {
        Slot& s = warp.slot[std::countr_zero(m)];
        if (s.mask != mask || s.op != op) return false;
        uint64_t v = s.value;
        int32_t a = (int32_t)sum, b = (int32_t)v;
        switch (op) {
            case BALLOT: case ANY: case ALL: if (v) sum |= m & -m; else all = false; break;
            case ADD:  sum = (uint32_t)(sum + v); break;
            case MIN:  sum = (uint32_t)(first || b < a ? b : a); break;
            case MAX:  sum = (uint32_t)(first || b > a ? b : a); break;
            case UMIN: sum = first || v < sum ? v : sum; break;
            case UMAX: sum = first || v > sum ? v : sum; break;
            default: break;
        }
        first = false;
    }
    if (op == ANY) sum = sum != 0;
    if (op == ALL) sum = all;
    for (unsigned m = need; m; m &= m - 1) {
        int l = std::countr_zero(m);
        Slot& s = warp.slot[l];
        if (op == SHFL) s.result = need >> s.source & 1 ? warp.slot[s.source].value : s.value;
        else if (op == MATCH) {
            s.result = 0;
            for (unsigned q = need; q; q &= q - 1) if (warp.slot[std::countr_zero(q)].value == s.value) s.result |= q & -q;
        }
        else s.result = sum;
        if (l != self) make_ready(w, s.fiber);
    }
    warp.waiting &= ~need;
    return true;
}
CUEMU_RT inline uint64_t collective(Op op, unsigned mask, uint64_t value, unsigned source) {
    Worker& w = *me;
    Fiber* f = w.current;
    unsigned l = f->thread % 32;
    Warp& warp = w.warps[f->thread / 32];
    if (!(mask >> l & 1)) {
        fail("%s: thread %u is not named in its own mask %08x", op_name[op], f->thread, mask);
        mask |= 1u << l;
    }
    if (op == SYNC) CUEMU_RELEASE(&warp.waiting);                    // of all warp collectives only __syncwarp orders memory
    warp.slot[l] = Slot{value, 0, f, mask, source, op};
    warp.waiting |= 1u << l;
    if (!complete(w, warp, mask, op, (int)l)) suspend(w, op_name[op]);
    if (op == SYNC) CUEMU_ACQUIRE(&warp.waiting);
    return warp.slot[l].result;
}
CUEMU_RT inline void open_barrier(Worker& w, Fiber* self) {
    w.true_count = w.barrier_true;
    w.all_true = w.barrier_true == w.barrier_count;
    for (unsigned i = 0; i < w.barrier_count; ++i) if (w.at_barrier[i] != self) make_ready(w, w.at_barrier[i]);
    w.barrier_count = w.barrier_true = 0;
    ++w.barrier_phase;
}
CUEMU_RT inline void barrier(bool predicate, const char* where) {
    Worker& w = *me;
    char* edge = &w.edge[w.barrier_phase & 1 ? BARRIER_ODD : BARRIER_EVEN];
    CUEMU_RELEASE(edge);
    w.at_barrier[w.barrier_count++] = w.current;
    w.barrier_true += predicate;
    if (w.barrier_count == w.alive) open_barrier(w, w.current);
    else suspend(w, where);
    CUEMU_ACQUIRE(edge);
}

// ------------------------------------------------------------------------------------------------ threads and blocks
CUEMU_HOT inline bool begin_thread(Worker& w) {
    if (w.next >= w.threads || w.ready.size) return false;           // those that can go on go first
    unsigned thread = w.next++;
    if (w.shuffle) thread = w.order[thread];
    threadIdx.x = w.current->thread = thread;
    CUEMU_ACQUIRE(&w.edge[BLOCK_BEGIN]);
    return true;
}
CUEMU_RT inline void release_waiting(Worker& w) {                    // somebody may have waited for the thread that ended
    Warp& warp = w.warps[w.current->thread / 32];
    for (unsigned m = warp.waiting; m; m &= m - 1) {
        Slot& s = warp.slot[std::countr_zero(m)];
        if (warp.waiting & m & -m) complete(w, warp, s.mask, s.op, -1);
    }
    if (w.barrier_count && w.barrier_count == w.alive) open_barrier(w, nullptr);
}
CUEMU_HOT inline void end_thread(Worker& w) {
    CUEMU_RELEASE(&w.edge[BLOCK_END]);
    Warp& warp = w.warps[w.current->thread / 32];
    warp.exited |= 1u << w.current->thread % 32;
    --w.alive;
    if (warp.waiting || w.barrier_count) release_waiting(w);
#if CUEMU_TSAN      // a fiber a CUDA thread
    if (w.next < w.threads && !w.ready.size) make_ready(w, get_fiber(w));
#endif
}

template <class L> CUEMU_RT void begin_launch(const L& launch, unsigned id) {
    if (!me) {
        me = new Worker{};
#if CUEMU_TSAN
        me->main_tsan = __tsan_get_current_fiber();
#endif
    }
    Worker& w = *me;
    w.shuffle = launch.seed != 0;
    w.random = (launch.seed + id) * 0x9e3779b97f4a7c15ull | 1;
    gridDim.x = launch.grid;
    blockDim.x = launch.block;
    if (w.shared_bytes != launch.shared) {                           // just as long, so that ASan sees its end
        ::operator delete[](w.shared, std::align_val_t(16));
        w.shared = nullptr;
        w.shared = launch.shared ? new (std::align_val_t(16)) unsigned char[launch.shared] : nullptr;
        w.shared_bytes = launch.shared;
    }
}
template <class L> CUEMU_RT void run_block(const L& launch) {
    Worker& w = *me;
    w.body = launch.body;
    w.args = launch.args;
    w.threads = w.alive = launch.block;
    w.next = w.ready.size = w.ready.head = w.barrier_count = w.barrier_true = w.used = 0;
    for (unsigned i = 0; i <= (w.threads - 1) / 32; ++i) w.warps[i].waiting = w.warps[i].exited = 0;
    if (w.threads % 32) w.warps[w.threads / 32].exited = ~0u << w.threads % 32;
    if (w.shuffle)
        for (unsigned i = 0; i < w.threads; ++i) {
            unsigned j = draw(w, i + 1);
            w.order[i] = w.order[j];
            w.order[j] = i;
        }
    if (w.shared) std::memset(w.shared, 0xcb, w.shared_bytes);       // as on a GPU, what it holds at first is nobody's business
    if (CUEMU_TSAN) {                                                // all made here: making one orders its maker before it
        while (w.made < w.threads) get_fiber(w);
        w.used = 0;
    }
    CUEMU_RELEASE(&w.edge[BLOCK_BEGIN]);
    switch_to(w, get_fiber(w));
    CUEMU_ACQUIRE(&w.edge[BLOCK_END]);
    if (!w.alive) return;

    char text[400];
    int n = 0;
    text[0] = 0;
    for (unsigned i = 0, shown = 0; i < w.made && shown < 4; ++i)
        if (Fiber* f = w.fibers[i]; f->where && n < (int)sizeof text) {
            n += std::snprintf(text + n, sizeof text - n, " thread %u waits at %s;", f->thread, f->where);
            ++shown;
        }
    fail("deadlock in block %u: %u of %u threads never finish;%s", blockIdx.x, w.alive, w.threads, text);
    w.idle_count = 0;
    for (unsigned i = 0; i < w.made; ++i) {                          // abandons what is on the stacks
        rewind(w.fibers[i], i);
        w.idle[w.idle_count++] = w.fibers[i];
    }
}

}  // namespace cuemu
