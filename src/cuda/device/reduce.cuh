// Rows of logits reduced to what is asked of them.
#pragma once
#include "prelude.cuh"

constexpr int REDUCE_THREADS = 512;

// The largest of a row, and the first place that has it.
struct Top {
    float value;
    long place;
};

DEVICE Top higher(Top a, Top b) { return b.value > a.value || (b.value == a.value && b.place < a.place) ? b : a; }

// In every thread: the top of a row, a number only where every logit is one.
DEVICE Top top_of(const float* row, long n, Top* scratch) {
    Top top = {NO_SCORE, n};
    float poison = 0.0f;
    for (long i = threadIdx.x; i < n; i += REDUCE_THREADS) {
        top = higher(top, {row[i], i});
        poison += row[i] * 0.0f;
    }
    Top all = block_reduce(top, scratch, higher);
    const Top bad = block_reduce(Top{poison == 0.0f ? 0.0f : 1.0f, 0}, scratch, higher);
    if (bad.value > 0.0f) all.value = __builtin_nanf("");
    return all;
}

DEVICE double block_sum(double value, double* scratch) {
    return block_reduce(value, scratch, [](double a, double b) { return a + b; });
}

// out (rows, 4) doubles: negative log likelihood of the target under the variant and under the reference, KL(reference ‖
// variant), 1 where both name the same most likely token. Sums run in f64; a logit that is not finite gives no number.
// Grid: rows.
KERNEL(REDUCE_THREADS) divergence(const float* reference, const float* variant, const uint32_t* targets, double* out, long n) {
    __shared__ Top tops[REDUCE_THREADS];
    __shared__ double sums[REDUCE_THREADS];
    const float *r = reference + blockIdx.x * n, *v = variant + blockIdx.x * n;
    const Top r_top = top_of(r, n, tops), v_top = top_of(v, n, tops);
    double r_sum = 0.0, v_sum = 0.0, cross = 0.0;
    for (long i = threadIdx.x; i < n; i += REDUCE_THREADS) {
        const float r_less = r[i] - r_top.value, v_less = v[i] - v_top.value;
        const double share = expf(r_less);
        r_sum += share;
        v_sum += expf(v_less);
        cross += share * (static_cast<double>(r_less) - static_cast<double>(v_less));
    }
    r_sum = block_sum(r_sum, sums);
    v_sum = block_sum(v_sum, sums);
    cross = block_sum(cross, sums);
    if (threadIdx.x != 0) return;
    const long target = targets[blockIdx.x];
    const double r_log = log(r_sum), v_log = log(v_sum);
    double* row = out + 4 * blockIdx.x;
    row[0] = v_log + static_cast<double>(v_top.value) - static_cast<double>(v[target]);
    row[1] = r_log + static_cast<double>(r_top.value) - static_cast<double>(r[target]);
    row[2] = cross / r_sum - r_log + v_log;
    row[3] = r_top.place == v_top.place ? 1.0 : 0.0;
}

constexpr uint32_t NO_TOKEN = 0xffffffff;

// The next token of a text, put where the next step finds it; the step's counters move on. Temperature 0 takes the first
// of the most likely; else token i falls on the share of `draws` (one a step, in [0, 1)) that e^(logit / temperature) has
// of their sum. NO_TOKEN where a logit is not finite.
//
// counters: tokens in the cache, tokens chosen. Grid: 1.
KERNEL(REDUCE_THREADS) choose(const float* logits, long n, double temperature, const double* draws, int* counters,
                              uint32_t* token) {
    __shared__ Top tops[REDUCE_THREADS];
    __shared__ double sums[REDUCE_THREADS + 1];
    const Top top = top_of(logits, n, tops);
    const bool is_number = top.value == top.value;
    uint32_t chosen = is_number ? static_cast<uint32_t>(top.place) : NO_TOKEN;
    if (is_number && temperature > 0.0) {
        // Each thread has a run of tokens in order.
        const long run = (n + REDUCE_THREADS - 1) / REDUCE_THREADS;
        const long begin = min(threadIdx.x * run, n), end = min(begin + run, n);
        double sum = 0.0;
        for (long i = begin; i < end; ++i) sum += exp((static_cast<double>(logits[i]) - top.value) / temperature);
        sums[threadIdx.x + 1] = sum;
        __syncthreads();
        if (threadIdx.x == 0) {
            sums[0] = 0.0;
            for (int i = 0; i < REDUCE_THREADS; ++i) sums[i + 1] += sums[i];
        }
        __syncthreads();
        const double drawn = draws[counters[1]] * sums[REDUCE_THREADS];
        double reached = sums[threadIdx.x];
        const bool is_mine = reached <= drawn && drawn < sums[threadIdx.x + 1];
        __syncthreads();
        if (is_mine) {
            long i = begin;
            for (; i + 1 < end; ++i) {
                reached += exp((static_cast<double>(logits[i]) - top.value) / temperature);
                if (drawn < reached) break;
            }
            *token = static_cast<uint32_t>(i);
        }
    } else if (threadIdx.x == 0) {
        *token = chosen;
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        counters[0] += 1;
        counters[1] += 1;
    }
}
