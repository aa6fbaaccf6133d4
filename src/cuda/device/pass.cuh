// What stands between the products of a pass.
#pragma once
#include "cache.cuh"

// Adds `added` (if any) to the residual stream and normalizes it: out = hidden / √(mean hidden² + eps) · weight. Grid: rows.
KERNEL(256) rms_norm(float* hidden, const float* added, const float* weight, float* out, long width, double eps) {
    __shared__ float scratch[256];
    float* row = hidden + blockIdx.x * width;
    float squares = 0.0f;
    for (long i = threadIdx.x; i < width; i += 256) {
        float value = row[i];
        if (added) row[i] = value += added[blockIdx.x * width + i];
        squares = fmaf(value, value, squares);
    }
    squares = block_reduce(squares, scratch, [](float a, float b) { return a + b; });
    const float factor = 1.0f / sqrtf(squares / static_cast<float>(width) + static_cast<float>(eps));
    for (long i = threadIdx.x; i < width; i += 256) out[blockIdx.x * width + i] = row[i] * factor * weight[i];
}

// Rotates queries in place, and keys on their way into the cache, behind the `*position` tokens that it holds; values
// follow unrotated. `cos` and `sin` (context, head_dim / 2) begin at position 0. Grid: tokens.
template <class T>
DEVICE void rotate_and_store(Numbers<T>, float* query, float* key, const float* value, const float* cos, const float* sin,
                             T* keys, T* values, const int* position, long heads, long kv_heads, long head_dim,
                             bool interleaved) {
    const long pairs = head_dim / 2, at = *position + static_cast<long>(blockIdx.x), width = kv_heads * head_dim;
    query += blockIdx.x * heads * head_dim;
    key += blockIdx.x * width;
    value += blockIdx.x * width;
    keys += at * width;
    values += at * width;
    for (long i = threadIdx.x; i < (heads + kv_heads) * pairs; i += 256) {
        const long head = i / pairs, pair = i % pairs;
        const float c = cos[at * pairs + pair], s = sin[at * pairs + pair];
        const long first = interleaved ? 2 * pair : pair, second = interleaved ? first + 1 : first + pairs;
        if (head < heads) {
            float* x = query + head * head_dim;
            const float a = x[first], b = x[second];
            x[first] = a * c - b * s;
            x[second] = b * c + a * s;
        } else {
            const long offset = (head - heads) * head_dim;
            const float a = key[offset + first], b = key[offset + second];
            Numbers<T>::store(keys, offset + first, a * c - b * s);
            Numbers<T>::store(keys, offset + second, b * c + a * s);
        }
    }
    for (long i = threadIdx.x; i < width; i += 256) Numbers<T>::store(values, i, value[i]);
}

// The same into blocks. Keys are rotated in place first: a block may have numbers of several pairs and heads.
template <int BITS>
DEVICE void rotate_and_store(Blocks<BITS>, float* query, float* key, const float* value, const float* cos, const float* sin,
                             uint8_t* keys, uint8_t* values, const int* position, long heads, long kv_heads, long head_dim,
                             bool interleaved) {
    const long pairs = head_dim / 2, at = *position + static_cast<long>(blockIdx.x), width = kv_heads * head_dim;
    query += blockIdx.x * heads * head_dim;
    key += blockIdx.x * width;
    value += blockIdx.x * width;
    for (long i = threadIdx.x; i < (heads + kv_heads) * pairs; i += 256) {
        const long head = i / pairs, pair = i % pairs;
        const float c = cos[at * pairs + pair], s = sin[at * pairs + pair];
        const long first = interleaved ? 2 * pair : pair, second = interleaved ? first + 1 : first + pairs;
        float* x = head < heads ? query + head * head_dim : key + (head - heads) * head_dim;
        const float a = x[first], b = x[second];
        x[first] = a * c - b * s;
        x[second] = b * c + a * s;
    }
    __syncthreads();
    Blocks<BITS>::store(Blocks<BITS>::row(keys, at, width), key, width);
    Blocks<BITS>::store(Blocks<BITS>::row(values, at, width), value, width);
}

#define ROTATE(name, Cache) \
    KERNEL(256) rotate_and_store_##name(float* query, float* key, const float* value, const float* cos, const float* sin, \
                                        Cache::Stored* keys, Cache::Stored* values, const int* position, long heads, \
                                        long kv_heads, long head_dim, long interleaved) { \
        rotate_and_store(Cache(), query, key, value, cos, sin, keys, values, position, heads, kv_heads, head_dim, \
                         interleaved != 0); \
    }
ROTATE(f32, Numbers<float>)
ROTATE(f16, Numbers<uint16_t>)
ROTATE(q8_0, Blocks<8>)
ROTATE(q4_0, Blocks<4>)

// gate (n) = act(gate) · up. `kind` 0: x / (1 + e^−x); 1: GELU by its tanh form; 2: GELU by the error function.
KERNEL(256) gate(float* gate, const float* up, long n, long kind) {
    const long i = static_cast<long>(blockIdx.x) * 256 + threadIdx.x;
    if (i >= n) return;
    const float x = gate[i];
    float y;
    if (kind == 0) {
        y = x / (1.0f + expf(-x));
    } else if (kind == 1) {
        y = 0.5f * x * (1.0f + tanhf(0.7978845608028654f * fmaf(0.044715f * x * x, x, x)));
    } else {
        y = 0.5f * x * (1.0f + erff(x * 0.7071067811865476f));
    }
    gate[i] = y * up[i];
}

constexpr int ATTENTION_WARPS = 4, TILE = 32, MAX_HEAD = 256;

// Softmax(q kᵀ / √d) v of `queries` tokens, the last of those in the cache: *position are there before them. Query heads
// that share a key head share its tiles; a warp has one query of one head, a lane a key of a tile, then some channels.
// With one split the result is written, with more what `combine` needs. A query sees the keys up to its own, of these the
// last `window` (0: all) and the first `sinks`. Grid: (queries · group / 4, kv_heads, splits).
template <class Cache>
DEVICE void attend(const float* query, const typename Cache::Stored* keys, const typename Cache::Stored* values,
                   float* mixed, float* parts, float* sums, const int* position, long queries, long heads, long kv_heads, long head_dim, long window, long sinks) {
    __shared__ float tile[TILE][MAX_HEAD + 1];
    __shared__ float held[ATTENTION_WARPS][MAX_HEAD];
    __shared__ float shares[ATTENTION_WARPS][TILE];
    const long group = heads / kv_heads, width = kv_heads * head_dim, kv_head = blockIdx.y;
    const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    const long before = *position, pairs = queries * group, first_pair = static_cast<long>(blockIdx.x) * ATTENTION_WARPS;
    const long pair = first_pair + warp, own = min(pair, pairs - 1);
    const long token = own / group, head = kv_head * group + own % group;
    const long place = before + token;
    const float scale = 1.0f / sqrtf(static_cast<float>(head_dim));
    for (long d = lane; d < head_dim; d += WARP) held[warp][d] = query[(token * heads + head) * head_dim + d] * scale;
    // Keys that some query of the block sees, and the share of this split.
    const long last_place = before + min(first_pair + ATTENTION_WARPS - 1, pairs - 1) / group;
    const long least_place = before + first_pair / group;
    const long share = ((before + queries + gridDim.z - 1) / gridDim.z + TILE - 1) / TILE * TILE;
    const long begin = blockIdx.z * share, end = min(begin + share, last_place + 1);
    float largest = NO_SCORE, total = 0.0f, out[MAX_HEAD / WARP] = {};
    for (long from = begin; from < end; from += TILE) {
        if (window > 0 && from >= sinks && from + TILE <= least_place - window + 1) continue;
        const long rows = min(static_cast<long>(TILE), end - from);
        __syncthreads();
        for (long row = warp; row < rows; row += ATTENTION_WARPS)
            for (long d = lane; d < head_dim; d += WARP)
                tile[row][d] = Cache::fetch(Cache::row(keys, from + row, width), width, kv_head * head_dim + d);
        __syncthreads();
        const long key = from + lane;
        float score = NO_SCORE;
        if (lane < rows && key <= place && (window == 0 || key + window > place || key < sinks)) {
            score = 0.0f;
            for (long d = 0; d < head_dim; ++d) score = fmaf(held[warp][d], tile[lane][d], score);
        }
        const float raised = fmaxf(largest, warp_max(score));
        // What is no number counts as seen, so that it shows in the result.
        const bool counts = raised > NO_SCORE || score != score;
        const float weight = counts ? expf(score - raised) : 0.0f;
        const float factor = raised > NO_SCORE ? expf(largest - raised) : 1.0f;
        total = total * factor + warp_sum(weight);
        largest = raised;
        shares[warp][lane] = weight;
        __syncthreads();
        for (long row = warp; row < rows; row += ATTENTION_WARPS)
            for (long d = lane; d < head_dim; d += WARP)
                tile[row][d] = Cache::fetch(Cache::row(values, from + row, width), width, kv_head * head_dim + d);
        __syncthreads();
        for (int c = 0; c < MAX_HEAD / WARP; ++c) {
            const long d = c * WARP + lane;
            if (d >= head_dim) break;
            out[c] *= factor;
            for (long j = 0; j < rows; ++j) out[c] = fmaf(shares[warp][j], tile[j][d], out[c]);
        }
    }
    if (pair >= pairs) return;
    const long at = token * heads + head;
    if (gridDim.z == 1) {
        for (int c = 0; c * WARP + lane < head_dim; ++c) mixed[at * head_dim + c * WARP + lane] = out[c] / total;
        return;
    }
    const long part = blockIdx.z * queries * heads + at;
    for (int c = 0; c * WARP + lane < head_dim; ++c) parts[part * head_dim + c * WARP + lane] = out[c];
    if (lane == 0) {
        sums[2 * part] = largest;
        sums[2 * part + 1] = total;
    }
}

#define ATTEND(name, Cache) \
    KERNEL(ATTENTION_WARPS * WARP) \
    attend_##name(const float* query, const Cache::Stored* keys, const Cache::Stored* values, float* mixed, float* parts, \
                  float* sums, const int* position, long queries, long heads, long kv_heads, long head_dim, long window, \
                  long sinks) { \
        attend<Cache>(query, keys, values, mixed, parts, sums, position, queries, heads, kv_heads, head_dim, window, sinks); \
    }
ATTEND(f32, Numbers<float>)
ATTEND(f16, Numbers<uint16_t>)
ATTEND(q8_0, Blocks<8>)
ATTEND(q4_0, Blocks<4>)

// mixed (rows, head_dim) from the parts of every split: (splits, rows, head_dim) sums of values under each split's largest
// score, and (splits, rows, 2) those scores with the sums of their shares. Grid: rows.
KERNEL(MAX_HEAD) combine(const float* parts, const float* sums, float* mixed, long splits, long head_dim) {
    const long row = blockIdx.x, rows = gridDim.x, d = threadIdx.x;
    float largest = NO_SCORE;
    for (long split = 0; split < splits; ++split) largest = fmaxf(largest, sums[2 * (split * rows + row)]);
    float total = 0.0f, value = 0.0f;
    for (long split = 0; split < splits; ++split) {
        const float* sum = sums + 2 * (split * rows + row);
        if (sum[0] == NO_SCORE && sum[1] == 0.0f) continue;
        const float factor = expf(sum[0] - largest);
        total += sum[1] * factor;
        if (d < head_dim) value += parts[(split * rows + row) * head_dim + d] * factor;
    }
    if (d < head_dim) mixed[row * head_dim + d] = value / total;
}
