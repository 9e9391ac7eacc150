// What a profiler is to NVTX: a library that is asked, on first use, to put its own functions into NVTX's table.
// Writes a line for each range and mark to the file that NVTX_EVENTS names. Layouts as in nvToolsExt.h and nvtxTypes.h.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

struct Event {
    uint16_t version, size;
    uint32_t category;
    int32_t color_type;
    uint32_t color;
    int32_t payload_type, reserved;
    int64_t payload;
    int32_t message_type;
    const void* message;
};
enum { CALLBACKS = 1, CORE2 = 5, MARK = 1, PUSH = 4, POP = 5, REGISTER_A = 10, CREATE_A = 12, INT64 = 2, ASCII = 1, REGISTERED = 3 };
struct Callbacks {
    size_t size;
    int (*table_of)(int module, void**** table, unsigned* length);
};

static void line(const char* what, const void* domain, const Event* event) {
    FILE* file = fopen(getenv("NVTX_EVENTS"), "a");
    fprintf(file, "%s %s", what, (const char*)domain);
    if (event) {
        bool text = event->message_type == ASCII || event->message_type == REGISTERED;
        fprintf(file, " %s %lld", text ? (const char*)event->message : "?", event->payload_type == INT64 ? (long long)event->payload : -1);
    }
    fputc('\n', file);
    fclose(file);
}
static int push(void* domain, const Event* event) { line("push", domain, event); return 0; }
static int pop(void* domain) { line("pop", domain, nullptr); return 0; }
static void mark(void* domain, const Event* event) { line("mark", domain, event); }
static void* create(const char* name) { return strdup(name); }
static void* register_string(void*, const char* text) { return strdup(text); }

extern "C" int InitializeInjectionNvtx2(const void* (*export_table)(uint32_t)) {
    const Callbacks* callbacks = (const Callbacks*)export_table(CALLBACKS);
    void*** table = nullptr;
    unsigned length = 0;
    if (!callbacks || !callbacks->table_of(CORE2, &table, &length) || length <= CREATE_A) return 0;
    *table[MARK] = (void*)mark;
    *table[PUSH] = (void*)push;
    *table[POP] = (void*)pop;
    *table[REGISTER_A] = (void*)register_string;
    *table[CREATE_A] = (void*)create;
    return 1;
}
