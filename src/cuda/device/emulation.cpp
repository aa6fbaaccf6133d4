// Runs a kernel by its name: see emulation.h.
#include <cstddef>
#include <memory>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "kernels.cu"

namespace emulation {

thread_local Dim thread_index, block_index, block_size, grid_size;

namespace {

constexpr size_t STACK_BYTES = 64 << 10;

struct Barrier {
    unsigned arrived = 0, generation = 0;
};

struct Warp {
    Barrier barrier;
    uint64_t slots[2][WARP];
    unsigned alive = 0;
};

struct Fiber {
    void* stack_pointer;
    std::unique_ptr<char[]> stack;
    unsigned number;
    unsigned shuffles;
    bool has_ended;
    // Waits while the barrier is still in this generation.
    const Barrier* waits_for;
    unsigned generation;
};

struct Block {
    std::vector<Fiber> fibers;
    std::vector<Warp> warps;
    Barrier barrier;
    unsigned alive;
    unsigned current;
    void* scheduler;
    void (*invoke)(const uint64_t*);
    const uint64_t* args;
};

thread_local Block block;

}  // namespace

// Saves the registers that a called function must keep, changes stacks and restores them.
extern "C" void trimtab_change_stack(void** from, void* to);
#if defined(__x86_64__)
asm(R"(
.text
.globl trimtab_change_stack
trimtab_change_stack:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
)");
constexpr size_t SAVED = 6;
#else
#error "the emulation of kernels changes stacks on x86-64 only"
#endif

namespace {

void yield() {
    Fiber& fiber = block.fibers[block.current];
    trimtab_change_stack(&fiber.stack_pointer, block.scheduler);
}

void wait(Barrier& barrier, unsigned expected) {
    if (++barrier.arrived == expected) {
        barrier.arrived = 0;
        ++barrier.generation;
        return;
    }
    Fiber& fiber = block.fibers[block.current];
    fiber.waits_for = &barrier;
    fiber.generation = barrier.generation;
    yield();
}

void body() {
    block.invoke(block.args);
    Fiber& fiber = block.fibers[block.current];
    fiber.has_ended = true;
    --block.warps[fiber.number / WARP].alive;
    // Threads that have ended are not waited for.
    if (--block.alive > 0 && block.barrier.arrived == block.alive) {
        block.barrier.arrived = 0;
        ++block.barrier.generation;
    }
    yield();
    refuse("a thread that had ended");
}

void start(Fiber& fiber) {
    if (!fiber.stack) fiber.stack.reset(new char[STACK_BYTES]);
    auto top = reinterpret_cast<uintptr_t>(fiber.stack.get() + STACK_BYTES) & ~uintptr_t{15};
    auto* slots = reinterpret_cast<void**>(top) - 2;
    slots[0] = reinterpret_cast<void*>(&body);
    slots[1] = nullptr;
    slots -= SAVED;
    std::memset(slots, 0, SAVED * sizeof(void*));
    fiber.stack_pointer = slots;
    fiber.shuffles = 0;
    fiber.has_ended = false;
    fiber.waits_for = nullptr;
}

// Lets every thread of a block run to its end. `order` 0 goes through the threads forwards, 1 backwards.
void run_block(unsigned threads, int order) {
    block.fibers.resize(std::max<size_t>(block.fibers.size(), threads));
    block.warps.assign((threads + WARP - 1) / WARP, Warp());
    block.barrier = Barrier();
    block.alive = threads;
    for (unsigned i = 0; i < threads; ++i) {
        block.fibers[i].number = i;
        ++block.warps[i / WARP].alive;
        start(block.fibers[i]);
    }
    while (block.alive > 0) {
        bool has_moved = false;
        for (unsigned i = 0; i < threads; ++i) {
            block.current = order == 0 ? i : threads - 1 - i;
            Fiber& fiber = block.fibers[block.current];
            const bool waits = fiber.waits_for && fiber.waits_for->generation == fiber.generation;
            if (fiber.has_ended || waits) continue;
            fiber.waits_for = nullptr;
            thread_index = {block.current, 0, 0};
            trimtab_change_stack(&block.scheduler, fiber.stack_pointer);
            has_moved = true;
        }
        if (!has_moved) refuse("threads wait for each other at different barriers");
    }
}

template <class... P, size_t... I>
void apply(void (*kernel)(P...), const uint64_t* args, std::index_sequence<I...>) {
    const auto as = [args](auto* out, size_t at) { std::memcpy(out, args + at, sizeof(*out)); };
    std::tuple<P...> typed;
    (as(&std::get<I>(typed), I), ...);
    kernel(std::get<I>(typed)...);
}

template <auto KERNEL_FUNCTION, class... P>
constexpr unsigned arity(void (*)(P...)) {
    static_assert(((sizeof(P) == 8) && ...), "every parameter is eight bytes wide");
    return sizeof...(P);
}

// The parameters that are addresses, a bit each.
template <class... P>
constexpr uint64_t pointers(void (*)(P...)) {
    uint64_t bits = 0, bit = 1;
    ((bits |= std::is_pointer_v<P> ? bit : 0, bit <<= 1), ...);
    return bits;
}

template <auto F, class... P>
void call(const uint64_t* args, void (*)(P...)) {
    apply(F, args, std::index_sequence_for<P...>());
}

struct Entry {
    const char* name;
    unsigned arity;
    uint64_t pointers;
    void (*invoke)(const uint64_t*);
};

#define ENTRY(kernel) \
    Entry{#kernel, arity<&kernel>(&kernel), pointers(&kernel), [](const uint64_t* args) { call<&kernel>(args, &kernel); }},
#define ENTRIES_OF(name, F) ENTRY(product_##name##_1) ENTRY(product_##name##_8) ENTRY(gather_##name)
#define ENTRIES_OF_PACKED(name, F) ENTRY(largest_##name) ENTRY(write_out_##name)
#define ENTRIES_OF_CACHE(name) \
    ENTRY(rotate_and_store_##name) ENTRY(attend_##name) \
    ENTRY(attend_tile_##name##_64) ENTRY(attend_tile_##name##_128) ENTRY(attend_tile_##name##_256)
const Entry ENTRIES[] = {
    FORMATS(ENTRIES_OF) ENTRY(round_rows) ENTRY(product_tokens_1) ENTRY(product_tokens_8) ENTRY(rms_norm)
    ENTRY(gate)
    ENTRY(combine) ENTRY(divergence) ENTRY(choose)
    PACKED_FORMATS(ENTRIES_OF_PACKED) ENTRY(largest_rows) ENTRY(factor_of_rows) ENTRY(narrow_f16) ENTRY(narrow_bf16)
    ENTRY(spread_bias) ENTRY(scale_sums)
    ENTRIES_OF_CACHE(f32) ENTRIES_OF_CACHE(f16) ENTRIES_OF_CACHE(q8_0) ENTRIES_OF_CACHE(q4_0)
    ENTRY(read_again) ENTRY(multiply_adds) ENTRY(dot_products) ENTRY(nothing)
    ENTRY(add_gram) ENTRY(add_magnitudes) ENTRY(copy_rows) ENTRY(add_floats)
    ENTRY(multiply) ENTRY(quadratic_form) ENTRY(gather_damped) ENTRY(factor_block) ENTRY(reverse_lower) ENTRY(feed_back)
    ENTRY(score_columns) ENTRY(range_of_columns) ENTRY(rotate_rows) ENTRY(mark_diagonal)
    ENTRY(square_lengths)
};

}  // namespace

void block_barrier() { wait(block.barrier, block.alive); }

uint64_t exchange(uint64_t mine, int with) {
    const unsigned number = block.fibers[block.current].number, lane = number % WARP;
    Warp& warp = block.warps[number / WARP];
    if (warp.alive != WARP) refuse("a shuffle in a warp with a thread that has ended");
    // The next shuffle uses the other slots: all have read these before any writes them again.
    uint64_t* slots = warp.slots[block.fibers[block.current].shuffles++ % 2];
    slots[lane] = mine;
    wait(warp.barrier, WARP);
    thread_index = {number, 0, 0};
    return slots[lane ^ static_cast<unsigned>(with)];
}

}  // namespace emulation

// Returns 0, or 1 for a name that is not a kernel's, or 2 for another number of arguments.
extern "C" int trimtab_emulate(const char* name, const unsigned* grid, unsigned threads, const uint64_t* args,
                               unsigned n_args, int order) {
    using namespace emulation;
    for (const Entry& entry : ENTRIES) {
        if (std::strcmp(entry.name, name) != 0) continue;
        if (entry.arity != n_args) return 2;
        block.invoke = entry.invoke;
        block.args = args;
        grid_size = {grid[0], grid[1], grid[2]};
        block_size = {threads, 1, 1};
        for (unsigned z = 0; z < grid[2]; ++z)
            for (unsigned y = 0; y < grid[1]; ++y)
                for (unsigned x = 0; x < grid[0]; ++x) {
                    block_index = {x, y, z};
                    run_block(threads, order);
                }
        return 0;
    }
    return 1;
}

// Returns 0 and what a launch needs to know of a kernel, or 1 for a name that is not a kernel's.
extern "C" int trimtab_kernel(const char* name, unsigned* arity, uint64_t* pointers) {
    for (const emulation::Entry& entry : emulation::ENTRIES) {
        if (std::strcmp(entry.name, name) != 0) continue;
        *arity = entry.arity;
        *pointers = entry.pointers;
        return 0;
    }
    return 1;
}
