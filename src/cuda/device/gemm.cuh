// What stands around the products of many rows, which cuBLASLt makes: activations and weights in its types, and results in
// ours.
#pragma once
#include "products.cuh"

constexpr int NARROW_THREADS = 256;

// The power of two that brings a largest magnitude to 2^14 … 2^15, where a half has room above and 28 binades of full
// precision below; 1 where nothing is larger than 0.
DEVICE float half_factor(float largest) {
    if (!(largest > 0.0f)) return 1.0f;
    const int exponent = static_cast<int>(float_to_bits(largest) >> 23) - 127;
    return bits_to_float(static_cast<uint32_t>(min(14 - exponent, 126) + 127) << 23);
}

// What is no number has no part in the choice of a factor: it stays what it is under each.
DEVICE float finite_magnitude(float value) {
    const float magnitude = fabsf(value);
    return magnitude - magnitude == 0.0f ? magnitude : 0.0f;
}

DEVICE float larger(float a, float b) { return fmaxf(a, b); }

// largest (rows): the largest finite magnitude of each row of x (rows, inputs). Grid: rows.
KERNEL(NARROW_THREADS) largest_rows(const float* x, float* largest, long inputs) {
    __shared__ float scratch[NARROW_THREADS];
    const float* row = x + blockIdx.x * inputs;
    float most = 0.0f;
    for (long i = threadIdx.x; i < inputs; i += NARROW_THREADS) most = fmaxf(most, finite_magnitude(row[i]));
    most = block_reduce(most, scratch, larger);
    if (threadIdx.x == 0) largest[blockIdx.x] = most;
}

// In every thread: the factor of what these are the largest magnitudes of.
DEVICE float factor_of(const float* largest, long n, float* scratch) {
    float most = 0.0f;
    for (long i = threadIdx.x; i < n; i += NARROW_THREADS) most = fmaxf(most, largest[i]);
    return half_factor(block_reduce(most, scratch, larger));
}

// factor (1) of the n rows whose largest magnitudes are given. Grid: 1.
KERNEL(NARROW_THREADS) factor_of_rows(const float* largest, long n, float* factor) {
    __shared__ float scratch[NARROW_THREADS];
    const float found = factor_of(largest, n, scratch);
    if (threadIdx.x == 0) *factor = found;
}

// out (rows, width) from a row of x (rows, inputs), filled up with zeros.
template <class Round>
DEVICE void narrow(const float* x, uint16_t* out, long inputs, long width, Round round) {
    const float* row = x + blockIdx.x * inputs;
    uint16_t* line = out + blockIdx.x * width;
    const bool is_aligned = inputs % 4 == 0;
    for (long at = threadIdx.x * 4L; at < width; at += NARROW_THREADS * 4) {
        Float4 four = {};
        if (is_aligned && at < inputs) {
            four = load_floats(row + at);
        } else {
            for (int i = 0; i < 4; ++i)
                if (at + i < inputs) four.value[i] = row[at + i];
        }
        Four16 rounded;
        for (int i = 0; i < 4; ++i) rounded.bits[i] = round(four.value[i]);
        store_as(line + at, rounded);
    }
}

// out (rows, width) halves of x (rows, inputs) under one power of two that `largest` (rows) asks for; `undo` is its inverse.
// Exact but for the rounding to 11 bits, and for what is 2^28 times smaller than the largest. Width: a multiple of 8.
// Grid: rows.
KERNEL(NARROW_THREADS) narrow_f16(const float* x, const float* largest, uint16_t* out, float* undo, long inputs, long width) {
    __shared__ float scratch[NARROW_THREADS];
    const float factor = factor_of(largest, gridDim.x, scratch);
    narrow(x, out, inputs, width, [factor](float value) { return float_to_half(value * factor); });
    if (blockIdx.x == 0 && threadIdx.x == 0) *undo = 1.0f / factor;
}

// out (rows, width) of x (rows, inputs) rounded to 8 bits of fraction with f32's exponents. Grid: rows.
KERNEL(NARROW_THREADS) narrow_bf16(const float* x, uint16_t* out, long inputs, long width) {
    narrow(x, out, inputs, width, float_to_bf16);
}

// largest (outputs): the largest finite magnitude of each row of W. Grid: outputs.
template <class F>
DEVICE void largest_weight(const Weights& w, float* largest) {
    __shared__ float scratch[PRODUCT_THREADS];
    const long output = blockIdx.x;
    float most = 0.0f;
    for (long unit = threadIdx.x; unit < units<F>(w.inputs); unit += PRODUCT_THREADS) {
        float weight[F::RUNS][F::RUN];
        F::decode(w, output, unit, weight);
        for (int run = 0; run < F::RUNS; ++run)
            for (int i = 0; i < F::RUN; ++i)
                if (F::start(unit, run) + i < w.inputs) most = fmaxf(most, finite_magnitude(weight[run][i]));
    }
    most = block_reduce(most, scratch, larger);
    if (threadIdx.x == 0) largest[output] = most;
}

// out (gridDim.x, width) halves: rows of W from `first` on by `factor`, filled up with zeros. `alpha` takes both factors
// back from a product with activations whose inverse factor is `undo`. Grid: rows to write.
template <class F>
DEVICE void write_out(const Weights& w, long first, const float* factor, const float* undo, uint16_t* out, long width,
                      float* alpha) {
    const float by = *factor;
    if (blockIdx.x == 0 && threadIdx.x == 0) *alpha = *undo / by;
    uint16_t* line = out + blockIdx.x * width;
    for (long unit = threadIdx.x; unit < units<F>(w.inputs); unit += PRODUCT_THREADS) {
        float weight[F::RUNS][F::RUN];
        F::decode(w, first + blockIdx.x, unit, weight);
        for (int run = 0; run < F::RUNS; ++run) {
            const long start = F::start(unit, run);
            for (int i = 0; i < F::RUN; i += 8) {
                // Runs are of 16 and the width is a multiple of 8: eight are inside of a row or outside of it.
                if (start + i >= width) continue;
                Bytes16 eight;
                for (int j = 0; j < 4; ++j) {
                    const long at = start + i + 2 * j;
                    const uint32_t low = at < w.inputs ? float_to_half(weight[run][i + 2 * j] * by) : 0;
                    const uint32_t high = at + 1 < w.inputs ? float_to_half(weight[run][i + 2 * j + 1] * by) : 0;
                    eight.word[j] = low | high << 16;
                }
                store_as(line + start + i, eight);
            }
        }
    }
}

#define WRITES_OUT(name, F) \
    KERNEL(PRODUCT_THREADS) largest_##name(MATRIX, float* largest) { \
        largest_weight<F>({codes, scales, zeros, stride, group, inputs}, largest); \
    } \
    KERNEL(PRODUCT_THREADS) write_out_##name(MATRIX, long first, const float* factor, const float* undo, uint16_t* out, \
                                             long width, float* alpha) { \
        write_out<F>({codes, scales, zeros, stride, group, inputs}, first, factor, undo, out, width, alpha); \
    }
PACKED_FORMATS(WRITES_OUT)

// y (rows, outputs) = bias, added to y where `adds`. Grid: (outputs / 256, rows).
KERNEL(NARROW_THREADS) spread_bias(float* y, const float* bias, long outputs, long adds) {
    const long output = static_cast<long>(blockIdx.x) * NARROW_THREADS + threadIdx.x;
    if (output >= outputs) return;
    float* place = y + blockIdx.y * outputs + output;
    *place = (adds ? *place : 0.0f) + bias[output];
}

// y (rows, outputs): sums of integers in, numbers out, as `product_tokens` makes them. Grid: (outputs / 256, rows).
KERNEL(NARROW_THREADS) scale_sums(float* y, const float* x_scales, const float* scales, const float* bias, long outputs) {
    const long output = static_cast<long>(blockIdx.x) * NARROW_THREADS + threadIdx.x;
    if (output >= outputs) return;
    float* place = y + blockIdx.y * outputs + output;
    const int sum = static_cast<int>(float_to_bits(*place));
    *place = of_sum(sum, x_scales[blockIdx.y], scales[output], bias ? bias[output] : 0.0f);
}
