// Singular values by rotations of rows, in double precision.
#pragma once
#include "solve.cuh"

// Rows of a block, of a pair of blocks, and places of a row that are rotated at a time.
constexpr int BLOCK_ROWS = 16, PAIR_ROWS = 2 * BLOCK_ROWS, SPAN = 64;
constexpr int INNER_SWEEPS = 3;

// The pair `at` of a round of a tournament, the lower number first: all pairs of `n` (even) meet once in n − 1 rounds.
DEVICE void meeting(int n, int round, int at, int* low, int* high) {
    const int ring = n - 1, a = at == 0 ? ring : (round + at) % ring, b = at == 0 ? round : (round + ring - at) % ring;
    *low = min(a, b);
    *high = max(a, b);
}

// The rows of a pair of blocks.
struct PairOfBlocks {
    long first, second;
    DEVICE long row(int i) const { return i < BLOCK_ROWS ? first + i : second + i - BLOCK_ROWS; }
};

constexpr int SPAN_PART = PAIR_ROWS * SPAN / SOLVE_THREADS;

// The thread's part of the span of the pair's rows that begins at `begin`.
DEVICE void load_span(const double* rows, long len, const PairOfBlocks& pair, long begin, double (&part)[SPAN_PART]) {
    for (int k = 0; k < SPAN_PART; ++k) {
        const int at = threadIdx.x + k * SOLVE_THREADS;
        const long place = begin + at % SPAN;
        part[k] = place < len ? rows[pair.row(at / SPAN) * len + place] : 0.0;
    }
}

DEVICE void put_span(const double (&part)[SPAN_PART], double (&span)[PAIR_ROWS][SPAN + 1]) {
    for (int k = 0; k < SPAN_PART; ++k) {
        const int at = threadIdx.x + k * SOLVE_THREADS;
        span[at / SPAN][at % SPAN] = part[k];
    }
}

// gram (PAIR_ROWS, PAIR_ROWS): the products of the pair's rows. Four groups of threads take a quarter of each span.
DEVICE void gram_of_pair(const double* rows, long len, const PairOfBlocks& pair, double (&span)[PAIR_ROWS][SPAN + 1],
                         double (&gram)[PAIR_ROWS][PAIR_ROWS + 1]) {
    const int group = threadIdx.x / 64, y = threadIdx.x % 64 / 8, x = threadIdx.x % 8;
    double sum[4][4] = {}, part[SPAN_PART];
    load_span(rows, len, pair, 0, part);
    for (long begin = 0; begin < len; begin += SPAN) {
        put_span(part, span);
        __syncthreads();
        if (begin + SPAN < len) load_span(rows, len, pair, begin + SPAN, part);
        UNROLL(4) for (int term = 0; term < SPAN / 4; ++term) {
            double a[4], b[4];
            for (int i = 0; i < 4; ++i) a[i] = span[y + 8 * i][group * (SPAN / 4) + term];
            for (int j = 0; j < 4; ++j) b[j] = span[x + 8 * j][group * (SPAN / 4) + term];
            for (int i = 0; i < 4; ++i)
                for (int j = 0; j < 4; ++j) sum[i][j] += a[i] * b[j];
        }
        __syncthreads();
    }
    for (int turn = 0; turn < 4; ++turn) {
        if (turn == group)
            for (int i = 0; i < 4; ++i)
                for (int j = 0; j < 4; ++j) {
                    double* to = &gram[y + 8 * i][x + 8 * j];
                    *to = turn == 0 ? sum[i][j] : *to + sum[i][j];
                }
        __syncthreads();
    }
}

// Rotates the pair's rows by `turn`.
DEVICE void rotate_pair(double* rows, long len, const PairOfBlocks& pair, const double (&turn)[PAIR_ROWS][PAIR_ROWS + 1],
                        double (&span)[PAIR_ROWS][SPAN + 1]) {
    constexpr int OWN = PAIR_ROWS * SPAN / SOLVE_THREADS;
    const int first = threadIdx.x / SPAN * OWN, place = threadIdx.x % SPAN;
    double part[SPAN_PART];
    load_span(rows, len, pair, 0, part);
    for (long begin = 0; begin < len; begin += SPAN) {
        put_span(part, span);
        __syncthreads();
        if (begin + SPAN < len) load_span(rows, len, pair, begin + SPAN, part);
        double sum[OWN] = {};
        UNROLL(4) for (int term = 0; term < PAIR_ROWS; ++term) {
            const double value = span[term][place];
            for (int i = 0; i < OWN; ++i) sum[i] += turn[first + i][term] * value;
        }
        if (begin + place < len)
            for (int i = 0; i < OWN; ++i) rows[pair.row(first + i) * len + begin + place] = sum[i];
        __syncthreads();
    }
}

// One round of a sweep over all pairs of blocks of rows: makes the rows of each pair perpendicular. Rows whose cosine is
// below the root of `angle` already are left; squares of lengths below `floor` count as it. `turned` (turns, turns) takes
// the same rotations, and may be absent; `changed` becomes 1 where there was one.
//
// - rows (n_blocks · 16, len), n_blocks even. Grid: n_blocks / 2
//
// Papers: Hestenes, 1958; in blocks by the products of rows: Bečka, Okša and Vajteršic, 2002.
KERNEL(SOLVE_THREADS) rotate_rows(double* rows, long len, double* turned, long turns, long n_blocks, long round, double angle,
                                  double floor, int* changed) {
    __shared__ double span[PAIR_ROWS][SPAN + 1], gram[PAIR_ROWS][PAIR_ROWS + 1], turn[PAIR_ROWS][PAIR_ROWS + 1];
    __shared__ double cosine[BLOCK_ROWS], sine[BLOCK_ROWS];
    __shared__ int n_wide;
    int low, high;
    meeting(static_cast<int>(n_blocks), static_cast<int>(round), static_cast<int>(blockIdx.x), &low, &high);
    const PairOfBlocks pair = {static_cast<long>(low) * BLOCK_ROWS, static_cast<long>(high) * BLOCK_ROWS};
    const int thread = threadIdx.x;
    if (thread == 0) n_wide = 0;
    gram_of_pair(rows, len, pair, span, gram);
    const auto is_wide = [&](int i, int j) {
        const double across = gram[i][j];
        return across * across > angle * fmax(gram[i][i], floor) * fmax(gram[j][j], floor);
    };
    for (int at = thread; at < PAIR_ROWS * PAIR_ROWS; at += SOLVE_THREADS) {
        const int i = at / PAIR_ROWS, j = at % PAIR_ROWS;
        turn[i][j] = i == j ? 1.0 : 0.0;
        if (i < j && is_wide(i, j)) n_wide = 1;
    }
    __syncthreads();
    if (n_wide == 0) return;
    if (thread == 0) *changed = 1;
    for (int inner = 0; inner < INNER_SWEEPS * (PAIR_ROWS - 1); ++inner) {
        const auto rows_of = [&](int at, int* i, int* j) { meeting(PAIR_ROWS, inner % (PAIR_ROWS - 1), at, i, j); };
        if (thread < BLOCK_ROWS) {
            int i, j;
            rows_of(thread, &i, &j);
            double c = 1.0, s = 0.0, of_i = gram[i][i], of_j = gram[j][j];
            if (is_wide(i, j)) {
                const double middle = (gram[j][j] - gram[i][i]) / (2.0 * gram[i][j]);
                const double tangent = copysign(1.0, middle) / (fabs(middle) + sqrt(1.0 + middle * middle));
                c = 1.0 / sqrt(1.0 + tangent * tangent);
                s = c * tangent;
                of_i -= tangent * gram[i][j];
                of_j += tangent * gram[i][j];
            }
            // The longer row comes first, which takes far fewer sweeps where lengths differ much.
            const bool is_sorted = of_i >= of_j;
            cosine[thread] = is_sorted ? c : s;
            sine[thread] = is_sorted ? s : -c;
        }
        __syncthreads();
        // Rows of both, then columns of the products.
        for (int at = thread; at < BLOCK_ROWS * PAIR_ROWS; at += SOLVE_THREADS) {
            int i, j;
            rows_of(at / PAIR_ROWS, &i, &j);
            const int k = at % PAIR_ROWS;
            const double c = cosine[at / PAIR_ROWS], s = sine[at / PAIR_ROWS];
            const double of_i = gram[i][k], of_j = gram[j][k], turn_i = turn[i][k], turn_j = turn[j][k];
            gram[i][k] = c * of_i - s * of_j;
            gram[j][k] = s * of_i + c * of_j;
            turn[i][k] = c * turn_i - s * turn_j;
            turn[j][k] = s * turn_i + c * turn_j;
        }
        __syncthreads();
        for (int at = thread; at < BLOCK_ROWS * PAIR_ROWS; at += SOLVE_THREADS) {
            int i, j;
            rows_of(at / PAIR_ROWS, &i, &j);
            const int k = at % PAIR_ROWS;
            const double c = cosine[at / PAIR_ROWS], s = sine[at / PAIR_ROWS];
            const double of_i = gram[k][i], of_j = gram[k][j];
            gram[k][i] = c * of_i - s * of_j;
            gram[k][j] = s * of_i + c * of_j;
        }
        __syncthreads();
    }
    rotate_pair(rows, len, pair, turn, span);
    if (turned) rotate_pair(turned, turns, pair, turn, span);
}

// Ones on the diagonal of a zeroed matrix (n, n). Grid: n / SOLVE_THREADS.
KERNEL(SOLVE_THREADS) mark_diagonal(double* matrix, long n) {
    const long at = static_cast<long>(blockIdx.x) * SOLVE_THREADS + threadIdx.x;
    if (at < n) matrix[at * (n + 1)] = 1.0;
}

// squares (rows): of the lengths of rows of `len`. Grid: rows.
KERNEL(SOLVE_THREADS) square_lengths(const double* rows, double* squares, long len) {
    __shared__ double scratch[SOLVE_THREADS];
    const double* row = rows + blockIdx.x * len;
    double sum = 0.0;
    for (long at = threadIdx.x; at < len; at += SOLVE_THREADS) sum += row[at] * row[at];
    sum = block_reduce(sum, scratch, [](double a, double b) { return a + b; });
    if (threadIdx.x == 0) squares[blockIdx.x] = sum;
}
