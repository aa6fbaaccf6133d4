// Attention of a prompt: many queries at once, so that each number that is read is used several times.
#pragma once
#include "pass.cuh"

// A block has 64 (query, head) pairs over one key head and goes through the keys in tiles of 64. A thread makes 8 × 4 scores
// of a tile, then 8 × 4 channels in each run of 64: what it reads from shared memory feeds 32 products for three loads of
// 16 bytes.
//
// A layer of 32 heads × 128 over 512 tokens takes 2.1 GFLOP where only seen keys count, and 2,048 tokens 34 GFLOP: 0.03 ms
// and 0.5 ms at the 67 TFLOP/s of an H200; two to three times that is expected. With 8 key heads in halves blocks read 33 MB
// and 0.54 GB of keys and values, all but the first time from the cache on the card: arithmetic is the limit.
constexpr int TILE_THREADS = 128, TILE_PAIRS = 64, TILE_KEYS = 64, TILE_DEPTH = 32, OWN_PAIRS = 8;

// Lines of 64 numbers are read four by four along the line and written four lines at once: with the fours of a line in the
// order of `at ^ swizzle(line)` both touch every bank of shared memory.
DEVICE int swizzle(int line) { return line / 4 % 8 * 4; }

// As `attend` with one split, for heads of at most HEAD. Grid: (queries · group / 64, kv_heads).
template <class Cache, int HEAD>
DEVICE void attend_tile(const float* query, const typename Cache::Stored* keys, const typename Cache::Stored* values,
                        float* mixed, const int* position, long queries, long heads, long kv_heads, long head_dim,
                        long window, long sinks) {
    constexpr int RUNS = HEAD / 64, VALUE_ROWS = 2 * TILE_DEPTH * 64 / HEAD;
    __shared__ Float4 staged[2 * TILE_DEPTH * 64 / 4];
    __shared__ Float4 shared[TILE_KEYS * TILE_PAIRS / 4];
    float *const q_stage = reinterpret_cast<float*>(staged), *const k_stage = q_stage + TILE_DEPTH * 64;
    float* const shares = reinterpret_cast<float*>(shared);
    const int thread = threadIdx.x, column = thread % 16, row = thread / 16;
    // Places and pairs are counted in 32 bits: they fit, and a division takes a tenth of the registers.
    const int group = static_cast<int>(heads) / static_cast<int>(kv_heads), n_heads = static_cast<int>(heads);
    const int before = *position, pairs = static_cast<int>(queries) * group, kv_head = blockIdx.y;
    const long width = kv_heads * head_dim, first_channel = kv_head * head_dim;
    // Later queries see more keys: their blocks begin first.
    const int first_pair = static_cast<int>(gridDim.x - 1 - blockIdx.x) * TILE_PAIRS;
    const int least_place = before + first_pair / group;
    const int last_place = before + min(first_pair + TILE_PAIRS - 1, pairs - 1) / group;
    const bool is_aligned = head_dim % 4 == 0;
    const float scale = 1.0f / sqrtf(static_cast<float>(head_dim));
    // Eight threads bring a line of TILE_DEPTH numbers, each four rows of the 64.
    const int bring = thread / 8, depth_at = thread % 8 * 4;
    const float* brought[4];
    for (int i = 0; i < 4; ++i) {
        // Pairs beyond the last repeat it and are not stored.
        const int pair = min(first_pair + bring + 16 * i, pairs - 1);
        brought[i] = query + static_cast<long>(pair / group * n_heads + kv_head * group + pair % group) * head_dim;
    }
    keys = Cache::of_head(keys, first_channel);
    values = Cache::of_head(values, first_channel);
    int place[OWN_PAIRS];
    float largest[OWN_PAIRS], total[OWN_PAIRS], out[OWN_PAIRS][RUNS * 4] = {};
    for (int i = 0; i < OWN_PAIRS; ++i) {
        place[i] = before + min(first_pair + row * OWN_PAIRS + i, pairs - 1) / group;
        largest[i] = NO_SCORE;
        total[i] = 0.0f;
    }
    for (int from = 0; from <= last_place; from += TILE_KEYS) {
        if (window > 0 && from >= sinks && from + TILE_KEYS <= least_place - window + 1) continue;
        const int n_keys = min(TILE_KEYS, last_place + 1 - from);
        float score[OWN_PAIRS][4] = {};
        for (long depth = 0; depth < head_dim; depth += TILE_DEPTH) {
            __syncthreads();
            for (int i = 0; i < 4; ++i) {
                const int line = bring + 16 * i;
                const Float4 q = four_of(brought[i], depth + depth_at, head_dim, is_aligned);
                Float4 k = {};
                const auto key = Cache::row(keys, from + line, width);
                if (line < n_keys) k = Cache::four(key, width, first_channel, depth + depth_at, head_dim, is_aligned);
                for (int j = 0; j < 4; ++j) {
                    const int at = (depth_at + j) * 64 + (line ^ swizzle(depth_at));
                    q_stage[at] = q.value[j] * scale;
                    k_stage[at] = k.value[j];
                }
            }
            __syncthreads();
            UNROLL(4)
            for (int d = 0; d < TILE_DEPTH; ++d) {
                const float* line = q_stage + d * 64;
                const Float4 q[2] = {load_floats(line + (row * 8 ^ swizzle(d))),
                                     load_floats(line + ((row * 8 + 4) ^ swizzle(d)))};
                const Float4 k = load_floats(k_stage + d * 64 + (column * 4 ^ swizzle(d)));
                for (int i = 0; i < OWN_PAIRS; ++i)
                    for (int j = 0; j < 4; ++j) score[i][j] = fmaf(q[i / 4].value[i % 4], k.value[j], score[i][j]);
            }
        }
        for (int i = 0; i < OWN_PAIRS; ++i) {
            float most = NO_SCORE;
            for (int j = 0; j < 4; ++j) {
                const int key = from + column * 4 + j;
                const bool is_seen = key <= place[i] && (window == 0 || key + window > place[i] || key < sinks);
                if (!is_seen) score[i][j] = NO_SCORE;
                most = fmaxf(most, score[i][j]);
            }
            for (int step = 8; step > 0; step /= 2) most = fmaxf(most, __shfl_xor_sync(~0u, most, step));
            const float raised = fmaxf(largest[i], most);
            const float factor = raised > NO_SCORE ? expf(largest[i] - raised) : 1.0f;
            total[i] *= factor;
            for (int j = 0; j < 4; ++j) {
                // What is no number counts as seen, so that it shows in the result.
                const bool counts = raised > NO_SCORE || score[i][j] != score[i][j];
                score[i][j] = counts ? expf(score[i][j] - raised) : 0.0f;
                total[i] += score[i][j];
            }
            largest[i] = raised;
            for (int c = 0; c < RUNS * 4; ++c) out[i][c] *= factor;
        }
        for (int j = 0; j < 4; ++j) {
            const int key = column * 4 + j;
            for (int half = 0; half < 2; ++half) {
                Float4 four;
                for (int i = 0; i < 4; ++i) four.value[i] = score[half * 4 + i][j];
                store_as(shares + key * 64 + ((row * 8 + half * 4) ^ swizzle(key)), four);
            }
        }
        for (int first = 0; first < n_keys; first += VALUE_ROWS) {
            __syncthreads();
            for (int i = thread; i < VALUE_ROWS * HEAD / 4; i += TILE_THREADS) {
                const int line = i / (HEAD / 4), at = i % (HEAD / 4) * 4;
                Float4 four = {};
                const auto value = Cache::row(values, from + first + line, width);
                if (first + line < n_keys) four = Cache::four(value, width, first_channel, at, head_dim, is_aligned);
                store_as(q_stage + line * HEAD + at, four);
            }
            __syncthreads();
            UNROLL(4)
            for (int k = 0; k < VALUE_ROWS; ++k) {
                const int key = first + k;
                const float* line = shares + key * 64;
                const Float4 share[2] = {load_floats(line + (row * 8 ^ swizzle(key))),
                                         load_floats(line + ((row * 8 + 4) ^ swizzle(key)))};
                for (int run = 0; run < RUNS; ++run) {
                    const Float4 value = load_floats(q_stage + k * HEAD + run * 64 + column * 4);
                    for (int i = 0; i < OWN_PAIRS; ++i)
                        for (int j = 0; j < 4; ++j)
                            out[i][run * 4 + j] = fmaf(share[i / 4].value[i % 4], value.value[j], out[i][run * 4 + j]);
                }
            }
        }
    }
    for (int i = 0; i < OWN_PAIRS; ++i) {
        float sum = total[i];
        for (int step = 8; step > 0; step /= 2) sum += __shfl_xor_sync(~0u, sum, step);
        const int pair = first_pair + row * OWN_PAIRS + i;
        if (pair >= pairs) continue;
        float* at = mixed + static_cast<long>(pair / group * n_heads + kv_head * group + pair % group) * head_dim;
        for (int run = 0; run < RUNS; ++run) {
            const long channel = run * 64 + column * 4;
            Float4 four;
            for (int j = 0; j < 4; ++j) four.value[j] = out[i][run * 4 + j] / sum;
            if (is_aligned && channel < head_dim) store_as(at + channel, four);
            for (int j = 0; j < 4 && !is_aligned; ++j)
                if (channel + j < head_dim) at[channel + j] = four.value[j];
        }
    }
}

#define ATTEND_TILE(name, Cache, HEAD, BLOCKS) \
    KERNEL_BESIDE(TILE_THREADS, BLOCKS) \
    attend_tile_##name##_##HEAD(const float* query, const Cache::Stored* keys, const Cache::Stored* values, float* mixed, \
                                const int* position, long queries, long heads, long kv_heads, long head_dim, long window, \
                                long sinks) { \
        attend_tile<Cache, HEAD>(query, keys, values, mixed, position, queries, heads, kv_heads, head_dim, window, sinks); \
    }
#define ATTEND_TILES(name, Cache) \
    ATTEND_TILE(name, Cache, 64, 3) \
    ATTEND_TILE(name, Cache, 128, 3) \
    ATTEND_TILE(name, Cache, 256, 2)
ATTEND_TILES(f32, Numbers<float>)
ATTEND_TILES(f16, Numbers<uint16_t>)
ATTEND_TILES(q8_0, Blocks<8>)
ATTEND_TILES(q4_0, Blocks<4>)
