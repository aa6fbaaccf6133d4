// What the twin of the driver is made of: its script, the objects that it gives out, and the work that waits in streams.
#pragma once
#include <unistd.h>

#include <chrono>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

extern "C" int trimtab_emulate(const char*, const unsigned*, unsigned, const uint64_t*, unsigned, int);
extern "C" int trimtab_kernel(const char* name, unsigned* arity, uint64_t* pointers);

namespace {

enum Result {
    SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NOT_INITIALIZED = 3, NO_DEVICE = 100, INVALID_DEVICE = 101,
    INVALID_IMAGE = 200, INVALID_CONTEXT = 201, NO_BINARY_FOR_GPU = 209, INVALID_HANDLE = 400, NOT_FOUND = 500,
    NOT_READY = 600, ILLEGAL_ADDRESS = 700, CONTEXT_IS_DESTROYED = 709, CAPTURE_UNSUPPORTED = 900, CAPTURE_INVALIDATED = 901,
    UNKNOWN = 999
};
constexpr int HANG = -1, LOST = -2;
constexpr size_t MARGIN = 64, GRANULE = 512;
constexpr unsigned char UNTOUCHED = 0x5a, UNSET = 0xcd;

[[noreturn]] void refuse(const char* what) {
    std::fprintf(stderr, "twin of the driver: %s\n", what);
    std::abort();
}

struct Fault {
    std::string site;
    unsigned long at;
    int what;
};

struct Script {
    int cards = 1, driver = 13000, capability = 90;
    size_t memory = size_t{1} << 30;
    std::vector<Fault> faults;
    std::string once;

    explicit Script(std::string text) {
        text += ';';
        for (size_t end; (end = text.find(';')) != std::string::npos; text.erase(0, end + 1)) {
            const std::string entry = text.substr(0, end);
            const size_t equals = entry.find('=');
            if (entry.empty()) continue;
            const std::string name = entry.substr(0, equals), value = entry.substr(equals + 1);
            if (name == "cards") cards = std::stoi(value);
            else if (name == "driver") driver = std::stoi(value);
            else if (name == "capability") capability = std::stoi(value);
            else if (name == "memory") memory = std::stoull(value);
            else if (name == "once") once = value;
            else if (name == "fault") faults.push_back(fault(value));
            else refuse(("a setting that is not known: " + entry).c_str());
        }
    }

    static Fault fault(const std::string& text) {
        const size_t first = text.find(':'), second = text.find(':', first + 1);
        if (second == std::string::npos) refuse("a fault is SITE:N:WHAT");
        const std::string what = text.substr(second + 1);
        const int code = what == "hang" ? HANG : what == "lost" ? LOST : std::stoi(what);
        return {text.substr(0, first), std::stoul(text.substr(first + 1)), code};
    }
};

// When an event was reached, of the times that it was asked for.
struct Moment {
    unsigned asked = 0, reached = 0;
    std::chrono::steady_clock::time_point at = {};
};

struct Operation {
    enum Kind { LAUNCH, SET, TO_CARD, TO_HOST, CALL, MARK } kind;
    uint64_t address = 0;
    size_t bytes = 0;
    unsigned char value = 0;
    void* host = nullptr;
    std::vector<char> seen = {};  // what the host's memory held when the copy was asked for
    std::string kernel = {};
    unsigned grid[3] = {}, threads = 0;
    uint64_t pointers = 0;
    std::vector<uint64_t> args = {};
    // Another library's work, with what it is given and the memory that it uses.
    void (*call)(const void*) = nullptr;
    std::vector<char> state = {};
    std::vector<std::pair<uint64_t, size_t>> uses = {};
    std::shared_ptr<Moment> moment = {};
};
using Operations = std::vector<Operation>;

struct Allocation {
    size_t bytes;
    std::unique_ptr<char[]> memory;
};

struct Context {
    int card;
    int fault = SUCCESS;
    unsigned retained = 0;
    std::map<uint64_t, Allocation> memory = {};
    size_t allocated = 0;
};

struct Stream {
    Context* context;
    Operations waiting = {};
    bool is_capturing = false, is_invalid = false;
    Operations captured = {};
};
struct Module { Context* context; };
struct Function {
    Context* context;
    std::string name;
    unsigned arity;
    uint64_t pointers;
};
struct Event {
    Context* context;
    std::shared_ptr<Moment> moment;
};
struct Pinned {
    Context* context;
    std::unique_ptr<char[]> memory;
};
struct Graph { Operations steps; };
struct Executable {
    Context* context;
    Operations steps;
};

// Never destroyed: a thread may be in here while another ends the process.
std::mutex& gate = *new std::mutex;
std::unique_ptr<Script>& script = *new std::unique_ptr<Script>;
std::map<std::string, unsigned long>& seen = *new std::map<std::string, unsigned long>;
std::map<int, std::unique_ptr<Context>>& contexts = *new std::map<int, std::unique_ptr<Context>>;
template <class T> std::map<void*, std::unique_ptr<T>>& objects = *new std::map<void*, std::unique_ptr<T>>;
thread_local Context* current = nullptr;
bool is_lost = false, is_initialized = false;
unsigned long launched = 0;

// A fault that the script has for this time at this place; 0 for none.
int fault_at(const char* site) {
    if (is_lost) return UNKNOWN;
    const unsigned long number = ++seen[site];
    for (const Fault& fault : script->faults) {
        if (fault.site != site || fault.at != number) continue;
        if (!script->once.empty() && unlink(script->once.c_str()) != 0) continue;
        if (fault.what == HANG)
            for (;;) pause();
        if (fault.what == LOST) is_lost = true;
        return fault.what == LOST ? UNKNOWN : fault.what;
    }
    return SUCCESS;
}

bool is_inside(const Context& context, uint64_t address, size_t bytes) {
    auto after = context.memory.upper_bound(address);
    if (after == context.memory.begin()) return false;
    const auto& [start, allocation] = *--after;
    return address - start <= allocation.bytes && bytes <= allocation.bytes - (address - start);
}

void check_margin(uint64_t start, const Allocation& allocation) {
    const auto* end = reinterpret_cast<const unsigned char*>(start) + allocation.bytes;
    for (size_t i = 0; i < MARGIN; ++i)
        if (end[i] != UNTOUCHED) refuse("a kernel wrote behind its buffer");
}

int execute(Context& context, const Operation& op) {
    if (op.kind == Operation::LAUNCH) {
        if (int fault = fault_at("launch")) return fault;
        for (size_t i = 0; i < op.args.size(); ++i)
            if (op.pointers >> i & 1 && op.args[i] && !is_inside(context, op.args[i], 1)) return ILLEGAL_ADDRESS;
        const int order = static_cast<int>(launched++ % 2);
        const auto count = static_cast<unsigned>(op.args.size());
        if (trimtab_emulate(op.kernel.c_str(), op.grid, op.threads, op.args.data(), count, order))
            refuse("a kernel that was there is not");
        for (size_t i = 0; i < op.args.size(); ++i)
            if (op.pointers >> i & 1 && op.args[i]) {
                const auto at = std::prev(context.memory.upper_bound(op.args[i]));
                check_margin(at->first, at->second);
            }
        return SUCCESS;
    }
    if (op.kind == Operation::CALL) {
        if (int fault = fault_at("launch")) return fault;
        for (const auto& [address, bytes] : op.uses)
            if (address && !is_inside(context, address, bytes)) return ILLEGAL_ADDRESS;
        op.call(op.state.data());
        return SUCCESS;
    }
    if (op.kind == Operation::MARK) {
        ++op.moment->reached;
        op.moment->at = std::chrono::steady_clock::now();
        return SUCCESS;
    }
    if (!is_inside(context, op.address, op.bytes)) return ILLEGAL_ADDRESS;
    auto* card = reinterpret_cast<void*>(op.address);
    if (op.kind == Operation::SET) {
        std::memset(card, op.value, op.bytes);
        return SUCCESS;
    }
    if (int fault = fault_at("copy")) return fault;
    if (op.kind == Operation::TO_CARD) {
        if (std::memcmp(op.seen.data(), op.host, op.bytes) != 0) refuse("the host changed a buffer before it was copied");
        std::memcpy(card, op.host, op.bytes);
    } else {
        std::memcpy(op.host, card, op.bytes);
    }
    return SUCCESS;
}

int run(Stream& stream) {
    Operations waiting;
    waiting.swap(stream.waiting);
    for (const Operation& op : waiting) {
        if (stream.context->fault) break;
        stream.context->fault = execute(*stream.context, op);
    }
    return stream.context->fault;
}

// What a call needs that works in the current context.
int enter() {
    if (!is_initialized) return NOT_INITIALIZED;
    if (is_lost) return UNKNOWN;
    if (!current) return INVALID_CONTEXT;
    if (current->retained == 0) return CONTEXT_IS_DESTROYED;
    return current->fault;
}

// The same for calls that a capture does not allow, and that end it.
int enter_alone() {
    if (int error = enter()) return error;
    for (auto& [_, stream] : objects<Stream>) {
        if (!stream->is_capturing) continue;
        stream->is_invalid = true;
        return CAPTURE_UNSUPPORTED;
    }
    return SUCCESS;
}

template <class T>
T& known(void* handle) {
    auto found = objects<T>.find(handle);
    if (found == objects<T>.end()) refuse("a handle that is not known, or not any more");
    return *found->second;
}

template <class T>
T* add(T made) {
    auto owned = std::make_unique<T>(std::move(made));
    T* handle = owned.get();
    objects<T>.emplace(handle, std::move(owned));
    return handle;
}

template <class T>
int drop(void* handle) {
    known<T>(handle);
    objects<T>.erase(handle);
    return enter();
}

// Adds to a stream, or to what it records.
int ask(void* handle, Operation op) {
    Stream& stream = known<Stream>(handle);
    if (stream.context != current) return INVALID_CONTEXT;
    if (stream.is_invalid) return CAPTURE_INVALIDATED;
    (stream.is_capturing ? stream.captured : stream.waiting).push_back(std::move(op));
    return SUCCESS;
}

int copy(void* stream, Operation op) {
    if (int error = enter_alone()) return error;
    if (!is_inside(*current, op.address, op.bytes)) return INVALID_VALUE;
    return ask(stream, std::move(op));
}

int card_of(int card) {
    if (!is_initialized) return NOT_INITIALIZED;
    if (is_lost) return UNKNOWN;
    return card >= 0 && card < script->cards ? SUCCESS : INVALID_DEVICE;
}

}  // namespace
