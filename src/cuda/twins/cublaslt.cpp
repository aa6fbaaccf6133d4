// A twin of NVIDIA's library of matrix products, for tests: the functions that the worker calls, over the host's memory,
// with plain loops. It refuses what the documents of the real one forbid, and ends the program where that one would read
// or write what it must not.
#include <dlfcn.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>

namespace {

enum Status { SUCCESS = 0, INVALID_VALUE = 7, EXECUTION_FAILED = 13, NOT_SUPPORTED = 15 };
enum Type { R_32F = 0, R_16F = 2, R_8I = 3, R_32I = 10, R_16BF = 14 };
enum Compute { COMPUTE_32F = 68, COMPUTE_32I = 72 };
enum Operation { OP_N = 0, OP_T = 1 };

struct Product {
    int compute, scale, pointer_mode, a_operation, b_operation;
};

struct Layout {
    int type;
    uint64_t rows, columns;
    int64_t stride;
};

struct Preference {
    uint64_t workspace;
    // Of A, B, C and D.
    uint32_t alignment[4];
};

// What an algorithm was chosen for; the first words of the library's 64 bytes.
struct Algorithm {
    uint64_t mark, fingerprint, workspace;
    uint32_t alignment[4];
    uint64_t unused[3];
};
static_assert(sizeof(Algorithm) == 64);

struct Advice {
    Algorithm algorithm;
    size_t workspace;
    int status;
    float waves;
    int reserved[4];
};

constexpr uint64_t MARK = 0x7472696d746162;

// Everything that was created and not destroyed, with its kind.
std::map<const void*, char> living;

template <class T>
int create(T** out, char kind, const T& value) {
    if (!out) return INVALID_VALUE;
    *out = new T(value);
    living[*out] = kind;
    return SUCCESS;
}

template <class T>
int destroy(T* thing, char kind) {
    const auto found = living.find(thing);
    if (found == living.end() || found->second != kind) return INVALID_VALUE;
    living.erase(found);
    delete thing;
    return SUCCESS;
}

bool is(const void* thing, char kind) {
    const auto found = living.find(thing);
    return found != living.end() && found->second == kind;
}

[[noreturn]] void refuse(const char* what) {
    std::fprintf(stderr, "twin of cublasLt: %s\n", what);
    std::abort();
}

// Of the documents' table of types: sums in f32 of f32, halves or brain floats, and in i32 of 8-bit integers.
bool is_known(const Product& p, const Layout& a, const Layout& b, const Layout& c, const Layout& d) {
    if (a.type != b.type || c.type != d.type) return false;
    if (p.compute == COMPUTE_32I) return p.scale == R_32I && a.type == R_8I && c.type == R_32I;
    const bool is_float = a.type == R_32F || a.type == R_16F || a.type == R_16BF;
    return p.compute == COMPUTE_32F && p.scale == R_32F && is_float && c.type == R_32F;
}

// Products of integers: A transposed, B not, k and m multiples of 4 with strides of 4, and more than 16 columns.
bool is_integer_legal(const Product& p, const Layout& a, const Layout& b, const Layout& d) {
    return p.a_operation == OP_T && p.b_operation == OP_N && a.rows % 4 == 0 && d.rows % 4 == 0 && a.stride % 4 == 0 &&
           b.stride % 4 == 0 && d.stride % 4 == 0 && d.columns > 16;
}

uint64_t fingerprint(const Product& p, const Layout& a, const Layout& b, const Layout& c, const Layout& d) {
    uint64_t hash = 0xcbf29ce484222325;
    const auto feed = [&hash](uint64_t word) { hash = (hash ^ word) * 0x100000001b3; };
    for (int value : {p.compute, p.scale, p.pointer_mode, p.a_operation, p.b_operation}) feed(static_cast<uint64_t>(value));
    for (const Layout* l : {&a, &b, &c, &d}) {
        feed(static_cast<uint64_t>(l->type));
        feed(l->rows);
        feed(l->columns);
        feed(static_cast<uint64_t>(l->stride));
    }
    return hash;
}

float half_to_float(uint16_t bits) {
    const int exponent = bits >> 10 & 31, fraction = bits & 1023;
    const float value = exponent == 31 ? (fraction ? NAN : INFINITY)
                        : exponent     ? std::ldexp(static_cast<float>(1024 + fraction), exponent - 25)
                                       : std::ldexp(static_cast<float>(fraction), -24);
    return bits >> 15 ? -value : value;
}

float number(const void* from, int type, uint64_t at) {
    if (type == R_32F) return static_cast<const float*>(from)[at];
    const uint16_t bits = static_cast<const uint16_t*>(from)[at];
    if (type == R_16F) return half_to_float(bits);
    const uint32_t wide = static_cast<uint32_t>(bits) << 16;
    float value;
    std::memcpy(&value, &wide, 4);
    return value;
}

bool is_aligned(const void* at, uint64_t to) { return reinterpret_cast<uintptr_t>(at) % to == 0; }

int shapes(const Product& p, const Layout& a, const Layout& b, const Layout& c, const Layout& d) {
    if (p.b_operation != OP_N) return NOT_SUPPORTED;
    const uint64_t m = p.a_operation == OP_T ? a.columns : a.rows, k = p.a_operation == OP_T ? a.rows : a.columns;
    const bool fits = b.rows == k && d.rows == m && d.columns == b.columns && c.rows == m && c.columns == d.columns;
    return fits && c.stride == d.stride ? SUCCESS : INVALID_VALUE;
}

// One product that was asked for, with everything that it needs when its turn in the stream comes.
struct Work {
    Product product;
    Layout w, x, y;
    const void *a, *b;
    void* d;
    // On the card, or none where the host's were read.
    const void *alpha, *beta;
    char factors[2][4];
    void* workspace;
    size_t workspace_bytes;

    template <class T>
    T factor(int which) const {
        T value;
        const void* const on_card = which == 0 ? alpha : beta;
        std::memcpy(&value, on_card ? on_card : factors[which], sizeof(T));
        return value;
    }

    void run() const {
        const uint64_t m = y.rows, n = y.columns, k = x.rows;
        const bool is_integer = product.compute == COMPUTE_32I;
        // The memory that an algorithm may use is written to.
        if (workspace_bytes > 0) std::memset(workspace, 0x5a, 256);
        const uint64_t a_row = product.a_operation == OP_T ? static_cast<uint64_t>(w.stride) : 1;
        const uint64_t a_step = product.a_operation == OP_T ? 1 : static_cast<uint64_t>(w.stride);
        for (uint64_t column = 0; column < n; ++column)
            for (uint64_t row = 0; row < m; ++row) {
                const uint64_t at = column * static_cast<uint64_t>(y.stride) + row;
                const uint64_t first = column * static_cast<uint64_t>(x.stride);
                if (is_integer) {
                    const auto *left = static_cast<const int8_t*>(a), *right = static_cast<const int8_t*>(b);
                    int32_t sum = 0;
                    for (uint64_t i = 0; i < k; ++i) sum += left[row * a_row + i * a_step] * right[first + i];
                    sum *= factor<int32_t>(0);
                    const int32_t by = factor<int32_t>(1);
                    int32_t* place = static_cast<int32_t*>(d) + at;
                    *place = sum + (by == 0 ? 0 : by * *place);
                } else {
                    float sum = 0.0f;
                    for (uint64_t i = 0; i < k; ++i)
                        sum += number(a, w.type, row * a_row + i * a_step) * number(b, x.type, first + i);
                    const float by = factor<float>(1);
                    float* place = static_cast<float*>(d) + at;
                    // What is multiplied with 0 is not read.
                    *place = factor<float>(0) * sum + (by == 0.0f ? 0.0f : by * *place);
                }
            }
    }
};

// Bytes of a matrix as it lies.
size_t extent(const Layout& l) {
    const size_t width = l.type == R_8I ? 1 : l.type == R_16F || l.type == R_16BF ? 2 : 4;
    return ((l.columns - 1) * static_cast<uint64_t>(l.stride) + l.rows) * width;
}

// Adds work to a stream of the driver's twin, which is loaded where there is a stream.
int in_stream(void* stream, const Work& work) {
    using Ask = int (*)(void*, const uint64_t*, const size_t*, unsigned, void (*)(const void*), const void*, size_t);
    static const Ask ask = [] {
        void* const driver = dlopen("libcuda.so", RTLD_NOW | RTLD_NOLOAD);
        return driver ? reinterpret_cast<Ask>(dlsym(driver, "trimtab_twin_ask")) : nullptr;
    }();
    if (!ask) refuse("a stream of a driver that is no twin");
    const void* const places[] = {work.a, work.b, work.d, work.alpha, work.beta, work.workspace};
    const size_t bytes[] = {extent(work.w), extent(work.x), extent(work.y), 4, 4, work.workspace_bytes};
    uint64_t addresses[6];
    for (int i = 0; i < 6; ++i) addresses[i] = reinterpret_cast<uint64_t>(places[i]);
    const auto run = [](const void* state) { static_cast<const Work*>(state)->run(); };
    return ask(stream, addresses, bytes, 6, run, &work, sizeof work) == 0 ? SUCCESS : EXECUTION_FAILED;
}

}  // namespace

#pragma GCC visibility push(default)
extern "C" {

size_t cublasLtGetVersion() { return 130000; }

int cublasLtCreate(int** handle) { return create(handle, 'h', 0); }
int cublasLtDestroy(int* handle) { return destroy(handle, 'h'); }

// How many things live: for tests.
size_t trimtab_twin_living() { return living.size(); }

int cublasLtMatrixLayoutCreate(Layout** out, int type, uint64_t rows, uint64_t columns, int64_t stride) {
    if (rows == 0 || columns == 0 || stride < static_cast<int64_t>(rows)) return INVALID_VALUE;
    return create(out, 'l', Layout{type, rows, columns, stride});
}
int cublasLtMatrixLayoutDestroy(Layout* layout) { return destroy(layout, 'l'); }

int cublasLtMatmulDescCreate(Product** out, int compute, int scale) {
    return create(out, 'p', Product{compute, scale, 0, OP_N, OP_N});
}
int cublasLtMatmulDescDestroy(Product* product) { return destroy(product, 'p'); }

int cublasLtMatmulDescSetAttribute(Product* product, int attribute, const void* value, size_t bytes) {
    if (!is(product, 'p') || !value || bytes != 4) return INVALID_VALUE;
    int* const place = attribute == 2   ? &product->pointer_mode
                       : attribute == 3 ? &product->a_operation
                       : attribute == 4 ? &product->b_operation
                                        : nullptr;
    if (!place) return INVALID_VALUE;
    std::memcpy(place, value, 4);
    return *place == 0 || *place == 1 ? SUCCESS : INVALID_VALUE;
}

int cublasLtMatmulPreferenceCreate(Preference** out) { return create(out, 'f', Preference{0, {256, 256, 256, 256}}); }
int cublasLtMatmulPreferenceDestroy(Preference* preference) { return destroy(preference, 'f'); }

int cublasLtMatmulPreferenceSetAttribute(Preference* preference, int attribute, const void* value, size_t bytes) {
    if (!is(preference, 'f') || !value) return INVALID_VALUE;
    if (attribute == 1 && bytes == 8) {
        std::memcpy(&preference->workspace, value, 8);
        return SUCCESS;
    }
    if (attribute < 5 || attribute > 8 || bytes != 4) return INVALID_VALUE;
    std::memcpy(&preference->alignment[attribute - 5], value, 4);
    return SUCCESS;
}

int cublasLtMatmulAlgoGetHeuristic(int* handle, const Product* p, const Layout* a, const Layout* b, const Layout* c,
                                   const Layout* d, const Preference* preference, int asked, Advice* out, int* found) {
    if (!is(handle, 'h') || !is(p, 'p') || !is(a, 'l') || !is(b, 'l') || !is(c, 'l') || !is(d, 'l')) return INVALID_VALUE;
    if (!is(preference, 'f') || asked < 1 || !out || !found) return INVALID_VALUE;
    *found = 0;
    if (const int status = shapes(*p, *a, *b, *c, *d)) return status;
    if (!is_known(*p, *a, *b, *c, *d)) return NOT_SUPPORTED;
    if (p->compute == COMPUTE_32I && !is_integer_legal(*p, *a, *b, *d)) return NOT_SUPPORTED;
    Advice advice = {};
    advice.algorithm.mark = MARK;
    advice.algorithm.fingerprint = fingerprint(*p, *a, *b, *c, *d);
    // An algorithm with as much memory as it may have.
    advice.algorithm.workspace = advice.workspace = preference->workspace;
    std::memcpy(advice.algorithm.alignment, preference->alignment, sizeof preference->alignment);
    advice.waves = 1.0f;
    *out = advice;
    *found = 1;
    return SUCCESS;
}

int cublasLtMatmul(int* handle, const Product* p, const void* alpha, const void* a, const Layout* al, const void* b,
                   const Layout* bl, const void* beta, const void* c, const Layout* cl, void* d, const Layout* dl,
                   const Algorithm* algorithm, void* workspace, size_t workspace_bytes, void* stream) {
    if (!is(handle, 'h') || !is(p, 'p') || !is(al, 'l') || !is(bl, 'l') || !is(cl, 'l') || !is(dl, 'l')) return INVALID_VALUE;
    if (!alpha || !beta || !a || !b || !c || !d || !algorithm) return INVALID_VALUE;
    if (algorithm->mark != MARK || algorithm->fingerprint != fingerprint(*p, *al, *bl, *cl, *dl)) return INVALID_VALUE;
    if (workspace_bytes < algorithm->workspace) return INVALID_VALUE;
    if (workspace_bytes > 0 && !is_aligned(workspace, 256)) return INVALID_VALUE;
    if (c != d) return INVALID_VALUE;
    const void* const places[4] = {a, b, c, d};
    for (int i = 0; i < 4; ++i)
        if (!is_aligned(places[i], algorithm->alignment[i])) refuse("memory that is less aligned than was promised");
    Work work{*p, *al, *bl, *dl, a, b, d, alpha, beta, {}, workspace, workspace_bytes};
    if (p->pointer_mode == 0) {
        // The host's factors are read by the call.
        std::memcpy(work.factors[0], alpha, 4);
        std::memcpy(work.factors[1], beta, 4);
        work.alpha = work.beta = nullptr;
    }
    if (!stream) {
        work.run();
        return SUCCESS;
    }
    return in_stream(stream, work);
}

}  // extern "C"
#pragma GCC visibility pop
