// What a card reaches at most: reading, multiplying, starting kernels. Every thread leaves its result, so that the compiler
// leaves no work out.
#pragma once
#include "prelude.cuh"

// Past the cache of the multiprocessor, which would hold its share of a small buffer.
DEVICE Bytes16 load16_beyond(const uint8_t* at) {
#ifdef __CUDACC__
    const uint4 read = __ldcg(reinterpret_cast<const uint4*>(at));
    return {{read.x, read.y, read.z, read.w}};
#else
    return emulation::aligned_load<Bytes16>(at);
#endif
}

DEVICE uint32_t word_sum(const Bytes16& read) { return read.word[0] + read.word[1] + read.word[2] + read.word[3]; }

// Reads `n` times 16 bytes again and again; out (threads) = sums of their words. Four loads of a thread are on their way.
KERNEL(256) read_again(const uint8_t* from, uint32_t* out, long n, long turns) {
    const long first = static_cast<long>(blockIdx.x) * 256 + threadIdx.x, step = static_cast<long>(gridDim.x) * 256;
    uint32_t sum = 0;
    for (long turn = 0; turn < turns; ++turn) {
        long i = first;
        for (; i + 3 * step < n; i += 4 * step) {
            Bytes16 part[4];
            for (int k = 0; k < 4; ++k) part[k] = load16_beyond(from + 16 * (i + k * step));
            for (int k = 0; k < 4; ++k) sum += word_sum(part[k]);
        }
        for (; i < n; i += step) sum += word_sum(load16_beyond(from + 16 * i));
    }
    out[first] = sum;
}

constexpr int CHAINS = 8, LINKS = 4;

// values (threads): in each thread CHAINS chains x = x · value + 1, of LINKS a turn; then their sum.
KERNEL(256) multiply_adds(float* values, long turns) {
    const long at = static_cast<long>(blockIdx.x) * 256 + threadIdx.x;
    const float factor = values[at];
    float chain[CHAINS];
    for (int k = 0; k < CHAINS; ++k) chain[k] = static_cast<float>(k);
    for (long turn = 0; turn < turns; ++turn)
        for (int link = 0; link < LINKS; ++link)
            for (int k = 0; k < CHAINS; ++k) chain[k] = fmaf(chain[k], factor, 1.0f);
    float sum = 0.0f;
    for (int k = 0; k < CHAINS; ++k) sum += chain[k];
    values[at] = sum;
}

// The same of 8-bit products: x = value · x + k, over the four bytes of both.
KERNEL(256) dot_products(int* values, long turns) {
    const long at = static_cast<long>(blockIdx.x) * 256 + threadIdx.x;
    const int factor = values[at];
    int chain[CHAINS];
    for (int k = 0; k < CHAINS; ++k) chain[k] = k;
    for (long turn = 0; turn < turns; ++turn)
        for (int link = 0; link < LINKS; ++link)
            for (int k = 0; k < CHAINS; ++k) chain[k] = __dp4a(factor, chain[k], k);
    int sum = 0;
    for (int k = 0; k < CHAINS; ++k) sum += chain[k];
    values[at] = sum;
}

// What a launch costs that does nothing.
KERNEL(32) nothing(long) {}
