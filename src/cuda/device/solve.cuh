// Factors, products and the loop over columns in double precision, for compression. Matrices are row-major.
#pragma once
#include "prelude.cuh"

// A thread block makes SIDE x SIDE outputs, 4 x 4 a thread, from STAGE terms at a time.
constexpr int SOLVE_THREADS = 256, SIDE = 64, STAGE = 16;

// A matrix by its strides.
struct Strided {
    const double* at;
    long row, column;
    DEVICE double operator()(long i, long k) const { return at[i * row + k * column]; }
    DEVICE bool has_rows() const { return column == 1; }
};

// What weights lack, (rows, width); the weights where nothing is taken from them.
struct Lack {
    const float *dense, *restored;
    long width;
    DEVICE double operator()(long i, long k) const {
        const long at = i * width + k;
        return static_cast<double>(dense[at]) - (restored ? static_cast<double>(restored[at]) : 0.0);
    }
    DEVICE bool has_rows() const { return true; }
};

// The outputs of thread (y, x) of 16 x 16: rows 4 y + i and columns x + 16 j behind `row` and `column`, of A (m, ·) B (·, n)
// over the terms from `begin` to `end`.
template <class A, class B>
DEVICE void tile_product(const A& a, const B& b, long m, long n, long begin, long end, long row, long column,
                         double (&sum)[4][4]) {
    __shared__ double left[STAGE][SIDE + 1], right[STAGE][SIDE + 1];
    const int thread = threadIdx.x, x = thread % 16, y = thread / 16;
    const bool a_rows = a.has_rows(), b_rows = b.has_rows();
    for (long stage = begin; stage < end; stage += STAGE) {
        for (int part = 0; part < SIDE * STAGE / SOLVE_THREADS; ++part) {
            // Neighbours in a warp read neighbours in memory.
            const int at = thread + part * SOLVE_THREADS;
            const int i = a_rows ? at / STAGE : at % SIDE, i_term = a_rows ? at % STAGE : at / SIDE;
            const int j = b_rows ? at % SIDE : at / STAGE, j_term = b_rows ? at / SIDE : at % STAGE;
            const bool has_a = row + i < m && stage + i_term < end, has_b = column + j < n && stage + j_term < end;
            left[i_term][i] = has_a ? a(row + i, stage + i_term) : 0.0;
            right[j_term][j] = has_b ? b(stage + j_term, column + j) : 0.0;
        }
        __syncthreads();
        UNROLL(4) for (int term = 0; term < STAGE; ++term) {
            double of_a[4], of_b[4];
            for (int i = 0; i < 4; ++i) of_a[i] = left[term][4 * y + i];
            for (int j = 0; j < 4; ++j) of_b[j] = right[term][x + 16 * j];
            for (int i = 0; i < 4; ++i)
                for (int j = 0; j < 4; ++j) sum[i][j] += of_a[i] * of_b[j];
        }
        __syncthreads();
    }
}

constexpr long WHOLE = 0, LOWER_OUTPUTS = 1, LOWER_RIGHT = 2;

// C (m, n) = alpha A (m, depth) B (depth, n) + beta C. With LOWER_OUTPUTS only tiles that reach the diagonal or what is below
// are made, with LOWER_RIGHT what B has above its diagonal tiles is not read. C may be A where n is at most SIDE. Grid:
// (n / SIDE, m / SIDE).
KERNEL(SOLVE_THREADS) multiply(const double* a, long a_row, long a_column, const double* b, long b_row, long b_column,
                               double* c, long c_row, long m, long n, long depth, double alpha, double beta, long shape) {
    const long row = static_cast<long>(blockIdx.y) * SIDE, column = static_cast<long>(blockIdx.x) * SIDE;
    if (shape == LOWER_OUTPUTS && column > row) return;
    double sum[4][4] = {};
    tile_product(Strided{a, a_row, a_column}, Strided{b, b_row, b_column}, m, n, shape == LOWER_RIGHT ? column : 0, depth,
                 row, column, sum);
    const int x = threadIdx.x % 16, y = threadIdx.x / 16;
    for (int i = 0; i < 4; ++i)
        for (int j = 0; j < 4; ++j) {
            const long to_row = row + 4 * y + i, to_column = column + x + 16 * j;
            if (to_row >= m || to_column >= n) continue;
            double* to = c + to_row * c_row + to_column;
            *to = alpha * sum[i][j] + (beta != 0.0 ? beta * *to : 0.0);
        }
}

// sums (a place for each tile): their shares of tr(D G Dᵀ), D (rows, width) = dense − restored. Grid: as `multiply` for D.
KERNEL(SOLVE_THREADS) quadratic_form(const float* dense, const float* restored, const double* gram, double* sums, long rows,
                                     long width) {
    __shared__ double scratch[SOLVE_THREADS];
    const long row = static_cast<long>(blockIdx.y) * SIDE, column = static_cast<long>(blockIdx.x) * SIDE;
    const Lack lack = {dense, restored, width};
    double sum[4][4] = {};
    tile_product(lack, Strided{gram, width, 1}, rows, width, 0, width, row, column, sum);
    const int x = threadIdx.x % 16, y = threadIdx.x / 16;
    double share = 0.0;
    for (int i = 0; i < 4; ++i)
        for (int j = 0; j < 4; ++j) {
            const long of_row = row + 4 * y + i, of_column = column + x + 16 * j;
            if (of_row < rows && of_column < width) share += sum[i][j] * lack(of_row, of_column);
        }
    share = block_reduce(share, scratch, [](double a, double b) { return a + b; });
    if (threadIdx.x == 0) sums[static_cast<long>(blockIdx.y) * gridDim.x + blockIdx.x] = share;
}

// to (width, width) = scale · gram with rows and columns in `order`; the diagonal is that of `diagonal`, plus `ridge`. Grid:
// (width / SOLVE_THREADS, width).
KERNEL(SOLVE_THREADS) gather_damped(const double* gram, const double* diagonal, const uint32_t* order, double* to, long width,
                                    double scale, double ridge) {
    const long row = blockIdx.y, column = static_cast<long>(blockIdx.x) * SOLVE_THREADS + threadIdx.x;
    if (column >= width) return;
    const long of_row = order[row], of_column = order[column];
    to[row * width + column] = row == column ? diagonal[of_row] + ridge : gram[of_row * width + of_column] * scale;
}

// The inverse of the Cholesky factor of a block (size, size) on the diagonal, in its place, zeros above. `failed` becomes 1
// where the block is not positive definite, which then stays. Grid: 1.
KERNEL(SOLVE_THREADS) factor_block(double* matrix, long width, long first, long size, int* failed) {
    // L below the diagonal and on it; its inverse, transposed, above: row c has column c of it from place c + 1 on.
    __shared__ double tile[SIDE][SIDE + 1];
    const int thread = threadIdx.x, n = static_cast<int>(size);
    double* block = matrix + first * width + first;
    for (int at = thread; at < SIDE * SIDE; at += SOLVE_THREADS) {
        const int row = at / SIDE, column = at % SIDE;
        if (row < n && column <= row) tile[row][column] = block[row * width + column];
    }
    __syncthreads();
    for (int j = 0; j < n; ++j) {
        const double pivot = tile[j][j];
        if (!(pivot > 0.0 && pivot < __builtin_huge_val())) {
            if (thread == 0) *failed = 1;
            return;
        }
        const double root = sqrt(pivot);
        __syncthreads();
        if (thread == j) tile[j][j] = root;
        if (thread > j && thread < n) tile[thread][j] /= root;
        __syncthreads();
        for (int at = thread; at < SIDE * SIDE; at += SOLVE_THREADS) {
            const int row = at / SIDE, column = at % SIDE;
            if (row < n && column > j && column <= row) tile[row][column] -= tile[row][j] * tile[column][j];
        }
        __syncthreads();
    }
    if (thread < n) {
        for (int row = thread; row < n; ++row) {
            double rest = row == thread ? 1.0 : 0.0;
            for (int k = thread; k < row; ++k) rest -= tile[row][k] * tile[thread][k + 1];
            tile[thread][row + 1] = rest / tile[row][row];
        }
    }
    __syncthreads();
    for (int at = thread; at < SIDE * SIDE; at += SOLVE_THREADS) {
        const int row = at / SIDE, column = at % SIDE;
        if (row < n && column < n) block[row * width + column] = column <= row ? tile[column][row + 1] : 0.0;
    }
}

// to (width, width) = the lower triangle of `from` with rows and columns reversed, zeros below. Grid: as `gather_damped`.
KERNEL(SOLVE_THREADS) reverse_lower(const double* from, double* to, long width) {
    const long row = blockIdx.y, column = static_cast<long>(blockIdx.x) * SOLVE_THREADS + threadIdx.x;
    if (column >= width) return;
    to[row * width + column] = column < row ? 0.0 : from[(width - 1 - row) * width + width - 1 - column];
}

// value = step · (code − bias) − min, for codes from `low` to `high`.
struct alignas(16) CodeLine {
    float step, min;
    // bias, low, high: a byte each.
    uint32_t codes;
    uint32_t unused;
};

// Rounded once each: what packed weights are decoded to, which a joined multiplication and addition would miss.
DEVICE float times(float a, float b) {
#ifdef __CUDACC__
    return __fmul_rn(a, b);
#else
    return a * b;
#endif
}

DEVICE double nearest_of_line(const CodeLine& line, double weight) {
    const uint32_t bias = line.codes & 255, low = line.codes >> 8 & 255, high = line.codes >> 16 & 255;
    uint32_t code = bias;
    if (line.step != 0.0f) {
        const double at = rint((weight + static_cast<double>(line.min)) / static_cast<double>(line.step)) + bias;
        code = static_cast<uint32_t>(fmin(fmax(at, static_cast<double>(low)), static_cast<double>(high)));
    }
    const float from_bias = static_cast<float>(code) - static_cast<float>(bias);
    return static_cast<double>(times(line.step, from_bias) - line.min);
}

// The nearest code of E4M3, ties to even; magnitudes above 448 become it.
DEVICE float nearest_fp8(float value) {
    const float magnitude = fabsf(value);
    if (!(magnitude < 448.0f)) return magnitude != magnitude ? value : copysignf(448.0f, value);
    const int exponent = max(static_cast<int>(float_to_bits(magnitude) >> 23) - 127, -6);
    // A power of two: products with it and with its inverse are exact.
    const float unit = bits_to_float(static_cast<uint32_t>(exponent - 3 + 127) << 23);
    return copysignf(times(rintf(magnitude / unit), unit), value);
}

constexpr long TO_ITSELF = 0, TO_LINE = 1, TO_FP8 = 2;
// Columns of a block: four a lane, lane + 32 k.
constexpr int LANE_COLUMNS = 4;

// Takes the columns from `first` on in turn, `size` of them, at most 128: each becomes its target, and its error over U's
// diagonal is fed back to those behind it in the block. errors (rows, size) take these errors, losses (rows) the sums of
// their squares. A warp has a row. Grid: rows / 8.
//
// - work (rows, width), upper (width, width); lines (rows, per_row), of column c the line `groups[c]`
// - keep: false where the weight becomes zero, rows `keep_stride` apart, its first column that of the block; may be absent
// - zeros > 0: so many of each `run` columns become zero by w² / U², of equal ones the earlier; size is a multiple of run
KERNEL(SOLVE_THREADS) feed_back(double* work, const double* upper, double* errors, double* losses, const CodeLine* lines,
                                const uint32_t* groups, const uint8_t* keep, long keep_stride, long rows, long width,
                                long per_row, long first, long size, long target, long zeros, long run) {
    const long row = static_cast<long>(blockIdx.x) * (SOLVE_THREADS / WARP) + threadIdx.x / WARP;
    if (row >= rows) return;
    const int lane = threadIdx.x % WARP, n = static_cast<int>(size);
    double* own_work = work + row * width + first;
    const double* block = upper + first * width + first;
    double weight[LANE_COLUMNS], error[LANE_COLUMNS] = {}, pivot[LANE_COLUMNS];
    CodeLine line[LANE_COLUMNS];
    bool stays[LANE_COLUMNS];
    UNROLL(LANE_COLUMNS) for (int k = 0; k < LANE_COLUMNS; ++k) {
        const int column = lane + WARP * k;
        const bool is_there = column < n;
        weight[k] = is_there ? own_work[column] : 0.0;
        pivot[k] = is_there ? block[column * (width + 1)] : 1.0;
        line[k] = is_there && target != TO_ITSELF ? load_as<CodeLine>(lines + row * per_row + groups[first + column])
                                                  : CodeLine{};
        stays[k] = is_there && (!keep || keep[row * keep_stride + column] != 0);
    }
    double loss = 0.0;
    UNROLL(LANE_COLUMNS) for (int slot = 0; slot < LANE_COLUMNS; ++slot) {
        for (int owner = 0; owner < WARP && slot * WARP + owner < n; ++owner) {
            const int column = slot * WARP + owner;
            if (zeros > 0 && column % run == 0) {
                double score[LANE_COLUMNS];
                int n_before[LANE_COLUMNS] = {};
                for (int k = 0; k < LANE_COLUMNS; ++k) score[k] = (weight[k] / pivot[k]) * (weight[k] / pivot[k]);
                for (int other = column; other < column + run; ++other) {
                    const int place = other / WARP;
                    const double mine = place == 0 ? score[0] : place == 1 ? score[1] : place == 2 ? score[2] : score[3];
                    const double its = __shfl_sync(~0u, mine, other % WARP);
                    for (int k = 0; k < LANE_COLUMNS; ++k)
                        n_before[k] += its < score[k] || (its == score[k] && other < lane + WARP * k);
                }
                for (int k = 0; k < LANE_COLUMNS; ++k) {
                    const int own = lane + WARP * k;
                    if (own >= column && own < column + run) stays[k] = n_before[k] >= zeros;
                }
            }
            const double* u = block + column * width;
            // Every lane finds the target of its own column, and the owner's counts.
            double aim = weight[slot];
            if (target == TO_LINE) aim = nearest_of_line(line[slot], aim);
            if (target == TO_FP8)
                aim = static_cast<double>(times(
                    nearest_fp8(static_cast<float>(aim / static_cast<double>(line[slot].step))), line[slot].step));
            if (!stays[slot]) aim = 0.0;
            const double fed = __shfl_sync(~0u, (weight[slot] - aim) / pivot[slot], owner);
            if (lane == owner) {
                weight[slot] = aim;
                error[slot] = fed;
            }
            loss += fed * fed;
            UNROLL(LANE_COLUMNS) for (int k = slot; k < LANE_COLUMNS; ++k) {
                const int behind = lane + WARP * k;
                if (behind > column && behind < n) weight[k] -= fed * u[behind];
            }
        }
    }
    for (int k = 0; k < LANE_COLUMNS; ++k) {
        const int column = lane + WARP * k;
        if (column >= n) continue;
        own_work[column] = weight[k];
        errors[row * size + column] = error[k];
    }
    if (lane == 0) losses[row] += loss;
}

// scores (rows, size): w² / U² of the columns from `first` on. Grid: rows.
KERNEL(SOLVE_THREADS) score_columns(const double* work, const double* upper, double* scores, long width, long first,
                                    long size) {
    const long row = blockIdx.x;
    for (long at = threadIdx.x; at < size; at += SOLVE_THREADS) {
        const double score = work[row * width + first + at] / upper[(first + at) * (width + 1)];
        scores[row * size + at] = score * score;
    }
}

// ranges (rows, 2): the least and the largest of the columns from `first` on and of zero. Grid: rows / 8.
KERNEL(SOLVE_THREADS) range_of_columns(const double* work, double* ranges, long rows, long width, long first, long size) {
    const long row = static_cast<long>(blockIdx.x) * (SOLVE_THREADS / WARP) + threadIdx.x / WARP;
    if (row >= rows) return;
    const int lane = threadIdx.x % WARP;
    double low = 0.0, high = 0.0;
    for (long at = lane; at < size; at += WARP) {
        low = fmin(low, work[row * width + first + at]);
        high = fmax(high, work[row * width + first + at]);
    }
    for (int step = WARP / 2; step > 0; step /= 2) {
        low = fmin(low, __shfl_xor_sync(~0u, low, step));
        high = fmax(high, __shfl_xor_sync(~0u, high, step));
    }
    if (lane == 0) {
        ranges[2 * row] = low;
        ranges[2 * row + 1] = high;
    }
}
