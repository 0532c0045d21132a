/* A stand-in for the CUDA driver with streams that work: each is a thread, a kernel is waves of
 * blocks that take their time, waits and events do what the driver says of them. One device of
 * $STANDIN_UNITS units; of the waves that want it, one runs at a time.
 *
 * Kernels are known by name. kernelParams[0] points to the microseconds of a wave. `exact` also
 * takes [1] control block {flag, aborted}, [2] bitmap, [3] counts, and does for every block what the
 * injected prologue does: flag 1, a block notes itself and leaves; 2, only noted blocks run.
 * $STANDIN_TRACE is a file of 64 bytes: nanoseconds when the last wave began and ended, and waves.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

typedef int Result;
typedef unsigned long long Ptr;
enum { OK = 0, INVALID = 1, OUT_OF_MEMORY = 2, NOT_FOUND = 500, NOT_READY = 600 };
enum { KERNEL, WAIT, EVENT };

struct event { volatile uint32_t recorded, done; }; /* how often; the last time is what counts */
struct op {
    struct op *next;
    int kind;
    uint32_t blocks, wave_us, value;
    volatile uint32_t *word, *control, *map, *counts;
    struct event *event;
};
struct stream {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct op *first, **last;
    uint64_t given, done;
};

static volatile uint64_t nowhere[8], *trace = nowhere;
static uint32_t units = 8;
static size_t memory_bytes = (size_t)1 << 30, used_bytes;
static pthread_mutex_t device = PTHREAD_MUTEX_INITIALIZER;

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void pass_us(uint32_t us) {
    for (uint64_t until = now_ns() + us * 1000ull, now; (now = now_ns()) < until;)
        if (until - now > 90000) {
            struct timespec most = {0, (long)(until - now - 60000)};
            nanosleep(&most, 0);
        }
}

static void run_wave(struct op *op, uint32_t first) {
    uint32_t will = 0, mine[64];
    for (uint32_t b = first; b < op->blocks && b < first + units; b++) {
        uint32_t bit = 1u << (b & 31), flag = op->control ? op->control[0] : 0;
        if (flag == 1) {
            __sync_fetch_and_or(&op->map[b >> 5], bit);
            __sync_fetch_and_add(&op->control[1], 1);
        } else if (flag != 2 || __sync_fetch_and_and(&op->map[b >> 5], ~bit) & bit) {
            mine[will++] = b;
        }
    }
    if (!will) return;
    pthread_mutex_lock(&device);
    trace[0] = now_ns();
    pass_us(op->wave_us);
    trace[1] = now_ns();
    trace[2]++;
    pthread_mutex_unlock(&device);
    for (uint32_t i = 0; op->counts && i < will; i++) op->counts[mine[i]]++;
}

static void carry_out(struct op *op) {
    if (op->kind == KERNEL)
        for (uint32_t b = 0; b < op->blocks; b += units) run_wave(op, b);
    for (int spins = 0; op->kind == WAIT && *op->word != op->value; spins++)
        if (spins > 64) usleep(5);
    if (op->kind == EVENT) op->event->done = op->value;
}

static void *serve(void *argument) {
    struct stream *s = argument;
    pthread_mutex_lock(&s->lock);
    for (;;) {
        while (!s->first) pthread_cond_wait(&s->changed, &s->lock);
        struct op *op = s->first;
        pthread_mutex_unlock(&s->lock);
        carry_out(op);
        pthread_mutex_lock(&s->lock);
        if (!(s->first = op->next)) s->last = &s->first;
        s->done++;
        pthread_cond_broadcast(&s->changed);
        free(op);
    }
    return 0;
}

static struct stream *make(void) {
    struct stream *s = calloc(1, sizeof *s);
    pthread_t thread;
    pthread_mutex_init(&s->lock, 0);
    pthread_cond_init(&s->changed, 0);
    s->last = &s->first;
    pthread_create(&thread, 0, serve, s);
    return s;
}

static struct stream *of(void *handle) {
    static struct stream *first, *of_thread;
    if (handle == (void *)2) return of_thread ? of_thread : (of_thread = make());
    return handle ? handle : first ? first : (first = make());
}

static Result give(void *handle, struct op op) {
    struct stream *s = of(handle);
    struct op *kept = malloc(sizeof op);
    *kept = op, kept->next = 0;
    pthread_mutex_lock(&s->lock);
    *s->last = kept, s->last = &kept->next;
    s->given++;
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->lock);
    return OK;
}

Result cuInit(unsigned flags) {
    const char *path = getenv("STANDIN_TRACE"), *of_device = getenv("STANDIN_UNITS");
    if (of_device) units = (uint32_t)atoi(of_device);
    int file = path ? open(path, O_RDWR) : -1;
    if (file >= 0) {
        void *found = mmap(0, 64, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
        if (found != MAP_FAILED) trace = found;
        close(file);
    }
    return flags ? INVALID : OK;
}
Result cuDriverGetVersion(int *version) { return (*version = 13000), OK; }
Result cuDeviceGetCount(int *count) { return (*count = 1), OK; }
Result cuDeviceGet(int *found, int number) { return (*found = number), number ? INVALID : OK; }
Result cuDeviceGetName(char *name, int room, int number) {
    return snprintf(name, (size_t)room, "stand-in"), number ? INVALID : OK;
}
Result cuDeviceGetUuid_v2(unsigned char *uuid, int number) {
    return memset(uuid, 7, 16), number ? INVALID : OK;
}
Result cuDeviceTotalMem_v2(size_t *bytes, int number) {
    return (*bytes = memory_bytes), number ? INVALID : OK;
}
Result cuDeviceGetAttribute(int *value, int which, int number) {
    return (*value = which == 16 ? (int)units : 1), number ? INVALID : OK;
}
Result cuDevicePrimaryCtxRetain(void **context, int number) {
    return (*context = &units), number ? INVALID : OK;
}
Result cuDevicePrimaryCtxRelease_v2(int number) { return number ? INVALID : OK; }
Result cuCtxSetCurrent(void *context) { return context ? OK : INVALID; }
Result cuCtxGetCurrent(void **context) { return (*context = &units), OK; }
Result cuMemHostRegister_v2(void *at, size_t bytes, unsigned flags) {
    return at && bytes && flags ? OK : INVALID;
}
Result cuMemHostGetDevicePointer_v2(Ptr *found, void *at, unsigned flags) {
    return (*found = (Ptr)(uintptr_t)at), flags ? INVALID : OK;
}
Result cuMemAlloc_v2(Ptr *found, size_t bytes) {
    if (used_bytes + bytes > memory_bytes) return OUT_OF_MEMORY;
    size_t *kept = calloc(1, sizeof *kept + 4096); /* of what a kernel may touch here */
    kept[0] = bytes, used_bytes += bytes;
    return (*found = (Ptr)(uintptr_t)(kept + 1)), OK;
}
Result cuMemFree_v2(Ptr at) {
    size_t *kept = (size_t *)(uintptr_t)at - 1;
    used_bytes -= kept[0];
    return free(kept), OK;
}
Result cuMemAllocManaged(Ptr *found, size_t bytes, unsigned flags) {
    return flags ? cuMemAlloc_v2(found, bytes) : INVALID;
}
Result cuMemAllocAsync(Ptr *found, size_t bytes, void *handle) {
    return of(handle) ? cuMemAlloc_v2(found, bytes) : INVALID;
}
Result cuMemFreeAsync(Ptr at, void *handle) { return of(handle) ? cuMemFree_v2(at) : INVALID; }
Result cuMemCreate(Ptr *found, size_t bytes, const void *kind, unsigned long long flags) {
    return (void)kind, flags ? INVALID : cuMemAlloc_v2(found, bytes);
}
Result cuMemRelease(Ptr at) { return cuMemFree_v2(at); }
Result cuMemGetInfo_v2(size_t *left, size_t *total) {
    return (*total = memory_bytes), (*left = memory_bytes - used_bytes), OK;
}
Result cuStreamCreate(void **found, unsigned flags) { return (*found = make()), (void)flags, OK; }
Result cuStreamCreateWithPriority(void **found, unsigned flags, int priority) {
    return (void)priority, cuStreamCreate(found, flags);
}
Result cuStreamIsCapturing(void *handle, int *status) { return (void)handle, (*status = 0), OK; }
Result cuStreamSynchronize(void *handle) {
    struct stream *s = of(handle);
    pthread_mutex_lock(&s->lock);
    for (uint64_t all = s->given; s->done < all;) pthread_cond_wait(&s->changed, &s->lock);
    return pthread_mutex_unlock(&s->lock), OK;
}
Result cuCtxSynchronize(void) { return cuStreamSynchronize(0); }
Result cuEventCreate(void **found, unsigned flags) {
    return (*found = calloc(1, sizeof(struct event))), (void)flags, OK;
}
Result cuEventRecord(void *found, void *handle) {
    uint32_t number = ++((struct event *)found)->recorded;
    return give(handle, (struct op){.kind = EVENT, .event = found, .value = number});
}
Result cuEventQuery(void *found) {
    struct event *event = found;
    return event->done == event->recorded ? OK : NOT_READY;
}
Result cuEventSynchronize(void *found) {
    while (cuEventQuery(found) != OK) usleep(5);
    return OK;
}
Result cuStreamWaitValue32_v2(void *handle, Ptr word, uint32_t value, unsigned flags) {
    if (flags != 1) return INVALID; /* equal is all that is asked for */
    volatile uint32_t *at = (volatile uint32_t *)(uintptr_t)word;
    return give(handle, (struct op){.kind = WAIT, .word = at, .value = value});
}
Result cuModuleLoadData(void **found, const void *image) { return (*found = &units), image ? OK : INVALID; }
Result cuModuleGetFunction(void **found, void *module, const char *name) {
    return (*found = strdup(name)), module ? OK : INVALID;
}
Result cuLaunchKernel(void *f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by,
                      unsigned bz, unsigned shared, void *handle, void **params, void **more) {
    struct op op = {.kind = KERNEL, .blocks = gx * gy * gz, .wave_us = *(uint32_t *)params[0]};
    if (!strcmp(f, "exact"))
        op.control = *(uint32_t **)params[1], op.map = *(uint32_t **)params[2],
        op.counts = *(uint32_t **)params[3];
    return (void)shared, (void)more, bx * by * bz > 0 ? give(handle, op) : INVALID;
}
Result cuLaunchKernel_ptsz(void *f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by,
                           unsigned bz, unsigned shared, void *handle, void **params, void **more) {
    return cuLaunchKernel(f, gx, gy, gz, bx, by, bz, shared, handle ? handle : (void *)2, params, more);
}
Result cuGetProcAddress_v2(const char *name, void **found, int version, uint64_t flags, int *how) {
    char full[96];
    static const char *const endings[] = {"_ptsz", "_v2", ""};
    Dl_info here;
    (void)version;
    dladdr((void *)cuInit, &here);
    void *self = dlopen(here.dli_fname, RTLD_NOW | RTLD_NOLOAD);
    for (int i = flags & 2 ? 0 : 1; i < 3; i++) {
        snprintf(full, sizeof full, "%s%s", name, endings[i]);
        if ((*found = dlsym(self, full))) return how ? (*how = 0), OK : OK;
    }
    return NOT_FOUND;
}
