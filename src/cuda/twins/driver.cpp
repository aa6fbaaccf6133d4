// The functions of NVIDIA's driver that the worker calls, over the emulation of the kernels: built as `libcuda.so.1` into a
// folder that only tests name. What the driver leaves undefined ends the process with a message; what it may do late is
// done as late as it may be: work waits in its stream until somebody waits for it, so that a host's buffer that is not kept
// and an error that comes with a later call are seen here.
//
// `TRIMTAB_TWIN` is a list of settings behind semicolons: `cards=2`, `memory=BYTES` of each, `driver=13000`,
// `capability=90`, `fault=SITE:N:WHAT` at the Nth time in this process, where SITE is init, load, allocate, copy or launch
// and WHAT an error's number, `lost` or `hang`, and `once=FILE`: faults only come while the file exists, which they remove.
#include "driver.h"

#define EXPORT extern "C" __attribute__((visibility("default")))
#define API EXPORT int
#define GUARD std::lock_guard<std::mutex> guard(gate)

// Bytes that are allocated on a card, and things that were made and not destroyed: for tests of this process.
EXPORT void trimtab_twin_holds(int card, size_t* bytes, size_t* things) {
    GUARD;
    const auto found = contexts.find(card);
    *bytes = found == contexts.end() ? 0 : found->second->allocated;
    *things = objects<Stream>.size() + objects<Module>.size() + objects<Event>.size() + objects<Graph>.size() +
              objects<Executable>.size() + objects<Pinned>.size();
}

// Takes the place of `TRIMTAB_TWIN`, before anything else or after everything.
EXPORT void trimtab_twin_script(const char* text) {
    GUARD;
    for (auto& [_, context] : contexts) {
        if (context->retained) refuse("a new script while a card is open");
        context->fault = SUCCESS;
    }
    script = std::make_unique<Script>(text);
    seen.clear();
    is_lost = is_initialized = false;
}

// Work of another library's twin, which runs in its turn. Its state is copied; the memory that it uses is checked then.
EXPORT int trimtab_twin_ask(void* stream, const uint64_t* addresses, const size_t* bytes, unsigned n,
                            void (*call)(const void*), const void* state, size_t state_bytes) {
    GUARD;
    if (int error = enter()) return error;
    Operation op{Operation::CALL};
    op.call = call;
    op.state.assign(static_cast<const char*>(state), static_cast<const char*>(state) + state_bytes);
    for (unsigned i = 0; i < n; ++i) op.uses.emplace_back(addresses[i], bytes[i]);
    return ask(stream, std::move(op));
}

static void read_script() {
    const char* text = std::getenv("TRIMTAB_TWIN");
    if (!script) script = std::make_unique<Script>(text ? text : "");
}

API cuDriverGetVersion(int* version) {
    GUARD;
    read_script();
    *version = script->driver;
    return SUCCESS;
}

API cuInit(unsigned flags) {
    GUARD;
    read_script();
    if (flags) return INVALID_VALUE;
    if (int fault = fault_at("init")) return fault;
    if (script->cards == 0) return NO_DEVICE;
    is_initialized = true;
    return SUCCESS;
}

API cuDeviceGetCount(int* count) {
    GUARD;
    *count = script ? script->cards : 0;
    return is_initialized ? SUCCESS : NOT_INITIALIZED;
}

API cuDeviceGet(int* device, int ordinal) {
    GUARD;
    *device = ordinal;
    return card_of(ordinal);
}

API cuDeviceGetName(char* name, int len, int device) {
    GUARD;
    if (int error = card_of(device)) return error;
    std::snprintf(name, static_cast<size_t>(len), "emulated card %d (processor)", device);
    return SUCCESS;
}

API cuDeviceGetUuid_v2(unsigned char* uuid, int device) {
    GUARD;
    if (int error = card_of(device)) return error;
    std::memcpy(uuid, "trimtab's twin", 15);
    uuid[15] = static_cast<unsigned char>(device);
    return SUCCESS;
}

API cuDeviceTotalMem_v2(size_t* bytes, int device) {
    GUARD;
    if (int error = card_of(device)) return error;
    *bytes = script->memory;
    return SUCCESS;
}

API cuDeviceGetAttribute(int* value, int attribute, int device) {
    GUARD;
    if (int error = card_of(device)) return error;
    switch (attribute) {
        case 16: *value = 1; break;  // multiprocessors
        case 38: *value = 8 << 10; break;  // bytes of the second cache: few, for tests read many times as much
        case 75: *value = script->capability / 10; break;
        case 76: *value = script->capability % 10; break;
        default: return INVALID_VALUE;
    }
    return SUCCESS;
}

API cuDevicePrimaryCtxRetain(void** made, int device) {
    GUARD;
    if (int error = card_of(device)) return error;
    std::unique_ptr<Context>& context = contexts[device];
    if (!context) context.reset(new Context{device});
    ++context->retained;
    *made = context.get();
    return context->fault;
}

API cuDevicePrimaryCtxRelease_v2(int device) {
    GUARD;
    if (int error = card_of(device)) return error;
    const auto found = contexts.find(device);
    if (found == contexts.end() || found->second->retained == 0) return INVALID_CONTEXT;
    Context& context = *found->second;
    if (--context.retained > 0) return SUCCESS;
    context.memory.clear();
    context.allocated = 0;
    std::erase_if(objects<Stream>, [&](auto& entry) { return entry.second->context == &context; });
    std::erase_if(objects<Event>, [&](auto& entry) { return entry.second->context == &context; });
    std::erase_if(objects<Module>, [&](auto& entry) { return entry.second->context == &context; });
    std::erase_if(objects<Pinned>, [&](auto& entry) { return entry.second->context == &context; });
    std::erase_if(objects<Executable>, [&](auto& entry) { return entry.second->context == &context; });
    // A fault stays for as long as the process does: the same context comes back.
    return SUCCESS;
}

API cuCtxSetCurrent(void* context) {
    GUARD;
    if (!is_initialized) return NOT_INITIALIZED;
    bool is_known = !context;
    for (auto& [_, each] : contexts) is_known |= each.get() == context && each->retained > 0;
    if (!is_known) return INVALID_CONTEXT;
    current = static_cast<Context*>(context);
    return is_lost ? UNKNOWN : SUCCESS;
}

API cuModuleLoadData(void** module, const void* image) {
    GUARD;
    if (int error = enter_alone()) return error;
    if (int fault = fault_at("load")) return fault;
    if (reinterpret_cast<uintptr_t>(image) % 8 || *static_cast<const uint32_t*>(image) != 0xba55ed50) return INVALID_IMAGE;
    if (script->capability < 80) return NO_BINARY_FOR_GPU;
    *module = add(Module{current});
    return SUCCESS;
}

API cuModuleUnload(void* module) {
    GUARD;
    for (auto& [_, function] : objects<Function>)
        if (function->context == known<Module>(module).context) function->context = nullptr;
    return drop<Module>(module);
}

API cuModuleGetFunction(void** made, void* module, const char* name) {
    GUARD;
    if (int error = enter()) return error;
    // Its code may be loaded now.
    if (int error = enter_alone()) return error;
    Function function{known<Module>(module).context, name, 0, 0};
    if (trimtab_kernel(name, &function.arity, &function.pointers)) return NOT_FOUND;
    *made = add(std::move(function));
    return SUCCESS;
}

API cuStreamCreate(void** stream, unsigned flags) {
    GUARD;
    if (int error = enter_alone()) return error;
    if (flags > 1) return INVALID_VALUE;
    *stream = add(Stream{current});
    return SUCCESS;
}

API cuStreamDestroy_v2(void* stream) {
    GUARD;
    // The driver lets what waits be done.
    if (!known<Stream>(stream).context->fault) run(known<Stream>(stream));
    return drop<Stream>(stream);
}

API cuStreamSynchronize(void* stream) {
    GUARD;
    if (int error = enter_alone()) return error;
    return run(known<Stream>(stream));
}

API cuEventCreate(void** event, unsigned flags) {
    GUARD;
    if (int error = enter_alone()) return error;
    if (flags) return INVALID_VALUE;
    *event = add(Event{current, std::make_shared<Moment>()});
    return SUCCESS;
}

API cuEventDestroy_v2(void* event) {
    GUARD;
    return drop<Event>(event);
}

API cuEventRecord(void* handle, void* stream) {
    GUARD;
    // What a capture makes of an event is no time.
    if (int error = enter_alone()) return error;
    Event& event = known<Event>(handle);
    if (event.context != current) return INVALID_HANDLE;
    Operation op{Operation::MARK};
    op.moment = event.moment;
    ++event.moment->asked;
    return ask(stream, std::move(op));
}

API cuEventElapsedTime_v2(float* milliseconds, void* first, void* second) {
    GUARD;
    if (int error = enter()) return error;
    const Moment &from = *known<Event>(first).moment, &to = *known<Event>(second).moment;
    if (!from.asked || !to.asked) return INVALID_HANDLE;
    if (from.reached != from.asked || to.reached != to.asked) return NOT_READY;
    *milliseconds = std::chrono::duration<float, std::milli>(to.at - from.at).count();
    return SUCCESS;
}

API cuMemAlloc_v2(uint64_t* address, size_t bytes) {
    GUARD;
    if (int error = enter_alone()) return error;
    if (bytes == 0) return INVALID_VALUE;
    if (int fault = fault_at("allocate")) return fault;
    const size_t taken = (bytes + GRANULE - 1) / GRANULE * GRANULE;
    if (taken < bytes || current->allocated > script->memory || taken > script->memory - current->allocated)
        return OUT_OF_MEMORY;
    // Every address is a multiple of 256.
    Allocation made{bytes, std::unique_ptr<char[]>(new (std::nothrow) char[bytes + MARGIN + 256])};
    if (!made.memory) return OUT_OF_MEMORY;
    *address = (reinterpret_cast<uintptr_t>(made.memory.get()) + 255) & ~uintptr_t{255};
    std::memset(reinterpret_cast<void*>(*address), UNSET, bytes);
    std::memset(reinterpret_cast<char*>(*address) + bytes, UNTOUCHED, MARGIN);
    current->memory.emplace(*address, std::move(made));
    current->allocated += taken;
    return SUCCESS;
}

API cuMemFree_v2(uint64_t address) {
    GUARD;
    if (int error = enter_alone()) return error;
    const auto found = current->memory.find(address);
    if (found == current->memory.end()) refuse("memory is given back that is not there");
    check_margin(found->first, found->second);
    current->allocated -= (found->second.bytes + GRANULE - 1) / GRANULE * GRANULE;
    current->memory.erase(found);
    return SUCCESS;
}

API cuMemHostAlloc(void** address, size_t bytes, unsigned flags) {
    GUARD;
    if (int error = enter_alone()) return error;
    if (bytes == 0 || flags) return INVALID_VALUE;
    Pinned made{current, std::unique_ptr<char[]>(new (std::nothrow) char[bytes])};
    if (!made.memory) return OUT_OF_MEMORY;
    std::memset(made.memory.get(), UNSET, bytes);
    *address = made.memory.get();
    objects<Pinned>.emplace(*address, std::make_unique<Pinned>(std::move(made)));
    return SUCCESS;
}

API cuMemFreeHost(void* address) {
    GUARD;
    for (auto& [_, stream] : objects<Stream>)
        if (!stream->waiting.empty() && !stream->context->fault) refuse("pinned memory is given back before it was copied");
    return drop<Pinned>(address);
}

API cuMemsetD8Async(uint64_t address, unsigned char value, size_t bytes, void* stream) {
    GUARD;
    if (int error = enter()) return error;
    if (!is_inside(*current, address, bytes)) return INVALID_VALUE;
    Operation op{Operation::SET, address, bytes, value};
    return ask(stream, std::move(op));
}

API cuMemcpyHtoDAsync_v2(uint64_t address, const void* host, size_t bytes, void* stream) {
    GUARD;
    Operation op{Operation::TO_CARD, address, bytes, 0, const_cast<void*>(host)};
    op.seen.assign(static_cast<const char*>(host), static_cast<const char*>(host) + bytes);
    return copy(stream, std::move(op));
}

API cuMemcpyDtoHAsync_v2(void* host, uint64_t address, size_t bytes, void* stream) {
    GUARD;
    return copy(stream, Operation{Operation::TO_HOST, address, bytes, 0, host});
}

API cuLaunchKernel(void* handle, unsigned x, unsigned y, unsigned z, unsigned threads, unsigned ty, unsigned tz,
                   unsigned shared, void* stream, void** params, void** extra) {
    GUARD;
    if (int error = enter()) return error;
    const Function& function = known<Function>(handle);
    if (function.context != current) return INVALID_HANDLE;
    const bool is_grid = x && y && z && x <= 0x7fffffff && y <= 0xffff && z <= 0xffff;
    if (!is_grid || !threads || threads > 1024 || ty != 1 || tz != 1 || shared || extra) return INVALID_VALUE;
    Operation op{Operation::LAUNCH};
    op.kernel = function.name;
    op.grid[0] = x, op.grid[1] = y, op.grid[2] = z;
    op.threads = threads;
    op.pointers = function.pointers;
    for (unsigned i = 0; i < function.arity; ++i) op.args.push_back(*static_cast<uint64_t*>(params[i]));
    return ask(stream, std::move(op));
}

API cuStreamBeginCapture_v2(void* handle, int mode) {
    GUARD;
    if (int error = enter()) return error;
    Stream& stream = known<Stream>(handle);
    if (mode < 0 || mode > 2) return INVALID_VALUE;
    if (stream.is_capturing) return CAPTURE_UNSUPPORTED;
    stream.is_capturing = true;
    return SUCCESS;
}

API cuStreamEndCapture(void* handle, void** graph) {
    GUARD;
    *graph = nullptr;
    if (int error = enter()) return error;
    Stream& stream = known<Stream>(handle);
    if (!stream.is_capturing) return INVALID_VALUE;
    const bool is_invalid = stream.is_invalid;
    Operations steps;
    steps.swap(stream.captured);
    stream.is_capturing = stream.is_invalid = false;
    if (is_invalid) return CAPTURE_INVALIDATED;
    *graph = add(Graph{std::move(steps)});
    return SUCCESS;
}

API cuGraphInstantiateWithFlags(void** made, void* graph, unsigned long long flags) {
    GUARD;
    if (int error = enter_alone()) return error;
    if (flags) return INVALID_VALUE;
    *made = add(Executable{current, known<Graph>(graph).steps});
    return SUCCESS;
}

API cuGraphDestroy(void* graph) {
    GUARD;
    return drop<Graph>(graph);
}

API cuGraphExecDestroy(void* graph) {
    GUARD;
    return drop<Executable>(graph);
}

API cuGraphLaunch(void* graph, void* stream) {
    GUARD;
    if (int error = enter_alone()) return error;
    for (const Operation& op : known<Executable>(graph).steps)
        if (int error = ask(stream, op)) return error;
    return SUCCESS;
}
