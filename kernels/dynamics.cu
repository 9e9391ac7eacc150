// dynamics.cu -- phase 2: candidates integrate, leak, cross thresholds, obey refractory and fire-limit rules.
//
// One sweep over all neurons, a warp a word of 32. It also ends phase 1 (the reset of neurons that do not accumulate,
// the candidate potential) because both need the same bytes, and clears what the next burst starts from. An idle neuron
// costs its flags and its accumulator (9 bytes), and its countdown under the burst clock.
#include "physics.cuh"
#include "device.cuh"
#include "state.cuh"

struct Outcome {
    bool candidate, fired, power, refractory;
    u32 arrivals;
};

__device__ __forceinline__ Outcome step_neuron(const State& s, u32 j, u32 word, u32 bit) {
    Outcome out = {};
    u32 flags = s.flags[j];

    // What arrived, and an empty accumulator for the next burst.
    i64 sum = s.accumulator[j];
    u32 arrivals;
    if (s.arrivals) {
        arrivals = s.arrivals[j];
        if (arrivals) s.arrivals[j] = 0;
    } else {
        arrivals = (u32)sum & ((1u << s.arrival_bits) - 1);
        sum >>= s.arrival_bits;
    }
    if (arrivals) s.accumulator[j] = 0;
    if (!(flags & FLAG_VALID)) return out;

    bool candidate = arrivals || (flags & (FLAG_INJECTED | FLAG_POWER));
    bool forced = flags & FLAG_FORCED;
    bool kept = (flags & FLAG_ACCUMULATES) || (s.previous_bits[word] >> bit & 1);
    if (!candidate && !forced && kept && !s.burst_clock) return out;

    // Phase 1: neurons that do not accumulate start from 0, unless they fired in the burst before.
    if (!candidate) {
        if (!kept && s.membrane_potential[j] != 0.0f) s.membrane_potential[j] = 0.0f;
        if (!forced && !s.burst_clock) return out;
    }
    Neuron x;
    x.countdown = s.refractory_countdown[j];
    bool blocked = x.countdown > 0;
    if (!candidate && !forced && !blocked) return out;

    x.fire_limit = s.consecutive_fire_limit[j];
    x.fire_count = s.consecutive_fire_count[j];
    u32 countdown = x.countdown, fire_count = x.fire_count;
    float v = 0.0f;
    if (candidate) {
        float potential = s.membrane_potential[j];
        x.potential = kept ? potential : 0.0f;
        float external = flags & FLAG_INJECTED ? s.input[j] : 0.0f;
        if (flags & FLAG_POWER) external = add(external, s.power_amount);
        float input = candidate_potential(external, sum, s.unit);
        s.input[j] = input;
        out.candidate = true;
        out.power = flags & FLAG_POWER;
        out.arrivals = arrivals;
        out.refractory = blocked;
        if (!blocked) {
            x.threshold = s.threshold[j];
            x.threshold_limit = s.threshold_limit[j];
            x.leak = s.leak_coefficient[j];
            x.excitability = s.excitability[j];
            x.refractory_period = s.refractory_period[j];
            x.snooze_period = s.snooze_period[j];
            if (s.rectify_input && (flags & FLAG_ACCUMULATES) && input < 0.0f) input = 0.0f;
            u32 hash = excitability_hash(j, s.burst, s.random_seed);
            out.fired = integrate(x, input, hash, {s.potential_floor, s.potential_ceiling}, v);
        }
        if (__float_as_uint(x.potential) != __float_as_uint(potential)) s.membrane_potential[j] = x.potential;
    }
    // Under the candidate clock blocked candidates count down; under the burst clock every blocked neuron does, but not
    // one that is forced in this burst.
    if (blocked && (s.burst_clock ? !forced : candidate)) count_down(x);
    if (forced && !out.fired) {
        out.fired = true;
        v = POTENTIAL_OF_FORCED;
    }
    if (out.fired) s.fire_potential[j] = v;
    if (x.countdown != countdown) s.refractory_countdown[j] = (u16)x.countdown;
    if (x.fire_count != fire_count) s.consecutive_fire_count[j] = (u16)x.fire_count;
    if (flags & (FLAG_INJECTED | FLAG_FORCED)) s.flags[j] = (u8)(flags & ~(FLAG_INJECTED | FLAG_FORCED));
    return out;
}

KERNEL neuron_dynamics(const State s) {
    __shared__ u64 total[COUNTERS];
    for (u32 c = threadIdx.x; c < COUNTERS; c += blockDim.x) total[c] = 0;
    __syncthreads();

    u64 synaptic = 0;
    u32 power = 0, processed = 0, refractory = 0;
    Range mine = split(s.words, warp_index(), warp_count(), TILE_WORDS);
    for (u64 word = mine.first; word < mine.last; word += mine.step) {
        u32 fired = 0, candidates = 0;
        for (u32 base = 0; base < WORD_NEURONS; base += WARP_SIZE) {  // one round, or 32 with one lane
            u32 bit = base + lane_id(), j = (u32)word * WORD_NEURONS + bit;
            Outcome out = {};
            if (j < s.neurons) out = step_neuron(s, j, (u32)word, bit);
            fired |= __ballot_sync(FULL_MASK, out.fired) << base;
            candidates |= __ballot_sync(FULL_MASK, out.candidate) << base;
            synaptic += out.arrivals;
            power += out.power;
            processed += out.candidate;
            refractory += out.refractory;
        }
        if (lane_id() == 0) {
            s.fired_bits[word] = fired;
            s.candidate_bits[word] = candidates;
            if (fired) add_owned(s.tile_count + word / TILE_WORDS, (u32)__popc(fired));
        }
    }

    if (synaptic) atomicAdd(&total[COUNTER_SYNAPTIC], synaptic);
    if (power) atomicAdd(&total[COUNTER_POWER], (u64)power);
    if (processed) atomicAdd(&total[COUNTER_PROCESSED], (u64)processed);
    if (refractory) atomicAdd(&total[COUNTER_REFRACTORY], (u64)refractory);
    __syncthreads();
    u64* counters = (u64*)(s.queue + 2);
    for (u32 c = threadIdx.x; c < COUNTERS; c += blockDim.x)
        if (total[c]) atomicAdd(counters + c, total[c]);
}
