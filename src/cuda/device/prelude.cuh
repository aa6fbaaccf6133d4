// What every kernel uses, on a card and in the emulation.
//
// Every parameter of a kernel is eight bytes wide (an address, a long, a double), so that the host passes all of them in
// one way. Sizes count elements unless their name says bytes. Rows of matrices begin at multiples of 16 bytes.
#pragma once
#include <cstdint>

#ifdef __CUDACC__
#include <cuda_fp16.h>
#define KERNEL(threads) extern "C" __global__ void __launch_bounds__(threads)
// With room for so many blocks on a multiprocessor at once: the compiler keeps to as few registers.
#define KERNEL_BESIDE(threads, blocks) extern "C" __global__ void __launch_bounds__(threads, blocks)
#define PRAGMA(text) _Pragma(#text)
#define UNROLL(n) PRAGMA(unroll n)
#define DEVICE __device__ __forceinline__
DEVICE float half_to_float(uint16_t bits) { return __half2float(__ushort_as_half(bits)); }
DEVICE uint16_t float_to_half(float value) { return __half_as_ushort(__float2half_rn(value)); }
DEVICE float bits_to_float(uint32_t bits) { return __uint_as_float(bits); }
DEVICE uint32_t float_to_bits(float value) { return __float_as_uint(value); }
#else
#include "emulation.h"
#endif

constexpr int WARP = 32;
constexpr float NO_SCORE = -__builtin_huge_valf();

// Sixteen bytes, loaded at once.
struct alignas(16) Bytes16 {
    uint32_t word[4];
    DEVICE uint32_t byte(int at) const { return word[at / 4] >> (8 * (at % 4)) & 255; }
};

// Weights are read once: they must not push activations out of the cache.
DEVICE Bytes16 load16(const uint8_t* at) {
#ifdef __CUDACC__
    const uint4 read = __ldcs(reinterpret_cast<const uint4*>(at));
    return {{read.x, read.y, read.z, read.w}};
#else
    return emulation::aligned_load<Bytes16>(at);
#endif
}

struct alignas(16) Float4 {
    float value[4];
};

// A load and a store of as many bytes as T has, at once.
template <class T>
DEVICE T load_as(const void* at) {
#ifdef __CUDACC__
    return *static_cast<const T*>(at);
#else
    return emulation::aligned_load<T>(at);
#endif
}

template <class T>
DEVICE void store_as(void* at, const T& value) {
#ifdef __CUDACC__
    *static_cast<T*>(at) = value;
#else
    emulation::aligned_store(at, value);
#endif
}

DEVICE Float4 load_floats(const float* at) { return load_as<Float4>(at); }

struct alignas(8) Four16 {
    uint16_t bits[4];
};

DEVICE uint32_t half_at(const uint8_t* at) { return *reinterpret_cast<const uint16_t*>(at); }

DEVICE float bf16_to_float(uint32_t bits) { return bits_to_float(bits << 16); }

// To nearest, ties to even.
DEVICE uint16_t float_to_bf16(float value) {
    const uint32_t bits = float_to_bits(value);
    if (value != value) return static_cast<uint16_t>(bits >> 16 | 0x40);
    return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

// E4M3 without infinities: sign, four bits of exponent with bias 7, three of fraction; all ones is no number.
DEVICE float fp8_to_float(uint32_t code) {
    const uint32_t sign = (code & 128) << 24, rest = code & 127;
    if (rest == 127) return bits_to_float(sign | 0x7fc00000);
    // The bits of a number 2^120 times too small, subnormal ones too.
    return bits_to_float(sign | rest << 20) * 0x1p120f;
}

DEVICE float warp_sum(float value) {
    for (int step = WARP / 2; step > 0; step /= 2) value += __shfl_xor_sync(~0u, value, step);
    return value;
}

DEVICE float warp_max(float value) {
    for (int step = WARP / 2; step > 0; step /= 2) value = fmaxf(value, __shfl_xor_sync(~0u, value, step));
    return value;
}

// The result of `join` over all threads of a block, in every one of them. `scratch` has a place for each thread.
template <class T, class Join>
DEVICE T block_reduce(T value, T* scratch, Join join) {
    const int thread = threadIdx.x;
    scratch[thread] = value;
    __syncthreads();
    for (int half = blockDim.x / 2; half > 0; half /= 2) {
        if (thread < half) scratch[thread] = join(scratch[thread], scratch[thread + half]);
        __syncthreads();
    }
    const T all = scratch[0];
    __syncthreads();
    return all;
}
