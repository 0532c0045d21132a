/* The shared page, and how programs find functions of the driver: here they find ours. */
#include "shim.h"

struct page *page;
struct seat *seat;
static void *(*real_dlsym)(void *, const char *);
pthread_once_t once = PTHREAD_ONCE_INIT;

void say(const char *what) {
    fprintf(stderr, "singularity: device sharing: %s\n", what);
}

static void *mapped(const char *path) {
    int file = open(path, O_RDWR | O_CLOEXEC);
    if (file < 0) return 0;
    void *found = mmap(0, PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    return found == MAP_FAILED ? 0 : found;
}

void set_up(void) {
    static const char *const versions[] = {"GLIBC_2.34", "GLIBC_2.17", "GLIBC_2.2.5"};
    for (int i = 0; i < 3 && !real_dlsym; i++)
        *(void **)&real_dlsym = dlvsym(RTLD_NEXT, "dlsym", versions[i]);
    const char *path = getenv("SINGULARITY_SHIM_PAGE"), *slot = getenv("SINGULARITY_SHIM_SLOT");
    const char *sits = getenv("SINGULARITY_SHIM_SEAT");
    if (!path || !(slot || sits)) return;
    static struct seat fixed;
    fixed.slot = slot ? (uint32_t)atoi(slot) : 0;
    struct page *found = mapped(path);
    seat = sits ? mapped(sits) : &fixed;
    int any = !sits && !strcmp(slot, "any");
    if (!found || found->magic != MAGIC || !seat || seat->slot >= SLOTS) {
        say("the page that the environment names cannot be used; nothing is enforced here");
        return;
    }
    page = found;
    if (any) seat = any_seat();
    me->pid = (uint32_t)getpid();
    if (me->status == ABSENT) me->status = LOADED;
}

void *plain_symbol(void *library, const char *name) {
    return real_dlsym(library, name);
}

void *driver_symbol(const char *name) {
    static void *library;
    if (!library) library = dlopen("libcuda.so.1", RTLD_NOW);
    return library ? real_dlsym(library, name) : 0;
}

/* -- how programs find functions ------------------------------------------------------------------ */

#define LAUNCH(name) {#name, name, 1}, {#name "_ptsz", name##_ptsz, 1}
#define CALL(name) {#name, name, 0}
#define ALSO(name) {#name, name##_v2, 0}, {#name "_v2", name##_v2, 0}
static const struct { const char *name; void *ours; int launch; } hooks[] = {
    LAUNCH(cuLaunchKernel), LAUNCH(cuLaunchKernelEx), LAUNCH(cuLaunchCooperativeKernel),
    LAUNCH(cuGraphLaunch), CALL(cuStreamSynchronize), CALL(cuStreamSynchronize_ptsz),
    CALL(cuCtxSynchronize), ALSO(cuStreamDestroy), CALL(cuModuleLoadData), CALL(cuModuleLoadDataEx),
    CALL(cuModuleGetFunction), CALL(cuModuleUnload), CALL(cuFuncSetAttribute),
    CALL(cuLibraryLoadData), CALL(cuLibraryGetKernel), CALL(cuKernelGetFunction),
    CALL(cuKernelSetAttribute), CALL(cuLibraryUnload), ALSO(cuMemAlloc),
    CALL(cuMemAllocManaged), ALSO(cuMemAllocPitch), CALL(cuMemAllocAsync),
    CALL(cuMemAllocAsync_ptsz), CALL(cuMemAllocFromPoolAsync), CALL(cuMemAllocFromPoolAsync_ptsz),
    CALL(cuMemCreate), ALSO(cuArrayCreate), ALSO(cuArray3DCreate), CALL(cuMipmappedArrayCreate),
    ALSO(cuMemFree), CALL(cuMemFreeAsync), CALL(cuMemFreeAsync_ptsz), CALL(cuMemRelease),
    CALL(cuArrayDestroy), CALL(cuMipmappedArrayDestroy), ALSO(cuDevicePrimaryCtxReset),
    ALSO(cuMemGetInfo), ALSO(cuDeviceTotalMem), CALL(cuGetProcAddress_v2), CALL(cuGetProcAddress),
};

static void *ours(const char *name) {
    for (size_t i = 0; i < sizeof hooks / sizeof *hooks; i++)
        if (!strcmp(hooks[i].name, name)) {
            if (page && hooks[i].launch) me->handed++;
            return hooks[i].ours;
        }
    return 0;
}

API Result cuGetProcAddress_v2(const char *name, void **found, int version, uint64_t flags, int *how) {
    pthread_once(&once, set_up);
    Result (*ask)(const char *, void **, int, uint64_t, int *) = REAL(cuGetProcAddress_v2, void *);
    Result code = ask ? ask(name, found, version, flags, how) : NOT_FOUND;
    if (code != OK || !*found) return code;
    if (!strcmp(name, "cuGetProcAddress")) {
        *found = version >= 12000 ? (void *)cuGetProcAddress_v2 : (void *)cuGetProcAddress;
        return code;
    }
    char of_thread[96];
    snprintf(of_thread, sizeof of_thread, "%s_ptsz", name);
    void *hook = flags & PER_THREAD ? ours(of_thread) : 0;
    if (hook || (hook = ours(name))) *found = hook;
    return code;
}

API Result cuGetProcAddress(const char *name, void **found, int version, uint64_t flags) {
    return cuGetProcAddress_v2(name, found, version, flags, 0);
}

/* With anything but a function of the driver, this must end in a jump: glibc tells RTLD_NEXT by
 * the address that it will return to. */
API void *dlsym(void *handle, const char *name) {
    pthread_once(&once, set_up);
    int of_nvrtc = !strcmp(name, "nvrtcGetCUBIN");
    if (!of_nvrtc && (name[0] != 'c' || name[1] != 'u')) return real_dlsym(handle, name);
    void *found = real_dlsym(handle, name), *hook = 0;
    if (found) hook = of_nvrtc ? in_place_of_nvrtc(found) : ours(name);
    return hook ? hook : found;
}
