// Products of rows with a packed matrix, and rows by number.
#pragma once
#include "formats.cuh"

constexpr int PRODUCT_THREADS = 128;

// y (rows, outputs) = x (rows, inputs) Wᵀ + bias, added to y where `adds`. A warp makes one output of M rows; blocks in y
// take further rows. Grid: (outputs / 4, rows / M). Sums run in f32, a lane's share in order, then over lanes.
template <class F, int M>
DEVICE void product(const Weights& w, const float* x, float* y, const float* bias, long rows, long outputs, bool adds) {
    const long output = blockIdx.x * (PRODUCT_THREADS / WARP) + threadIdx.x / WARP;
    if (output >= outputs) return;
    const long lane = threadIdx.x % WARP, first = static_cast<long>(blockIdx.y) * M;
    const bool is_aligned = w.inputs % 4 == 0;
    float sum[M] = {};
    for (long unit = lane; unit < units<F>(w.inputs); unit += WARP) {
        float weight[F::RUNS][F::RUN];
        F::decode(w, output, unit, weight);
        for (int run = 0; run < F::RUNS; ++run) {
            const long start = F::start(unit, run);
            if (is_aligned && start + F::RUN <= w.inputs) {
                for (int m = 0; m < M; ++m) {
                    // Rows beyond the last repeat it and are not stored.
                    const float* row = x + min(first + m, rows - 1) * w.inputs + start;
                    for (int i = 0; i < F::RUN; i += 4) {
                        const Float4 four = load_floats(row + i);
                        for (int j = 0; j < 4; ++j) sum[m] = fmaf(weight[run][i + j], four.value[j], sum[m]);
                    }
                }
            } else {
                for (int m = 0; m < M; ++m) {
                    const float* row = x + min(first + m, rows - 1) * w.inputs + start;
                    for (int i = 0; i < F::RUN; ++i)
                        if (start + i < w.inputs) sum[m] = fmaf(weight[run][i], row[i], sum[m]);
                }
            }
        }
    }
    for (int m = 0; m < M; ++m) {
        const float total = warp_sum(sum[m]);
        if (lane == 0 && first + m < rows) {
            float* place = y + (first + m) * outputs + output;
            *place = (adds ? *place : 0.0f) + (total + (bias ? bias[output] : 0.0f));
        }
    }
}

// Where a number of the staged inputs lies: gaps keep lanes that read 16 bytes each, 16 or 32 numbers apart, on different
// banks of shared memory.
DEVICE int staged(int at) { return at + at / 16 * 4 + at / 128 * 4; }

// `product` of one row for formats whose lanes lie far apart in x: the inputs of 32 units are staged in shared memory once
// for the block, instead of 32 lines of the cache for each load of each warp. The sums are the same, in the same order.
template <class F>
DEVICE void product_staged(const Weights& w, const float* x, float* y, const float* bias, long outputs, bool adds) {
    constexpr int UNIT = F::RUN * F::RUNS, CHUNK = WARP * UNIT;
    alignas(16) __shared__ float inputs[CHUNK / 16 * 20 + CHUNK / 128 * 4 + 4];
    const long output = blockIdx.x * (PRODUCT_THREADS / WARP) + threadIdx.x / WARP, own = min(output, outputs - 1);
    const long lane = threadIdx.x % WARP, n_units = units<F>(w.inputs);
    float sum = 0.0f;
    for (long base = 0; base < n_units; base += WARP) {
        const long begin = base * UNIT;
        const int n = static_cast<int>(min(static_cast<long>(CHUNK), w.inputs - begin));
        __syncthreads();
        for (int at = threadIdx.x; at < n; at += PRODUCT_THREADS) inputs[staged(at)] = x[begin + at];
        __syncthreads();
        const long unit = base + lane;
        if (unit >= n_units) continue;
        float weight[F::RUNS][F::RUN];
        F::decode(w, own, unit, weight);
        for (int run = 0; run < F::RUNS; ++run) {
            const int start = static_cast<int>(F::start(unit, run) - begin);
            if (start + F::RUN <= n) {
                for (int i = 0; i < F::RUN; i += 4) {
                    const Float4 four = load_floats(inputs + staged(start + i));
                    for (int j = 0; j < 4; ++j) sum = fmaf(weight[run][i + j], four.value[j], sum);
                }
            } else {
                for (int i = 0; i < F::RUN; ++i)
                    if (start + i < n) sum = fmaf(weight[run][i], inputs[staged(start + i)], sum);
            }
        }
    }
    const float total = warp_sum(sum);
    if (lane == 0 && output < outputs) y[output] = (adds ? y[output] : 0.0f) + (total + (bias ? bias[output] : 0.0f));
}

// The product of one row, in the way that suits the format.
template <class F>
DEVICE void product_single(const Weights& w, const float* x, float* y, const float* bias, long rows, long outputs, bool adds) {
    if constexpr (F::RUN * F::RUNS >= 16) {
        product_staged<F>(w, x, y, bias, outputs, adds);
    } else {
        product<F, 1>(w, x, y, bias, rows, outputs, adds);
    }
}

// hidden (rows, inputs): the rows of W that `ids` number. Grid: rows.
template <class F>
DEVICE void gather(const Weights& w, const uint32_t* ids, float* hidden) {
    const long id = ids[blockIdx.x];
    float* row = hidden + blockIdx.x * w.inputs;
    for (long unit = threadIdx.x; unit < units<F>(w.inputs); unit += PRODUCT_THREADS) {
        float weight[F::RUNS][F::RUN];
        F::decode(w, id, unit, weight);
        for (int run = 0; run < F::RUNS; ++run)
            for (int i = 0; i < F::RUN; ++i) {
                const long at = F::start(unit, run) + i;
                if (at < w.inputs) row[at] = weight[run][i];
            }
    }
}

#define MATRIX const uint8_t *codes, const float *scales, const float *zeros, long stride, long group, long inputs
#define OF_FORMAT(name, F) \
    KERNEL(PRODUCT_THREADS) product_##name##_1( \
        MATRIX, const float* x, float* y, const float* bias, long rows, long outputs, long adds) { \
        product_single<F>({codes, scales, zeros, stride, group, inputs}, x, y, bias, rows, outputs, adds != 0); \
    } \
    KERNEL(PRODUCT_THREADS) product_##name##_8( \
        MATRIX, const float* x, float* y, const float* bias, long rows, long outputs, long adds) { \
        product<F, 8>({codes, scales, zeros, stride, group, inputs}, x, y, bias, rows, outputs, adds != 0); \
    } \
    KERNEL(PRODUCT_THREADS) gather_##name(MATRIX, const uint32_t* ids, float* hidden) { \
        gather<F>({codes, scales, zeros, stride, group, inputs}, ids, hidden); \
    }
FORMATS(OF_FORMAT)

// Rounds rows of activations to 8 bits: x ≈ scale · code, halves to even, codes −128 to 127. A scale a row, its largest
// magnitude over 127.5, unless `fixed` is one for all. `codes` (rows, padded inputs) are filled up with zeros; `values`
// are the same numbers as floats. Either may be none. A row with a value that is not finite gets a scale that is no
// number. Grid: rows.
KERNEL(256) round_rows(const float* x, int8_t* codes, float* scales, float* values, long inputs, double fixed) {
    __shared__ float scratch[256];
    const float* row = x + blockIdx.x * inputs;
    float largest = 0.0f;
    bool is_finite = true;
    for (long i = threadIdx.x; i < inputs; i += 256) {
        largest = fmaxf(largest, fabsf(row[i]));
        is_finite &= row[i] - row[i] == 0.0f;
    }
    if (!is_finite) largest = __builtin_huge_valf();
    largest = block_reduce(largest, scratch, [](float a, float b) { return fmaxf(a, b); });
    float scale = fixed > 0.0 ? static_cast<float>(fixed) : largest / 127.5f;
    const bool is_number = largest - largest == 0.0f;
    for (long i = threadIdx.x; i < (codes ? padded(inputs) : inputs); i += 256) {
        float code = 0.0f;
        if (i < inputs && is_number && scale > 0.0f) code = fminf(fmaxf(rintf(row[i] / scale), -128.0f), 127.0f);
        if (codes) codes[blockIdx.x * padded(inputs) + i] = static_cast<int8_t>(code);
        if (values && i < inputs) values[blockIdx.x * inputs + i] = is_number ? code * scale : __builtin_nanf("");
    }
    if (threadIdx.x == 0 && scales) scales[blockIdx.x] = is_number ? scale : __builtin_nanf("");
}

// The number that an exact sum of products of codes stands for: one rounding of the scales' product, one of the result.
DEVICE float of_sum(int sum, float x_scale, float scale, float bias) {
    return fmaf(static_cast<float>(sum), x_scale * scale, bias);
}

// y (rows, outputs) of 8-bit codes with 8-bit activations: exact sums of integers, then both scales. Rows of codes are
// filled up with zeros to multiples of 16. Grid as of `product`.
template <int M>
DEVICE void product_tokens(const uint8_t* codes, const float* scales, long inputs, const int8_t* x, const float* x_scales,
                           float* y, const float* bias, long rows, long outputs) {
    const long output = blockIdx.x * (PRODUCT_THREADS / WARP) + threadIdx.x / WARP;
    if (output >= outputs) return;
    const long lane = threadIdx.x % WARP, first = static_cast<long>(blockIdx.y) * M, stride = padded(inputs);
    int sum[M] = {};
    for (long unit = lane; unit < stride / 16; unit += WARP) {
        const Bytes16 weight = load16(codes + output * stride + unit * 16);
        for (int m = 0; m < M; ++m) {
            const int8_t* row = x + min(first + m, rows - 1) * stride + unit * 16;
            const Float4 four = load_floats(reinterpret_cast<const float*>(row));
            for (int i = 0; i < 4; ++i)
                sum[m] = __dp4a(static_cast<int>(weight.word[i]), static_cast<int>(float_to_bits(four.value[i])), sum[m]);
        }
    }
    for (int m = 0; m < M; ++m) {
        int total = sum[m];
        for (int step = WARP / 2; step > 0; step /= 2) total += __shfl_xor_sync(~0u, total, step);
        if (lane == 0 && first + m < rows)
            y[(first + m) * outputs + output] = of_sum(total, x_scales[first + m], scales[output], bias ? bias[output] : 0.0f);
    }
}

#define TOKENS const uint8_t *codes, const float *scales, long inputs, const int8_t *x, const float *x_scales, float *y, \
    const float *bias, long rows, long outputs
KERNEL(PRODUCT_THREADS) product_tokens_1(TOKENS) {
    product_tokens<1>(codes, scales, inputs, x, x_scales, y, bias, rows, outputs);
}
KERNEL(PRODUCT_THREADS) product_tokens_8(TOKENS) {
    product_tokens<8>(codes, scales, inputs, x, x_scales, y, bias, rows, outputs);
}
