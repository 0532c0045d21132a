/* Loaded before the CUDA driver (LD_PRELOAD) into a process that shares a device with others.
 *
 * Best-effort processes: a window bounds how many launches are in flight, and each launch is put
 * behind a wait for the gate, one word of a page that the agent and all processes of the device
 * share. Where they exist as PTX, kernels at work are left block by block and repaired (yield.c).
 * Real-time processes: the first launch after idleness closes the gate, and a thread opens it
 * when nothing has been in flight for the hold-off. Both: a cap on memory, answered as the driver
 * answers when it has none left.
 *
 * Environment: SINGULARITY_SHIM_PAGE (path) and SINGULARITY_SHIM_SLOT (number, or "any": the page is
 * of one container and its processes take slots by themselves), or instead of the number
 * SINGULARITY_SHIM_SEAT (path, see struct seat). Without a page every call is passed on.
 * Programs find the driver's functions in three ways, all of which lead here: linked, by dlsym, by
 * cuGetProcAddress. The layout of the page is also in page.py.
 */
#pragma once
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define API __attribute__((visibility("default")))
typedef int Result;
typedef unsigned long long Ptr;

enum { OK = 0, OUT_OF_MEMORY = 2, NOT_FOUND = 500, NOT_READY = 600 };
enum { ALREADY_REGISTERED = 712 };
enum { MAGIC = 0x53475331, SLOTS = 30, PAGE_BYTES = 4096, RING = 128, BLIND_SYNCS = 64 };
#define LONG_NS 10000000000u /* no launch waits so long, nor does the thread below sleep so long */
#define AT_ONCE_NS 50000u    /* what was launched so lately may not be seen in flight yet */
enum { PARAMETERS = 128 };
enum { RT = 1, BE = 2 };                    /* class of a slot */
enum { WINDOW = 1, STALL = 2, STRICT = 4, YIELD = 8 }; /* mode */
enum { ABSENT, LOADED, SEEING, BLIND };     /* status */
#define AGENT (1u << 31)                    /* of the gate; the other bits are those of slots */
enum { WAIT_EQ = 1, DEVICEMAP = 2, NO_TIMING = 2, NON_BLOCKING = 1, PER_THREAD = 2, RELAXED = 2 };

struct slot { /* 128 bytes */
    _Atomic uint32_t class, pid, status, syncs;
    _Atomic uint64_t launched, completed, gated, blocked_ns, used_bytes, cap_bytes, denied, raised;
    _Atomic uint64_t whole, handed, busy_ns, left, repairs, mended;
};
struct page {
    _Atomic uint32_t magic, gate, mode, window, gate_every, hold_off_us;
    _Atomic uint64_t shut_ns, shut_since_ns, agent_until_ns;
    _Atomic uint64_t together_bytes; /* cap of all processes of the page; 0: each has its own */
    uint32_t spare[18];
    struct slot slots[SLOTS];
};
_Static_assert(sizeof(struct slot) == 128 && sizeof(struct page) <= PAGE_BYTES, "layout");

/* Where this process has its slot. The agent changes it when the process is brought back on another
 * device, and counts how often it has: what was said to the device before is not known there. */
struct seat {
    _Atomic uint32_t slot, life;
};

/* Null where nothing is to be enforced. */
extern struct page *page;
extern struct seat *seat;
extern pthread_once_t once;
#define me (&page->slots[seat->slot % SLOTS])
#define my_bit (1u << seat->slot % SLOTS)

void set_up(void);
struct seat *any_seat(void);        /* one that is free; all processes of the page see each other */
uint64_t cap_bytes(void);           /* 0: none */
uint64_t used_bytes(void);          /* of what the cap is for */
void disown_all(void);              /* what the parent of this process has */
void say(const char *what);
void *driver_symbol(const char *name);
void *plain_symbol(void *library, const char *name); /* as if we were not there */

/* A function of the driver by name, looked up once. */
#define REAL(name, type)                                                       \
    ({                                                                         \
        static _Atomic(void *) kept;                                           \
        if (!kept) pthread_once(&once, set_up), kept = driver_symbol(#name);   \
        (type) kept;                                                           \
    })

typedef Result (*OnStream)(void *);
typedef Result (*WithEvent)(void *, void *);

/* One launch as it was asked for. `can_yield`: its blocks may begin one at a time. */
struct call {
    void *function;
    unsigned grid[6], shared;
    void *stream, **params, **extra;
    const void *config;
    int can_yield;
};

/* A kernel that can yield, and what runs in its place; of its parameters, the last is the ticket, and
 * the program gives `given`. */
struct kernel {
    struct kernel *next;
    void *function, *variant, *module;
    unsigned count, given;
    size_t at[PARAMETERS], bytes[PARAMETERS];
};

struct arena;
struct ticket { struct call call; struct arena *arena; uint32_t number; void *extra[5]; };
int yielding(void); /* is this a process whose kernels are to yield? */
char *with_prologue(const char *source);
char *text_of(const char *code); /* the PTX of what NVRTC made, to be freed; null: it is not known */
void *in_place_of_nvrtc(void *real);
const struct kernel *kernel_of(void *function);
int take_ticket(struct ticket *ticket, struct arena **of_stream, const struct call *call);
int ticket_used(struct ticket *ticket, Result result);
void arena_idle(struct arena *arena);
Result plain_launch(const struct call *call);
Ptr gate_on_device(void); /* 0: the device cannot see it */
void gate_in_graph(void *stream);

/* What stands in the driver's place: their types are those of the driver. */
#define GRID unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared
#define ON_STREAM(suffix)                                                                  \
    API Result cuLaunchKernel##suffix(void *f, GRID, void *st, void **params, void **more); \
    API Result cuLaunchCooperativeKernel##suffix(void *f, GRID, void *st, void **params);  \
    API Result cuLaunchKernelEx##suffix(const void *config, void *f, void **params, void **more); \
    API Result cuGraphLaunch##suffix(void *graph, void *st);                               \
    API Result cuStreamSynchronize##suffix(void *st);                                      \
    API Result cuMemAllocAsync##suffix(Ptr *found, size_t bytes, void *st);                \
    API Result cuMemAllocFromPoolAsync##suffix(Ptr *found, size_t bytes, void *pool, void *st); \
    API Result cuMemFreeAsync##suffix(Ptr key, void *st);
ON_STREAM()
ON_STREAM(_ptsz)
API int nvrtcGetCUBIN(void *program, void *code);
API Result cuCtxSynchronize(void);
API Result cuStreamDestroy_v2(void *st);
API Result cuModuleLoadData(void **module, const void *image);
API Result cuModuleLoadDataEx(void **module, const void *image, unsigned count, void *options, void **values);
API Result cuModuleGetFunction(void **function, void *module, const char *name);
API Result cuModuleUnload(void *module);
API Result cuLibraryLoadData(void **library, const void *image, void *options, void **values, unsigned count,
                             void *more, void **their_values, unsigned how_many);
API Result cuLibraryGetKernel(void **kernel, void *library, const char *name);
API Result cuKernelGetFunction(void **function, void *kernel);
API Result cuKernelSetAttribute(int which, int value, void *kernel, int device);
API Result cuLibraryUnload(void *library);
API Result cuFuncSetAttribute(void *function, int which, int value);
API Result cuMemAlloc_v2(Ptr *found, size_t bytes);
API Result cuMemAllocManaged(Ptr *found, size_t bytes, unsigned flags);
API Result cuMemAllocPitch_v2(Ptr *found, size_t *pitch, size_t width, size_t height, unsigned unit);
API Result cuMemCreate(Ptr *handle, size_t bytes, const void *kind, unsigned long long flags);
API Result cuArrayCreate_v2(void **array, const void *shape);
API Result cuArray3DCreate_v2(void **array, const void *shape);
API Result cuMipmappedArrayCreate(void **array, const void *shape, unsigned levels);
API Result cuMemFree_v2(Ptr key);
API Result cuMemRelease(Ptr key);
API Result cuArrayDestroy(void *key);
API Result cuMipmappedArrayDestroy(void *key);
API Result cuDevicePrimaryCtxReset_v2(int device);
API Result cuMemGetInfo_v2(size_t *left, size_t *total);
API Result cuDeviceTotalMem_v2(size_t *bytes, int device);
API Result cuGetProcAddress_v2(const char *name, void **found, int version, uint64_t flags, int *how);
API Result cuGetProcAddress(const char *name, void **found, int version, uint64_t flags);

/* For the agent: the gate is written by processes of all kinds at once. */
API void singularity_gate(struct page *of, uint32_t close, uint32_t open);
