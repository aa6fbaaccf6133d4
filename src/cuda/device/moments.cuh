// Sums over the inputs of layers, and the hidden states between blocks, for calibration.
#pragma once
#include "prelude.cuh"

// A block makes GRAM_TILE × GRAM_TILE sums, its 8 warps 32 × 64 each, a thread 8 × 8: four loads of 16 bytes from shared
// memory for 64 products. Of GRAM_DEPTH tokens a half of that memory holds both sides while the next ones are fetched.
constexpr int GRAM_TILE = 128, GRAM_DEPTH = 8, GRAM_THREADS = 256;

// Four neighbouring inputs of a token; zeros behind the last token and the last input.
DEVICE Float4 four_inputs(const float* x, long tokens, long width, long token, long first, bool is_aligned) {
    Float4 four = {};
    if (token >= tokens) return four;
    const float* at = x + token * width + first;
    if (is_aligned && first < width) return load_floats(at);
    for (int i = 0; i < 4; ++i)
        if (first + i < width) four.value[i] = at[i];
    return four;
}

// gram += XᵀX over x (tokens, width): the lower half, row behind row. The sums over these tokens run in f32 and join the
// others in f64. Grid: the tiles of the lower half, row behind row.
KERNEL_BESIDE(GRAM_THREADS, 2) add_gram(const float* x, double* gram, long tokens, long width) {
    __shared__ Float4 rows[2][GRAM_DEPTH][GRAM_TILE / 4];
    __shared__ Float4 columns[2][GRAM_DEPTH][GRAM_TILE / 4];
    const long tile = blockIdx.x;
    long tile_row = static_cast<long>((sqrt(8.0 * static_cast<double>(tile) + 1.0) - 1.0) / 2.0);
    while (tile_row * (tile_row + 1) / 2 > tile) --tile_row;
    while ((tile_row + 1) * (tile_row + 2) / 2 <= tile) ++tile_row;
    const long first_row = tile_row * GRAM_TILE, first_column = (tile - tile_row * (tile_row + 1) / 2) * GRAM_TILE;
    const int thread = threadIdx.x, warp = thread / WARP, lane = thread % WARP;
    const int depth = thread / (GRAM_TILE / 4), quad = thread % (GRAM_TILE / 4);
    const int row_quad = warp / 2 * 8 + lane / 8, column_quad = warp % 2 * 16 + lane % 8;
    const bool is_aligned = width % 4 == 0;
    float sum[8][8] = {};
    Float4 row = four_inputs(x, tokens, width, depth, first_row + 4 * quad, is_aligned);
    Float4 column = four_inputs(x, tokens, width, depth, first_column + 4 * quad, is_aligned);
    store_as(&rows[0][depth][quad], row);
    store_as(&columns[0][depth][quad], column);
    __syncthreads();
    int half = 0;
    for (long next = GRAM_DEPTH; next < tokens + GRAM_DEPTH; next += GRAM_DEPTH) {
        const bool has_next = next < tokens;
        if (has_next) {
            row = four_inputs(x, tokens, width, next + depth, first_row + 4 * quad, is_aligned);
            column = four_inputs(x, tokens, width, next + depth, first_column + 4 * quad, is_aligned);
        }
        UNROLL(8)
        for (int k = 0; k < GRAM_DEPTH; ++k) {
            const Float4 left[2] = {load_as<Float4>(&rows[half][k][row_quad]), load_as<Float4>(&rows[half][k][row_quad + 4])};
            const Float4 right[2] = {load_as<Float4>(&columns[half][k][column_quad]),
                                     load_as<Float4>(&columns[half][k][column_quad + 8])};
            UNROLL(8)
            for (int i = 0; i < 8; ++i) {
                UNROLL(8)
                for (int j = 0; j < 8; ++j)
                    sum[i][j] = fmaf(left[i / 4].value[i % 4], right[j / 4].value[j % 4], sum[i][j]);
            }
        }
        half ^= 1;
        if (has_next) {
            store_as(&rows[half][depth][quad], row);
            store_as(&columns[half][depth][quad], column);
        }
        __syncthreads();
    }
    UNROLL(8)
    for (int i = 0; i < 8; ++i) {
        const long at = first_row + 4 * (row_quad + 4 * (i / 4)) + i % 4;
        UNROLL(8)
        for (int j = 0; j < 8; ++j) {
            const long other = first_column + 4 * (column_quad + 8 * (j / 4)) + j % 4;
            if (at < width && other <= at) gram[at * (at + 1) / 2 + other] += static_cast<double>(sum[i][j]);
        }
    }
}

constexpr int MAGNITUDE_SHARES = 8;

// sums (width) += |x|, in f64, and largest (width) the largest |x|, over the tokens of x (tokens, width). A warp has 32
// inputs of every eighth token. Grid: width / 32.
KERNEL(MAGNITUDE_SHARES * WARP) add_magnitudes(const float* x, double* sums, float* largest, long tokens, long width) {
    __shared__ double shares[MAGNITUDE_SHARES][WARP];
    __shared__ float most[MAGNITUDE_SHARES][WARP];
    const int share = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    const long input = static_cast<long>(blockIdx.x) * WARP + lane;
    double sum = 0.0;
    float top = 0.0f;
    if (input < width) {
        UNROLL(4)
        for (long token = share; token < tokens; token += MAGNITUDE_SHARES) {
            const float magnitude = fabsf(x[token * width + input]);
            sum += static_cast<double>(magnitude);
            top = fmaxf(top, magnitude);
        }
    }
    shares[share][lane] = sum;
    most[share][lane] = top;
    __syncthreads();
    if (share != 0 || input >= width) return;
    for (int other = 1; other < MAGNITUDE_SHARES; ++other) {
        sum += shares[other][lane];
        top = fmaxf(top, most[other][lane]);
    }
    sums[input] += sum;
    largest[input] = fmaxf(largest[input], top);
}

// out (n, width) = every `step`-th row of x (rows, width) from `first` on. Grid: n.
KERNEL(256) copy_rows(const float* x, float* out, long width, long first, long step) {
    const float* row = x + (first + blockIdx.x * step) * width;
    for (long i = threadIdx.x; i < width; i += 256) out[blockIdx.x * width + i] = row[i];
}

// out (n) = x + added (if any). Grid: n / 256.
KERNEL(256) add_floats(const float* x, const float* added, float* out, long n) {
    const long i = static_cast<long>(blockIdx.x) * 256 + threadIdx.x;
    if (i < n) out[i] = added ? x[i] + added[i] : x[i];
}
