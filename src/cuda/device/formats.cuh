// How each format's weights become numbers.
//
// A format is read in units of sixteen bytes of codes. A unit holds RUNS runs of RUN consecutive weights of one row;
// `start` says where a run begins. In rows of blocks each field of all blocks lies together, at a multiple of 16 bytes:
// the bytes of the format in another order.
#pragma once
#include "prelude.cuh"

// A matrix (rows, inputs): `stride` bytes from row to row; `scales` and `zeros` belong to groups of `group` inputs.
struct Weights {
    const uint8_t* codes;
    const float* scales;
    const float* zeros;
    long stride;
    long group;
    long inputs;
};

DEVICE long padded(long bytes) { return (bytes + 15) / 16 * 16; }

struct F32 {
    static constexpr int RUN = 4, RUNS = 1;
    static DEVICE long start(long unit, int) { return unit * 4; }
    static DEVICE void decode(const Weights& w, long row, long unit, float (&out)[1][4]) {
        const Bytes16 read = load16(w.codes + row * w.stride + unit * 16);
        for (int i = 0; i < 4; ++i) out[0][i] = bits_to_float(read.word[i]);
    }
};

template <bool IS_BRAIN>
struct Half {
    static constexpr int RUN = 8, RUNS = 1;
    static DEVICE long start(long unit, int) { return unit * 8; }
    static DEVICE void decode(const Weights& w, long row, long unit, float (&out)[1][8]) {
        const Bytes16 read = load16(w.codes + row * w.stride + unit * 16);
        for (int i = 0; i < 8; ++i) {
            const uint16_t bits = static_cast<uint16_t>(read.word[i / 2] >> (16 * (i % 2)));
            out[0][i] = IS_BRAIN ? bf16_to_float(bits) : half_to_float(bits);
        }
    }
};
using F16 = Half<false>;
using Bf16 = Half<true>;

// 8-bit floats. `group` is 0 for a scale a matrix, 1 for one a row, else the side of the squares that have one.
struct Fp8 {
    static constexpr int RUN = 16, RUNS = 1;
    static DEVICE long start(long unit, int) { return unit * 16; }
    static DEVICE void decode(const Weights& w, long row, long unit, float (&out)[1][16]) {
        const Bytes16 read = load16(w.codes + row * w.stride + unit * 16);
        long at = 0;
        if (w.group == 1) at = row;
        if (w.group > 1) at = row / w.group * ((w.inputs + w.group - 1) / w.group) + unit * 16 / w.group;
        const float scale = w.scales[at];
        for (int i = 0; i < 16; ++i) out[0][i] = scale * fp8_to_float(read.byte(i));
    }
};

// Codes of 8 or 4 bits on a grid for each group. Two runs of 4-bit codes share sixteen bytes, the first in the low half.
template <int BITS>
struct Int {
    static constexpr int RUN = 16, RUNS = 8 / BITS;
    static DEVICE long start(long unit, int run) { return unit * (16 * RUNS) + run * 16; }
    static DEVICE void decode(const Weights& w, long row, long unit, float (&out)[RUNS][16]) {
        const Bytes16 read = load16(w.codes + row * w.stride + unit * 16);
        // Divisions of 32 bits are some ten times cheaper than those of 64, and most runs lie in one group.
        const uint32_t inputs = static_cast<uint32_t>(w.inputs), size = static_cast<uint32_t>(w.group);
        const long groups = row * static_cast<long>(inputs / size);
        for (int run = 0; run < RUNS; ++run) {
            const uint32_t first = static_cast<uint32_t>(start(unit, run));
            // Beyond the last input the codes are fill.
            const uint32_t begin = min(first, inputs - 1) / size, end = min(first + 15, inputs - 1) / size;
            float scale = w.scales[groups + begin], zero = w.zeros[groups + begin];
            for (int i = 0; i < 16; ++i) {
                if (begin != end) {
                    const long group = groups + min(first + static_cast<uint32_t>(i), inputs - 1) / size;
                    scale = w.scales[group];
                    zero = w.zeros[group];
                }
                out[run][i] = scale * (static_cast<float>(read.byte(i) >> (BITS * run) & ((1 << BITS) - 1)) - zero);
            }
        }
    }
};
using Int8 = Int<8>;
using Int4 = Int<4>;

// 32 weights of 4 or 5 bits: nibbles, then fifth bits, then the step and perhaps the minimum.
template <bool HAS_FIFTH, bool HAS_MIN>
struct Nibbles {
    static constexpr int RUN = 16, RUNS = 2;
    static DEVICE long start(long unit, int run) { return unit * 32 + run * 16; }
    static DEVICE void decode(const Weights& w, long row, long unit, float (&out)[2][16]) {
        const long blocks = w.inputs / 32;
        const uint8_t* line = w.codes + row * w.stride;
        const Bytes16 read = load16(line + unit * 16);
        line += padded(blocks * 16);
        uint32_t fifth = 0;
        if (HAS_FIFTH) {
            fifth = *reinterpret_cast<const uint32_t*>(line + unit * 4);
            line += padded(blocks * 4);
        }
        line += unit * (HAS_MIN ? 4 : 2);
        const float step = half_to_float(half_at(line)), least = HAS_MIN ? half_to_float(half_at(line + 2)) : 0.0f;
        const int lowest = HAS_MIN ? 0 : HAS_FIFTH ? -16 : -8;
        for (int run = 0; run < 2; ++run) {
            for (int i = 0; i < 16; ++i) {
                int code = static_cast<int>(read.byte(i) >> (4 * run) & 15);
                if (HAS_FIFTH) code |= static_cast<int>(fifth >> (16 * run + i) & 1) << 4;
                out[run][i] = static_cast<float>(code + lowest) * step + least;
            }
        }
    }
};
using Q4_0 = Nibbles<false, false>;
using Q4_1 = Nibbles<false, true>;
using Q5_0 = Nibbles<true, false>;
using Q5_1 = Nibbles<true, true>;

// 32 weights of 8 bits, then the step.
struct Q8_0 {
    static constexpr int RUN = 16, RUNS = 1;
    static DEVICE long start(long unit, int) { return unit * 16; }
    static DEVICE void decode(const Weights& w, long row, long unit, float (&out)[1][16]) {
        const uint8_t* line = w.codes + row * w.stride;
        const Bytes16 read = load16(line + unit * 16);
        const float step = half_to_float(half_at(line + padded(w.inputs) + unit / 2 * 2));
        for (int i = 0; i < 16; ++i) out[0][i] = step * static_cast<float>(static_cast<int8_t>(read.byte(i)));
    }
};

// 256 weights of 2 bits: scales (16), codes (64), step and minimum (4). A unit is four runs whose codes share bytes.
struct Q2k {
    static constexpr int RUN = 16, RUNS = 4;
    static DEVICE int number(long unit, int run) { return static_cast<int>(unit % 4 / 2 * 8 + run * 2 + unit % 2); }
    static DEVICE long start(long unit, int run) { return unit / 4 * 256 + number(unit, run) * 16; }
    static DEVICE void decode(const Weights& w, long row, long unit, float (&out)[4][16]) {
        const long blocks = w.inputs / 256, block = unit / 4;
        const uint8_t* line = w.codes + row * w.stride;
        const uint8_t* scales = line + block * 16;
        line += padded(blocks * 16);
        const Bytes16 read = load16(line + unit * 16);
        line += padded(blocks * 64) + block * 4;
        const float step = half_to_float(half_at(line)), least = half_to_float(half_at(line + 2));
        for (int run = 0; run < 4; ++run) {
            const uint32_t scale = scales[number(unit, run)];
            const float own_step = step * static_cast<float>(scale & 15), own_least = least * static_cast<float>(scale >> 4);
            for (int i = 0; i < 16; ++i) out[run][i] = own_step * static_cast<float>(read.byte(i) >> (2 * run) & 3) - own_least;
        }
    }
};

// 256 weights of 3 bits: high bits (32), low bits (64), scales of 6 bits (12), step (2).
struct Q3k {
    static constexpr int RUN = 16, RUNS = 4;
    static DEVICE long start(long unit, int run) { return Q2k::start(unit, run); }
    static DEVICE void decode(const Weights& w, long row, long unit, float (&out)[4][16]) {
        const long blocks = w.inputs / 256, block = unit / 4;
        const uint8_t* line = w.codes + row * w.stride;
        const Bytes16 high = load16(line + block * 32 + unit % 2 * 16);
        line += padded(blocks * 32);
        const Bytes16 low = load16(line + unit * 16);
        line += padded(blocks * 64);
        const uint8_t* scales = line + block * 12;
        line += padded(blocks * 12);
        const float step = half_to_float(half_at(line + block * 2));
        for (int run = 0; run < 4; ++run) {
            const int number = Q2k::number(unit, run);
            const int scale = (scales[number % 8] >> (4 * (number / 8)) & 15) |
                              (scales[8 + number % 4] >> (2 * (number / 4)) & 3) << 4;
            const float own_step = step * static_cast<float>(scale - 32);
            for (int i = 0; i < 16; ++i) {
                const uint32_t code = (low.byte(i) >> (2 * run) & 3) | (high.byte(i) >> (number / 2) & 1) << 2;
                out[run][i] = own_step * static_cast<float>(static_cast<int>(code) - 4);
            }
        }
    }
};

// Step and minimum of a run of 32 in a head of Q4k or Q5k: two halves, then scales and minimums of 6 bits.
DEVICE void k_line(const uint8_t* head, int run, float* step, float* least) {
    const uint8_t* packed = head + 4;
    int scale = packed[run] & 63, minimum = packed[run + 4] & 63;
    if (run >= 4) {
        scale = (packed[run + 4] & 15) | packed[run - 4] >> 6 << 4;
        minimum = packed[run + 4] >> 4 | packed[run] >> 6 << 4;
    }
    *step = half_to_float(half_at(head)) * static_cast<float>(scale);
    *least = half_to_float(half_at(head + 2)) * static_cast<float>(minimum);
}

// 256 weights of 4 or 5 bits: head (16), fifth bits (32), nibbles (128).
template <bool HAS_FIFTH>
struct KNibbles {
    static constexpr int RUN = 16, RUNS = 2;
    static DEVICE long start(long unit, int run) { return unit / 2 * 64 + run * 32 + unit % 2 * 16; }
    static DEVICE void decode(const Weights& w, long row, long unit, float (&out)[2][16]) {
        const long blocks = w.inputs / 256, block = unit / 8;
        const uint8_t* line = w.codes + row * w.stride;
        const uint8_t* head = line + block * 16;
        line += blocks * 16;
        Bytes16 fifth = {};
        if (HAS_FIFTH) {
            fifth = load16(line + block * 32 + unit % 2 * 16);
            line += blocks * 32;
        }
        const Bytes16 read = load16(line + unit * 16);
        const int pair = static_cast<int>(unit % 8 / 2);
        for (int run = 0; run < 2; ++run) {
            float step, least;
            k_line(head, 2 * pair + run, &step, &least);
            for (int i = 0; i < 16; ++i) {
                uint32_t code = read.byte(i) >> (4 * run) & 15;
                if (HAS_FIFTH) code |= (fifth.byte(i) >> (2 * pair + run) & 1) << 4;
                out[run][i] = step * static_cast<float>(code) - least;
            }
        }
    }
};
using Q4k = KNibbles<false>;
using Q5k = KNibbles<true>;

// 256 weights of 6 bits: low (128), high (64), scales (16), step (2).
struct Q6k {
    static constexpr int RUN = 16, RUNS = 4;
    static DEVICE long start(long unit, int run) { return Q2k::start(unit, run); }
    static DEVICE void decode(const Weights& w, long row, long unit, float (&out)[4][16]) {
        const long blocks = w.inputs / 256, block = unit / 4, half = unit % 4 / 2, side = unit % 2;
        const uint8_t* line = w.codes + row * w.stride;
        const uint8_t* first = line + block * 128 + half * 64 + side * 16;
        const Bytes16 low[2] = {load16(first), load16(first + 32)};
        line += blocks * 128;
        const Bytes16 high = load16(line + block * 64 + half * 32 + side * 16);
        line += blocks * 64;
        const uint8_t* scales = line + block * 16;
        line += blocks * 16;
        const float step = half_to_float(half_at(line + block * 2));
        for (int run = 0; run < 4; ++run) {
            const float own_step = step * static_cast<float>(static_cast<int8_t>(scales[Q2k::number(unit, run)]));
            for (int i = 0; i < 16; ++i) {
                const uint32_t code =
                    (low[run % 2].byte(i) >> (run / 2 * 4) & 15) | (high.byte(i) >> (2 * run) & 3) << 4;
                out[run][i] = own_step * static_cast<float>(static_cast<int>(code) - 32);
            }
        }
    }
};

#define PACKED_FORMATS(X) \
    X(fp8, Fp8) X(int8, Int8) X(int4, Int4) X(q4_0, Q4_0) X(q4_1, Q4_1) X(q5_0, Q5_0) X(q5_1, Q5_1) X(q8_0, Q8_0) \
    X(q2k, Q2k) X(q3k, Q3k) X(q4k, Q4k) X(q5k, Q5k) X(q6k, Q6k)
#define FORMATS(X) X(f32, F32) X(f16, F16) X(bf16, Bf16) PACKED_FORMATS(X)

// Units of a row: the last one of formats without blocks may be filled up.
template <class F>
DEVICE long units(long inputs) {
    constexpr long UNIT = F::RUN * F::RUNS;
    return (inputs + UNIT - 1) / UNIT;
}
