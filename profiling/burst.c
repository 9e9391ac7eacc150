/* burst.c -- a burst by hand: the yardstick of bench_cpu.py, not a part of the engine.
 *
 * Plain C for exactly the network of the benchmark: u8 weights and psps, uniform areas, no fire limits, every neuron
 * accumulates and always fires at threshold. It knows that its sums fit 32 bits. Threads own slices of the targets, the
 * fastest of the ways tried (against private accumulators that are merged, and locked additions). Same spikes as the
 * engine, which the benchmark checks.
 *
 * cc -O3 -march=native -ffp-contract=off -fopenmp -shared -fPIC burst.c -o burst.so
 */
#include <stdint.h>
#include <string.h>
#include <omp.h>

typedef struct {
    uint32_t n, threads;
    const uint64_t *row;      /* n + 1 */
    const uint32_t *target;   /* ascending in a row; top bit: inhibitory */
    const uint8_t *weight, *psp;
    float *potential, *threshold, *limit, *leak;
    uint16_t *period, *countdown;
    uint8_t *power, *touched;
    int32_t *sum;
    float power_amount;
} Net;

static uint32_t lower(const uint32_t *t, uint32_t n, uint32_t key) {
    uint32_t low = 0;
    while (n) {
        uint32_t half = n / 2;
        if ((t[low + half] & 0x7fffffffu) < key) { low += half + 1; n -= half + 1; }
        else n = half;
    }
    return low;
}

/* Delivers what `fired` sent, updates every neuron, writes the ids that fire now (ascending) and returns how many. */
uint32_t burst(Net *s, const uint32_t *fired, uint32_t count, uint32_t *out) {
    uint32_t found[64] = {0}, begin[64] = {0};
#pragma omp parallel num_threads(s->threads)
    {
        uint32_t me = (uint32_t)omp_get_thread_num(), all = (uint32_t)omp_get_num_threads();
        uint32_t low = (uint32_t)((uint64_t)s->n * me / all), high = (uint32_t)((uint64_t)s->n * (me + 1) / all);
        int32_t *restrict sum = s->sum;
        uint8_t *restrict touched = s->touched;
        for (uint32_t i = 0; i < count; ++i) {
            uint64_t first = s->row[fired[i]];
            uint32_t length = (uint32_t)(s->row[fired[i] + 1] - first);
            const uint32_t *target = s->target + first;
            const uint8_t *weight = s->weight + first, *psp = s->psp + first;
            uint32_t from = low ? lower(target, length, low) : 0, to = high == s->n ? length : lower(target, length, high);
            for (uint32_t k = from; k < to; ++k) {
                uint32_t t = target[k], j = t & 0x7fffffffu;
                int32_t m = weight[k] * psp[k];
                sum[j] += t >> 31 ? -m : m;
                touched[j] = 1;
            }
        }
        uint32_t *mine = out + low, nf = 0;
        for (uint32_t j = low; j < high; ++j) {
            if (!touched[j] && !s->power[j]) continue;
            float input = (s->power[j] ? s->power_amount : 0.0f) + (float)sum[j];
            sum[j] = 0;
            touched[j] = 0;
            if (s->countdown[j]) { --s->countdown[j]; continue; }
            float v = s->potential[j] + input;
            if (s->threshold[j] <= v && v <= s->limit[j]) {
                s->potential[j] = 0.0f;
                s->countdown[j] = s->period[j];
                mine[nf++] = j;
            } else s->potential[j] = v * (1.0f - s->leak[j]);
        }
        found[me] = nf;
        begin[me] = low;
    }
    uint32_t total = 0;
    for (uint32_t t = 0; t < s->threads; ++t) {
        memmove(out + total, out + begin[t], found[t] * sizeof *out);
        total += found[t];
    }
    return total;
}
