// dynamics.cu -- phase 2: candidates integrate, leak, cross thresholds, obey refractory and fire-limit rules.
//
// One sweep over all neurons, a warp a word of 32: first which of them anything happens to, then those alone. It also
// ends phase 1 (the reset of neurons that do not accumulate, the candidate potential) because both need the same bytes,
// and clears what the next burst starts from. An idle neuron costs its flags and its accumulator (9 bytes), and its
// countdown under the burst clock.
#include "physics.cuh"
#include "burst_view.cuh"
#include "rows.cuh"

// The psps of a neuron that fired in the burst before fall as its area says, after this burst's delivery: by a whole warp.
__device__ __forceinline__ float fallen(u32 psp, float step) { return settle(fmaxf(__uint_as_float(psp) - step, 0.0f)); }
__device__ __forceinline__ void degenerate(const State& s, u32 j) {
    const u32 area = s.cortical_area[j];
    float step = 0.0f;
    for (u32 a = 0; a < s.degenerating_areas; ++a)
        if (s.degenerating_area[a] == area) step = s.degeneration[a];
    if (step == 0.0f) return;
    Row row = s.rows[j];
    if (row.psp != PSP_EACH) {
        __syncwarp();  // every lane has read the row
        if (lane_id() == 0) s.rows[j].psp = __float_as_uint(fallen(row.psp, step));
        return;
    }
    u32* psps = (u32*)slots_of(s, row).psp;
    for (u32 i = lane_id(); i < row.length; i += WARP_SIZE) psps[i] = __float_as_uint(fallen(psps[i], step));
}

__device__ __forceinline__ void degenerate_word(const State& s, u32 word) {
    for (u32 left = s.previous_bits[word]; left; left &= left - 1) degenerate(s, word * WORD_NEURONS + (u32)__ffs((int)left) - 1);
}

// Before a network starts again.
KERNEL degenerate_fired(const State base) {
    const State s = at_next_burst(base);
    Range mine = split(s.words, warp_index(), warp_count());
    for (u64 word = mine.first; word < mine.last; word += mine.step) degenerate_word(s, (u32)word);
}

// What tells whether anything happens to 32 neurons, from as few bytes as can be. A GPU asks for it for several words before it
// looks at the first: then it is values, one of each neuron in its lane. With one lane it is where they lie.
#if WARP_SIZE == 1
struct Glance {
    const u8* flag;
    const i64* sum;
    const u32* count;
    const u16* countdown;
    u32 previous, candidates;

    __device__ __forceinline__ bool flagged(u32 j, u32 mask) const { return (flag[j] & mask) != 0; }
    __device__ __forceinline__ bool counted(u32 j) const { return count[j] != 0; }
    __device__ __forceinline__ bool added(u32 j) const { return sum[j] != 0; }
    __device__ __forceinline__ bool counts_down(u32 j) const { return countdown[j] != 0; }
};
__device__ __forceinline__ Glance glance(const State& s, u32 word) {
    return {s.flags, s.accumulator, s.arrivals, s.refractory_countdown, s.previous_bits[word], s.reset_candidates ? s.candidate_bits[word] : FULL_WORD};
}
#else
struct Glance {
    u32 flag;
    i64 sum;
    u32 count, countdown, previous, candidates;

    __device__ __forceinline__ bool flagged(u32, u32 mask) const { return (flag & mask) != 0; }
    __device__ __forceinline__ bool counted(u32) const { return count != 0; }
    __device__ __forceinline__ bool added(u32) const { return sum != 0; }
    __device__ __forceinline__ bool counts_down(u32) const { return countdown != 0; }
};
__device__ __forceinline__ Glance glance(const State& s, u32 word) {
    Glance seen = {0, 0, 0, 0, s.previous_bits[word], s.reset_candidates ? s.candidate_bits[word] : FULL_WORD};
    const u32 j = word * WORD_NEURONS + lane_id();
    if (j >= s.neurons) return seen;
    seen.flag = s.flags[j];
    if (s.arrivals) seen.count = s.arrivals[j];
    else seen.sum = s.accumulator[j];
    if (s.burst_clock) seen.countdown = s.refractory_countdown[j];
    return seen;
}
#endif

struct Word {
    u32 candidates, active, forgetful, powered;  // a bit a neuron; forgetful: starts from 0
};

// What happens to 32 neurons in this burst: which are candidates, to which is anything done?
__device__ __forceinline__ Word classify(const State& s, u32 word, const Glance& seen) {
    const u32 first = word * WORD_NEURONS, n = s.neurons;
    auto flagged = [&](u32 mask) { return bits_where(first, n, [=](u32 j) { return seen.flagged(j, mask); }); };
    // An accumulator that counts its arrivals is 0 only if there were none.
    u32 arrived = s.arrivals ? bits_where(first, n, [=](u32 j) { return seen.counted(j); }) : bits_where(first, n, [=](u32 j) { return seen.added(j); });
    u32 valid = flagged(FLAG_VALID);
    u32 powered = valid & flagged(FLAG_POWER), candidates = (valid & (arrived | flagged(FLAG_INJECTED))) | powered;
    // Phase 1: a neuron that does not accumulate starts from 0, unless it fired in the burst before; under the rule, only if
    // it was a candidate then.
    u32 forgetful = valid & ~(flagged(FLAG_ACCUMULATES) | seen.previous) & seen.candidates;
    u32 active = arrived | forgetful | candidates | flagged(FLAG_FORCED);
    if (s.burst_clock) active |= valid & bits_where(first, n, [=](u32 j) { return seen.counts_down(j); });
    return {candidates, active, forgetful, powered};
}

struct Tally {
    u64 synaptic;  // of a lane, as the others
    u32 refractory, power, processed;
};

// One neuron to which something happens; says whether it fires.
__device__ __forceinline__ bool step_neuron(const State& s, u32 j, bool candidate, bool forgetful, Tally& tally) {
    u32 flags = s.flags[j];

    // What arrived, and an empty accumulator for the next burst.
    i64 sum = s.accumulator[j];
    u32 arrivals;
    if (s.arrivals) {
        arrivals = s.arrivals[j];
        s.arrivals[j] = 0;
    } else {
        arrivals = (u32)sum & ((1u << s.arrival_bits) - 1);
        sum >>= s.arrival_bits;
    }
    if (arrivals) s.accumulator[j] = 0;
    if (!(flags & FLAG_VALID)) return false;

    bool forced = flags & FLAG_FORCED;
    float potential = s.membrane_potential[j];
    Neuron x;
    x.potential = forgetful ? 0.0f : potential;
    x.countdown = s.refractory_countdown[j];
    x.fire_limit = s.consecutive_fire_limit[j];
    x.fire_count = s.consecutive_fire_count[j];
    u32 countdown = x.countdown, fire_count = x.fire_count;
    bool blocked = countdown > 0, fires = false;
    float v = 0.0f;
    if (candidate) {
        float external = flags & FLAG_INJECTED ? s.input[j] : 0.0f;
        if (flags & FLAG_POWER) external = add(external, s.power_amount);
        float input = candidate_potential(external, sum, s.unit);
        s.input[j] = input;
        tally.synaptic += arrivals;
        tally.refractory += blocked;
        if (!blocked) {
            x.threshold = s.threshold[j];
            x.threshold_limit = s.threshold_limit[j];
            x.leak = s.leak_coefficient[j];
            x.excitability = s.excitability[j];
            x.refractory_period = s.refractory_period[j];
            x.snooze_period = s.snooze_period[j];
            if (s.rectify_input && (flags & FLAG_ACCUMULATES) && input < 0.0f) input = 0.0f;
            fires = integrate(x, input, {j, s.burst, s.random_seed}, {s.potential_floor, s.potential_ceiling}, v);
        }
    }
    // Under the candidate clock blocked candidates count down; under the burst clock every blocked neuron does, but not
    // one that is forced in this burst.
    if (blocked && (s.burst_clock ? !forced : candidate)) count_down(x);
    if (forced && !fires) {
        fires = true;
        v = POTENTIAL_OF_FORCED;
    }
    if (fires) s.fire_potential[j] = v;
    if (__float_as_uint(x.potential) != __float_as_uint(potential)) s.membrane_potential[j] = x.potential;
    if (x.countdown != countdown) s.refractory_countdown[j] = (u16)x.countdown;
    if (x.fire_count != fire_count) s.consecutive_fire_count[j] = (u16)x.fire_count;
    if (flags & (FLAG_INJECTED | FLAG_FORCED)) s.flags[j] = (u8)(flags & ~(FLAG_INJECTED | FLAG_FORCED));
    return fires;
}

#if WARP_SIZE == 1
#define WORTH_TOGETHER 6  // of a word
#define NOT_AGAIN 15      // words: where few candidates are ordinary, those of the next words are likely not to be either
// Those of 32 neurons from `first` on that are ordinary: candidates without input from outside, not blocked, below their
// threshold, without a fire limit. They only integrate and leak, and here they do, side by side in loops without branches
// that a compiler turns into vector instructions, by the same arithmetic as the others. A bit for each.
__device__ __forceinline__ u32 step_ordinary(const State& s, u32 first, u32 candidates, u32 forgetful, Tally& tally) {
    if (first + WORD_NEURONS > s.neurons || s.arrivals || s.rectify_input) return 0;
    const u32 bits = s.arrival_bits, counted = (1u << bits) - 1;
    const u64 bias = 1ull << (bits + 31);
    i64* accumulator = s.accumulator + first;
    int sum[WORD_NEURONS];
    u32 arrivals[WORD_NEURONS], other[WORD_NEURONS], keeps[WORD_NEURONS];
    for (u32 b = 0; b < WORD_NEURONS; ++b) {
        const u64 a = (u64)accumulator[b];
        sum[b] = (int)(u32)(a >> bits);
        arrivals[b] = (u32)a & counted;
        other[b] = (u32)((a + bias) >> (bits + 32));  // not 0: the sum has more than 32 bits
    }
    const u8* flags = s.flags + first;
    const u16 *countdown = s.refractory_countdown + first, *limit = s.consecutive_fire_limit + first;
    for (u32 b = 0; b < WORD_NEURONS; ++b) {
        const u32 flag = flags[b], outside = flag & (FLAG_INJECTED | FLAG_FORCED | FLAG_POWER);
        const u32 limited = (u32)(limit[b] != 0) & (u32)(limit[b] != 65535);
        other[b] |= outside | countdown[b] | limited | ((candidates >> b & 1) ^ 1);
        keeps[b] = forgetful >> b & 1 ^ 1;
    }
    float *potential = s.membrane_potential + first, *inputs = s.input + first;
    const float *threshold = s.threshold + first, *leak = s.leak_coefficient + first;
    const float unit = s.unit;
    const Bounds bounds = {s.potential_floor, s.potential_ceiling};
    u32 ordinary = 0, arrived = 0;
    for (u32 b = 0; b < WORD_NEURONS; ++b) {
        const float input = multiply<true>((float)sum[b], unit), before = potential[b];
        const float v = charged<true>(keeps[b] ? before : 0.0f, input, bounds), after = leaked<true>(v, leak[b]);
        const u32 is = (u32)(other[b] == 0) & (u32)!(threshold[b] <= v);
        potential[b] = is ? after : before;
        inputs[b] = is ? input : inputs[b];
        other[b] = is;
        arrived += is ? arrivals[b] : 0;
        ordinary |= is << b;
    }
    for (u32 b = 0; b < WORD_NEURONS; ++b) accumulator[b] = other[b] ? 0 : accumulator[b];
    tally.synaptic += arrived;
    return ordinary;
}
#endif

__device__ __forceinline__ void step_neurons(const State& s) {
    __shared__ u64 total[COUNTERS];
    for (u32 c = threadIdx.x; c < COUNTERS; c += blockDim.x) total[c] = 0;
    __syncthreads();

    Tally tally = {};
#if WARP_SIZE == 1
    u32 not_again = 0;
#endif
    Range mine = split(s.words, warp_index(), warp_count(), TILE_WORDS);
    for (u64 first = mine.first; first < mine.last; first += WORDS_AT_ONCE * mine.step) {
        const u32 word = (u32)first, step = (u32)mine.step;
        u32 words = 0;
        for (u32 u = 0; u < WORDS_AT_ONCE; ++u) words += first + u * mine.step < mine.last;
        if (s.degenerating_areas)
            for (u32 u = 0; u < words; ++u) degenerate_word(s, word + u * step);
        Word own = {};  // of word number lane_id() of these
        Glance seen[WORDS_AT_ONCE];
#pragma unroll
        for (u32 u = 0; u < WORDS_AT_ONCE; ++u) seen[u] = glance(s, u < words ? word + u * step : word);
#pragma unroll
        for (u32 u = 0; u < WORDS_AT_ONCE; ++u) {
            Word now = classify(s, u < words ? word + u * step : word, seen[u]);
            if (lane_id() == u && u < words) own = now;
        }
        __syncwarp();  // every lane has read who was a candidate: a vote orders no memory
        if (lane_id() < words) {
            s.candidate_bits[word + lane_id() * step] = own.candidates;
            if (!own.active) s.fired_bits[word + lane_id() * step] = 0;
            tally.processed += (u32)__popc(own.candidates);
            tally.power += (u32)__popc(own.powered);
        }
        for (u32 busy = __ballot_sync(FULL_MASK, own.active != 0); busy; busy &= busy - 1) {
            const u32 u = (u32)__ffs((int)busy) - 1, at = word + u * step;
            u32 active = __shfl_sync(FULL_MASK, own.active, (int)u);
            const u32 candidates = __shfl_sync(FULL_MASK, own.candidates, (int)u), forgetful = __shfl_sync(FULL_MASK, own.forgetful, (int)u);
#if WARP_SIZE == 1
            if (not_again) --not_again;
            else if (__popc(candidates) >= WORTH_TOGETHER) {
                u32 ordinary = step_ordinary(s, at * WORD_NEURONS, candidates, forgetful, tally);
                active &= ~ordinary;
                if (__popc(ordinary) < WORTH_TOGETHER) not_again = NOT_AGAIN;
            }
#endif
            u32 fired = where_true(active, [&](u32 bit) {
                return step_neuron(s, at * WORD_NEURONS + bit, candidates >> bit & 1, forgetful >> bit & 1, tally);
            });
            if (lane_id() == 0) {
                s.fired_bits[at] = fired;
                if (fired) add_owned(s.tile_count + at / TILE_WORDS, (u32)__popc(fired));
            }
        }
    }

    tally.synaptic = warp_sum(tally.synaptic);
    tally.refractory = warp_sum(tally.refractory);
    tally.processed = warp_sum(tally.processed);
    tally.power = warp_sum(tally.power);
    if (lane_id() == 0) {  // few atomics: those on 64 bits of shared memory are loops
        if (tally.synaptic) atomicAdd(&total[COUNTER_SYNAPTIC_INJECTIONS], tally.synaptic);
        if (tally.power) atomicAdd(&total[COUNTER_POWER_INJECTIONS], (u64)tally.power);
        if (tally.processed) atomicAdd(&total[COUNTER_NEURONS_PROCESSED], (u64)tally.processed);
        if (tally.refractory) atomicAdd(&total[COUNTER_NEURONS_IN_REFRACTORY], (u64)tally.refractory);
    }
    __syncthreads();
    u64* counters = counters_of(s.queue);
    for (u32 c = threadIdx.x; c < COUNTERS; c += blockDim.x)
        if (total[c]) atomicAdd(counters + c, total[c]);
    // No synapse is late enough for the queue that the next burst fills, unless it was delivered in this one.
    if (blockIdx.x == 0)
        for (u32 i = threadIdx.x; i < QUEUE_HEADER; i += blockDim.x) s.next_queue[i] = 0;
}

KERNEL neuron_dynamics(const State base) { step_neurons(at_next_burst(base)); }
