// How a cache of keys or values holds its rows, one a token: numbers, or blocks of 32 with a scale each.
#pragma once
#include "prelude.cuh"

// Four numbers of a row from `at` on; zeros beyond its end.
DEVICE Float4 four_of(const float* row, long at, long len, bool is_aligned) {
    if (is_aligned && at < len) return load_floats(row + at);
    Float4 four = {};
    for (int i = 0; i < 4; ++i)
        if (at + i < len) four.value[i] = row[at + i];
    return four;
}

DEVICE Float4 four_of(const uint16_t* row, long at, long len, bool is_aligned) {
    Float4 four = {};
    if (is_aligned && at < len) {
        const Four16 read = load_as<Four16>(row + at);
        for (int i = 0; i < 4; ++i) four.value[i] = half_to_float(read.bits[i]);
        return four;
    }
    for (int i = 0; i < 4; ++i)
        if (at + i < len) four.value[i] = half_to_float(row[at + i]);
    return four;
}

// Rows of `width` numbers of T.
template <class T>
struct Numbers {
    using Stored = T;
    DEVICE static T* row(T* base, long token, long width) { return base + token * width; }
    DEVICE static const T* row(const T* base, long token, long width) { return base + token * width; }
    DEVICE static float fetch(const float* row, long, long at) { return row[at]; }
    DEVICE static float fetch(const uint16_t* row, long, long at) { return half_to_float(row[at]); }
    DEVICE static void store(float* row, long at, float value) { row[at] = value; }
    DEVICE static void store(uint16_t* row, long at, float value) { row[at] = float_to_half(value); }
    // The base of rows whose numbers are those of a head.
    DEVICE static const T* of_head(const T* base, long first) { return base + first; }
    // Four numbers from `at` on of a head with `len`, which begins at `first`; the row is one of its base's.
    DEVICE static Float4 four(const T* row, long, long, long at, long len, bool is_aligned) {
        return four_of(row, at, len, is_aligned);
    }
};

constexpr int CACHE_BLOCK = 32;

// Rows of whole blocks of GGML q8_0 or q4_0, at multiples of 16 bytes: first the codes of all blocks, then their scales.
template <int BITS>
struct Blocks {
    using Stored = uint8_t;
    DEVICE static long code_bytes(long width) { return width * BITS / 8; }
    DEVICE static long stride(long width) { return (code_bytes(width) + width / CACHE_BLOCK * 2 + 15) / 16 * 16; }
    DEVICE static uint8_t* row(uint8_t* base, long token, long width) { return base + token * stride(width); }
    DEVICE static const uint8_t* row(const uint8_t* base, long token, long width) { return base + token * stride(width); }
    DEVICE static const uint8_t* of_head(const uint8_t* base, long) { return base; }
    DEVICE static float scale(const uint8_t* row, long width, long at) {
        return half_to_float(static_cast<uint16_t>(half_at(row + code_bytes(width) + at / CACHE_BLOCK * 2)));
    }
    DEVICE static float fetch(const uint8_t* row, long width, long at) {
        const float by = scale(row, width, at);
        if (BITS == 8) return static_cast<float>(static_cast<int8_t>(row[at])) * by;
        const long block = at / CACHE_BLOCK, place = at % CACHE_BLOCK;
        const int codes = row[block * 16 + place % 16];
        return static_cast<float>((place < 16 ? codes & 15 : codes >> 4) - 8) * by;
    }
    DEVICE static Float4 four(const uint8_t* row, long width, long first, long at, long len, bool is_aligned) {
        Float4 four = {};
        if (is_aligned && at < len) {
            // Heads of whole fours: all four lie in one block, and in the same halves of their bytes.
            const long from = first + at, block = from / CACHE_BLOCK, place = from % CACHE_BLOCK;
            const float by = scale(row, width, from);
            const uint32_t codes = load_as<uint32_t>(BITS == 8 ? row + from : row + block * 16 + place % 16);
            for (int i = 0; i < 4; ++i) {
                const uint32_t byte = codes >> (8 * i) & 255;
                const int code = BITS == 8 ? static_cast<int8_t>(byte)
                                           : static_cast<int>(place < 16 ? byte & 15 : byte >> 4) - 8;
                four.value[i] = static_cast<float>(code) * by;
            }
            return four;
        }
        for (int i = 0; i < 4; ++i)
            if (at + i < len) four.value[i] = fetch(row, width, first + at + i);
        return four;
    }

    // Rounds x (width) to the row; the threads of a block take whole warps' turns. What is not finite makes its block's
    // scale no number.
    DEVICE static void store(uint8_t* row, const float* x, long width) {
        const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
        for (long block = warp; block < width / CACHE_BLOCK; block += blockDim.x / WARP) {
            const float value = x[block * CACHE_BLOCK + lane];
            const float poison = warp_sum(value * 0.0f), most = warp_max(fabsf(value));
            float largest = most;
            if (BITS == 4) {
                // The first of the largest magnitude becomes code 0 with its sign.
                const float mine = fabsf(value) == most ? static_cast<float>(-lane) : -static_cast<float>(WARP);
                const bool is_first = static_cast<float>(-lane) == warp_max(mine);
                largest = warp_sum(is_first ? value : 0.0f);
            }
            const float step = BITS == 8 ? largest / 127.0f : largest / -8.0f;
            const float inverse = step == 0.0f ? 0.0f : 1.0f / step;
            const bool is_finite = poison == 0.0f;
            if (BITS == 8) {
                const int code = is_finite ? static_cast<int>(roundf(value * inverse)) : 0;
                row[block * CACHE_BLOCK + lane] = static_cast<uint8_t>(static_cast<int8_t>(code));
            } else {
                const int code = is_finite ? min(static_cast<int>(value * inverse + 8.5f), 15) : 0;
                const int other = __shfl_xor_sync(~0u, code, 16);
                if (lane < 16) row[block * 16 + lane] = static_cast<uint8_t>(code | other << 4);
            }
            if (lane == 0) {
                uint8_t* at = row + code_bytes(width) + block * 2;
                *reinterpret_cast<uint16_t*>(at) = float_to_half(step + poison);
            }
        }
    }
};
