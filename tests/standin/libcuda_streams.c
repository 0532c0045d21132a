/* A stand-in for the CUDA driver with streams that work: each is a thread, a kernel is waves of
 * blocks that take their time, waits and events do what the driver says of them. One device of
 * $STANDIN_UNITS units; of the waves that want it, one runs at a time.
 *
 * A module of PTX text is carried out (ptx.h): memory of the device is the host's, and a wave is over
 * when its last block is. Any other module has kernels of all names, that pass time: kernelParams[0]
 * points to the microseconds of a wave.
 * $STANDIN_TRACE is a file of 64 bytes: nanoseconds when the last wave began and ended, and waves.
 */
#include "streams.h"
#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

struct module { struct ptx_module *ptx; };
struct function { struct ptx_kernel *ptx; };

static volatile uint64_t nowhere[8], *trace = nowhere;
static uint32_t units = 8;
static size_t memory_bytes = (size_t)1 << 30, used_bytes;
static pthread_mutex_t device = PTHREAD_MUTEX_INITIALIZER;

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void pass_until(uint64_t until) {
    for (uint64_t now; (now = now_ns()) < until;)
        if (until - now > 90000) {
            struct timespec most = {0, (long)(until - now - 60000)};
            nanosleep(&most, 0);
        }
}
static void pass_us(uint32_t us) { pass_until(now_ns() + us * 1000ull); }

static void run_wave(struct op *op, uint32_t first) {
    struct ptx_block *block[64] = {0};
    uint32_t end = first + units < op->blocks ? first + units : op->blocks, left = 0;
    uint64_t began_ns = now_ns();
    int slept = op->kind == KERNEL;
    if (slept) pass_us(op->wave_us);
    for (uint32_t b = first; op->kind == PTX && b < end; b++, left++)
        block[b - first] = ptx_begin(op->kernel, op->grid, op->shared, op->values, b);
    while (left) {
        uint64_t until_ns = UINT64_MAX, wakes_ns;
        for (uint32_t n = 0; n < end - first; n++) {
            if (!block[n]) continue;
            if (ptx_run(block[n], &wakes_ns) == PTX_ENDED)
                ptx_free(block[n]), block[n] = 0, left--;
            else if (wakes_ns < until_ns)
                until_ns = wakes_ns;
        }
        if (left) slept = 1, trace[0] = began_ns, pass_until(until_ns);
    }
    if (!slept) return; /* nobody was kept from the device */
    trace[0] = began_ns, trace[1] = now_ns(), trace[2]++;
}

static void run_grid(struct op *op) {
    for (uint32_t b = 0; b < op->blocks; b += units) {
        pthread_mutex_lock(&device);
        run_wave(op, b);
        pthread_mutex_unlock(&device);
    }
}

static void carry_out(struct op *op) {
    if (op->kind == KERNEL || op->kind == PTX) run_grid(op);
    for (int spins = 0; op->kind == WAIT && *op->word != op->value; spins++)
        if (spins > 64) usleep(5);
    __sync_synchronize();
    if (op->kind == WRITE) *op->word = op->value;
    if (op->kind == COPY) memcpy(op->to, op->values, op->bytes);
    if (op->kind == FILL) memset(op->to, (int)op->value, op->bytes);
    if (op->kind == EVENT) op->event->done = op->value;
    if (op->kind == PTX) free(op->values);
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

struct stream *of(void *handle) {
    static struct stream *first, *of_thread;
    if (handle == (void *)2) return of_thread ? of_thread : (of_thread = make());
    return handle ? handle : first ? first : (first = make());
}

Result give(void *handle, struct op op) {
    struct stream *s = of(handle);
    if (s->graph) return captured(s->graph, op);
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
/* What NVIDIA's libraries ask of each other; they do without. */
Result cuGetExportTable(const void **table, const void *id) {
    return (*table = 0), id ? NOT_FOUND : INVALID;
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
    size_t *kept = calloc(1, sizeof *kept + bytes);
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
Result cuMemAllocFromPoolAsync(Ptr *found, size_t bytes, void *pool, void *handle) {
    return pool ? cuMemAllocAsync(found, bytes, handle) : INVALID;
}
Result cuMemAllocPitch_v2(Ptr *found, size_t *pitch, size_t width, size_t height, unsigned unit) {
    return (*pitch = (width + 511) / 512 * 512), unit ? cuMemAlloc_v2(found, *pitch * height) : INVALID;
}
/* Arrays are of bytes here. */
Result cuArrayCreate_v2(void **found, const size_t *shape) {
    return cuMemAlloc_v2((Ptr *)found, shape[0] * (shape[1] ? shape[1] : 1));
}
Result cuArray3DCreate_v2(void **found, const size_t *shape) {
    return cuMemAlloc_v2((Ptr *)found, shape[0] * shape[1] * shape[2]);
}
Result cuMipmappedArrayCreate(void **found, const size_t *shape, unsigned levels) {
    return levels ? cuArray3DCreate_v2(found, shape) : INVALID;
}
Result cuMipmappedArrayDestroy(void *array) { return cuMemFree_v2((Ptr)(uintptr_t)array); }
Result cuArrayDestroy(void *array) { return cuMemFree_v2((Ptr)(uintptr_t)array); }
Result cuDevicePrimaryCtxReset_v2(int number) { return (used_bytes = 0), number ? INVALID : OK; }
Result cuMemRelease(Ptr at) { return cuMemFree_v2(at); }
Result cuMemGetInfo_v2(size_t *left, size_t *total) {
    return (*total = memory_bytes), (*left = memory_bytes - used_bytes), OK;
}
Result cuStreamCreate(void **found, unsigned flags) { return (*found = make()), (void)flags, OK; }
Result cuStreamCreateWithPriority(void **found, unsigned flags, int priority) {
    return (void)priority, cuStreamCreate(found, flags);
}
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
Result cuStreamWriteValue32_v2(void *handle, Ptr word, uint32_t value, unsigned flags) {
    volatile uint32_t *at = (volatile uint32_t *)(uintptr_t)word;
    return flags ? INVALID : give(handle, (struct op){.kind = WRITE, .word = at, .value = value});
}
Result cuStreamDestroy_v2(void *handle) { return handle ? OK : INVALID; }
Result cuMemHostAlloc(void **found, size_t bytes, unsigned flags) {
    return (*found = calloc(1, bytes)), flags & 2 ? OK : INVALID;
}
Result cuMemcpyDtoHAsync_v2(void *to, Ptr from, size_t bytes, void *handle) {
    return give(handle, (struct op){.kind = COPY, .to = to, .values = (void *)(uintptr_t)from, .bytes = bytes});
}
Result cuMemcpyHtoDAsync_v2(Ptr to, const void *from, size_t bytes, void *handle) {
    return give(handle, (struct op){.kind = COPY, .to = (void *)(uintptr_t)to, .values = (void *)from, .bytes = bytes});
}
Result cuMemsetD8Async(Ptr to, unsigned char value, size_t bytes, void *handle) {
    return give(handle, (struct op){.kind = FILL, .to = (void *)(uintptr_t)to, .value = value, .bytes = bytes});
}
Result cuModuleLoadData(void **found, const void *image) {
    const char *text = image;
    struct module *m = calloc(1, sizeof *m);
    if (text && (*text == '.' || *text == '/' || *text == '\n') && !(m->ptx = ptx_load(text))) return BAD_PTX;
    return (*found = m), image ? OK : INVALID;
}
Result cuModuleLoadDataEx(void **found, const void *image, unsigned count, void *options, void **values) {
    return (void)count, (void)options, (void)values, cuModuleLoadData(found, image);
}
Result cuModuleUnload(void *module) { return module ? OK : INVALID; }
Result cuModuleGetFunction(void **found, void *module, const char *name) {
    struct function f = {0}, *kept;
    struct module *m = module;
    if (m->ptx && !(f.ptx = ptx_kernel(m->ptx, name))) return NOT_FOUND;
    kept = malloc(sizeof f);
    return (*kept = f), (*found = kept), OK;
}
Result cuModuleGetGlobal_v2(Ptr *found, size_t *bytes, void *module, const char *name) {
    struct module *m = module;
    void *at = m->ptx ? ptx_global(m->ptx, name, bytes) : 0;
    return (*found = (Ptr)(uintptr_t)at), at ? OK : NOT_FOUND;
}
Result cuFuncGetParamInfo(void *function, size_t number, size_t *at, size_t *bytes) {
    struct function *f = function;
    return f->ptx && ptx_parameter(f->ptx, number, at, bytes) ? OK : INVALID;
}
Result cuFuncGetAttribute(int *value, int which, void *function) {
    return (*value = which == 4 ? 16 : 0), function ? OK : INVALID;
}
Result cuFuncSetAttribute(void *function, int which, int value) {
    return function && which >= 0 && value >= 0 ? OK : INVALID;
}
/* A library is a module here, and its kernels have another handle in a context. */
Result cuLibraryLoadData(void **found, const void *image, void *options, void **values, unsigned count,
                         void *more, void **their_values, unsigned how_many) {
    (void)options, (void)values, (void)more, (void)their_values;
    return count || how_many ? INVALID : cuModuleLoadData(found, image);
}
Result cuLibraryGetKernel(void **found, void *library, const char *name) {
    return cuModuleGetFunction(found, library, name);
}
Result cuLibraryGetGlobal(Ptr *found, size_t *bytes, void *library, const char *name) {
    return cuModuleGetGlobal_v2(found, bytes, library, name);
}
Result cuKernelGetFunction(void **found, void *kernel) {
    struct function *kept = malloc(sizeof *kept);
    return (*kept = *(struct function *)kernel), (*found = kept), OK;
}
Result cuKernelGetParamInfo(void *kernel, size_t number, size_t *at, size_t *bytes) {
    return cuFuncGetParamInfo(kernel, number, at, bytes);
}
Result cuKernelSetAttribute(int which, int value, void *kernel, int device) {
    return device ? INVALID : cuFuncSetAttribute(kernel, which, value);
}
Result cuLibraryUnload(void *library) { return cuModuleUnload(library); }
static void *packed(const struct ptx_kernel *k, void **params, void **more) {
    unsigned char *values = calloc(1, ptx_values_bytes(k) + 8);
    size_t at, bytes;
    for (size_t i = 0; params && ptx_parameter(k, i, &at, &bytes); i++) memcpy(values + at, params[i], bytes);
    if (!params && more && more[0] == (void *)1) memcpy(values, more[1], *(size_t *)more[3]);
    return values;
}
Result cuLaunchKernel(void *f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by,
                      unsigned bz, unsigned shared, void *handle, void **params, void **more) {
    struct function *function = f;
    struct op op = {.kind = KERNEL, .blocks = gx * gy * gz, .grid = {gx, gy, gz, bx, by, bz}, .shared = shared};
    if (bx * by * bz == 0) return INVALID;
    if ((op.kernel = function->ptx))
        op.kind = PTX, op.values = packed(op.kernel, params, more);
    else
        op.wave_us = *(uint32_t *)params[0];
    return give(handle, op);
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
