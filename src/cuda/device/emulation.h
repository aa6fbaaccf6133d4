// CUDA's dialect for the processor: blocks run one after another, the threads of a block as fibers of one thread that
// change places at barriers and shuffles. What the hardware forbids ends the program: a barrier that not all threads
// reach, a shuffle of a thread that has ended, a load that is not aligned.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#define KERNEL(threads) static void
#define KERNEL_BESIDE(threads, blocks) static void
#define UNROLL(n)
#define DEVICE inline
#define __shared__ static thread_local

namespace emulation {

struct Dim {
    unsigned x, y, z;
};

extern thread_local Dim thread_index, block_index, block_size, grid_size;

void block_barrier();
uint64_t exchange(uint64_t mine, int with);

[[noreturn]] inline void refuse(const char* what) {
    std::fprintf(stderr, "emulated kernel: %s\n", what);
    std::abort();
}

template <class T>
T aligned_load(const void* at) {
    if (reinterpret_cast<uintptr_t>(at) % alignof(T) != 0) refuse("a load that is not aligned");
    T value;
    std::memcpy(&value, at, sizeof(T));
    return value;
}

template <class T>
void aligned_store(void* at, const T& value) {
    if (reinterpret_cast<uintptr_t>(at) % alignof(T) != 0) refuse("a store that is not aligned");
    std::memcpy(at, &value, sizeof(T));
}

}  // namespace emulation

#define threadIdx emulation::thread_index
#define blockIdx emulation::block_index
#define blockDim emulation::block_size
#define gridDim emulation::grid_size

using std::max;
using std::min;

inline void __syncthreads() { emulation::block_barrier(); }

template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lanes) {
    static_assert(sizeof(T) <= 8);
    if (mask != ~0u) emulation::refuse("a shuffle of a part of a warp");
    uint64_t bits = 0;
    std::memcpy(&bits, &value, sizeof(T));
    bits = emulation::exchange(bits, lanes);
    std::memcpy(&value, &bits, sizeof(T));
    return value;
}

template <class T>
T __shfl_sync(unsigned mask, T value, int lane) {
    return __shfl_xor_sync(mask, value, static_cast<int>(threadIdx.x % 32) ^ lane);
}

inline int __dp4a(int a, int b, int sum) {
    for (int i = 0; i < 4; ++i) sum += static_cast<int8_t>(a >> (8 * i)) * static_cast<int8_t>(b >> (8 * i));
    return sum;
}

inline float bits_to_float(uint32_t bits) {
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}

inline uint32_t float_to_bits(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    return bits;
}

inline float half_to_float(uint16_t bits) {
    const int exponent = bits >> 10 & 31, fraction = bits & 1023;
    float value = exponent == 31 ? (fraction ? NAN : INFINITY)
                  : exponent ? std::ldexp(static_cast<float>(1024 + fraction), exponent - 25)
                             : std::ldexp(static_cast<float>(fraction), -24);
    return bits >> 15 ? -value : value;
}

// To nearest, ties to even.
inline uint16_t float_to_half(float value) {
    const uint16_t sign = static_cast<uint16_t>(float_to_bits(value) >> 16 & 0x8000);
    const float magnitude = std::fabs(value);
    if (magnitude != magnitude) return sign | 0x7e00;
    if (magnitude >= 65520.0f) return sign | 0x7c00;
    if (magnitude < 0x1p-14f) return sign | static_cast<uint16_t>(std::nearbyint(magnitude * 0x1p24f));
    int exponent;
    const float fraction = std::frexp(magnitude, &exponent);
    // The carry of a fraction that is rounded up moves into the exponent.
    return sign | static_cast<uint16_t>((exponent + 14) * 1024 + static_cast<int>(std::nearbyint(fraction * 2048.0f)) - 1024);
}
