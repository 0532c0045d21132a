/* How much memory of the device this process may take. */
#include "shim.h"

enum { ON_DEVICE = 1, LAYERED = 1, NOT_BACKED = 0xC0 }; /* sparse arrays, and those mapped later */

struct block {
    struct block *next;
    Ptr key;
    uint64_t bytes;
};
static struct block *blocks[4096];
static pthread_mutex_t blocks_lock = PTHREAD_MUTEX_INITIALIZER;

static int reserve(uint64_t bytes) {
    pthread_once(&once, set_up);
    if (!page) return 1;
    uint64_t cap = cap_bytes();
    if (cap && bytes > cap) {
        me->denied++;
        return 0;
    }
    atomic_fetch_add(&me->used_bytes, bytes); /* first: whoever asks at the same time sees it */
    if (!cap || used_bytes() <= cap) return 1;
    atomic_fetch_sub(&me->used_bytes, bytes);
    me->denied++;
    return 0;
}

static struct block **place_of(Ptr key) {
    return &blocks[(key >> 9) * 0x9E3779B97F4A7C15u >> 52];
}

/* Its context is gone, and all that it had with it. */
static void forget_all(void) {
    pthread_mutex_lock(&blocks_lock);
    for (size_t i = 0; i < sizeof blocks / sizeof *blocks; i++)
        for (struct block *b; (b = blocks[i]);) {
            blocks[i] = b->next;
            atomic_fetch_sub(&me->used_bytes, b->bytes);
            free(b);
        }
    pthread_mutex_unlock(&blocks_lock);
}

void disown_all(void) {
    memset(blocks, 0, sizeof blocks);
    pthread_mutex_init(&blocks_lock, 0);
}

/* Keep what was given for `key`, or take the reservation back. */
static Result given(Result result, Ptr key, uint64_t bytes) {
    if (!page) return result;
    struct block *b = result == OK ? malloc(sizeof *b) : 0;
    if (!b) return atomic_fetch_sub(&me->used_bytes, bytes), result;
    b->key = key, b->bytes = bytes;
    pthread_mutex_lock(&blocks_lock);
    b->next = *place_of(key), *place_of(key) = b;
    pthread_mutex_unlock(&blocks_lock);
    return result;
}

static Result freed(Result result, Ptr key) {
    if (!page || result != OK) return result;
    pthread_mutex_lock(&blocks_lock);
    for (struct block **at = place_of(key), *b; (b = *at); at = &b->next)
        if (b->key == key) {
            *at = b->next;
            atomic_fetch_sub(&me->used_bytes, b->bytes);
            free(b);
            break;
        }
    pthread_mutex_unlock(&blocks_lock);
    return result;
}

API Result cuMemAlloc_v2(Ptr *found, size_t bytes) {
    if (!reserve(bytes)) return OUT_OF_MEMORY;
    Result code = REAL(cuMemAlloc_v2, Result(*)(Ptr *, size_t))(found, bytes);
    return given(code, code == OK ? *found : 0, bytes);
}
API Result cuMemAllocManaged(Ptr *found, size_t bytes, unsigned flags) {
    if (!reserve(bytes)) return OUT_OF_MEMORY;
    Result code = REAL(cuMemAllocManaged, Result(*)(Ptr *, size_t, unsigned))(found, bytes, flags);
    return given(code, code == OK ? *found : 0, bytes);
}
API Result cuMemAllocPitch_v2(Ptr *found, size_t *pitch, size_t width, size_t height, unsigned unit) {
    size_t bytes = ((width + 511) & ~(size_t)511) * height;
    if (!reserve(bytes)) return OUT_OF_MEMORY;
    Result code = REAL(cuMemAllocPitch_v2, Result(*)(Ptr *, size_t *, size_t, size_t, unsigned))(
        found, pitch, width, height, unit);
    return given(code, code == OK ? *found : 0, bytes);
}
API Result cuMemCreate(Ptr *handle, size_t bytes, const void *kind, unsigned long long flags) {
    Result (*create)(Ptr *, size_t, const void *, unsigned long long) = REAL(cuMemCreate, void *);
    const int *location = kind ? (const int *)kind + 2 : 0;
    if (location && *location != ON_DEVICE) return create(handle, bytes, kind, flags);
    if (!reserve(bytes)) return OUT_OF_MEMORY;
    Result code = create(handle, bytes, kind, flags);
    return given(code, code == OK ? *handle : 0, bytes);
}

/* What an array takes: `size` is of three, `kind` of its format and channels. */
static uint64_t array_bytes(const size_t *size, const int *kind) {
    static const unsigned char bytes_of[64] = {[1] = 1, [2] = 2, [3] = 4, [8] = 1,
                                               [9] = 2, [10] = 4, [16] = 2, [32] = 4};
    uint64_t bytes = bytes_of[kind[0] & 63] ? bytes_of[kind[0] & 63] : 4;
    for (int i = 0; i < 3; i++) bytes *= size[i] ? size[i] : 1;
    return bytes * (uint64_t)kind[1];
}
API Result cuArrayCreate_v2(void **array, const void *shape) {
    const size_t *size = shape, three[] = {size[0], size[1], 1};
    uint64_t bytes = array_bytes(three, (const int *)(size + 2));
    if (!reserve(bytes)) return OUT_OF_MEMORY;
    Result code = REAL(cuArrayCreate_v2, Result(*)(void **, const void *))(array, shape);
    return given(code, code == OK ? (Ptr)(uintptr_t)*array : 0, bytes);
}
API Result cuArray3DCreate_v2(void **array, const void *shape) {
    const size_t *size = shape;
    const int *kind = (const int *)(size + 3);
    uint64_t bytes = kind[2] & NOT_BACKED ? 0 : array_bytes(size, kind);
    if (!reserve(bytes)) return OUT_OF_MEMORY;
    Result code = REAL(cuArray3DCreate_v2, Result(*)(void **, const void *))(array, shape);
    return given(code, code == OK ? (Ptr)(uintptr_t)*array : 0, bytes);
}
API Result cuMipmappedArrayCreate(void **array, const void *shape, unsigned levels) {
    size_t size[3];
    memcpy(size, shape, sizeof size);
    const int *kind = (const int *)((const size_t *)shape + 3);
    uint64_t bytes = 0;
    for (unsigned level = 0; level < levels && level < 32 && !(kind[2] & NOT_BACKED); level++) {
        bytes += array_bytes(size, kind);
        for (int i = 0; i < (kind[2] & LAYERED ? 2 : 3); i++) size[i] = size[i] > 1 ? size[i] / 2 : size[i];
    }
    if (!reserve(bytes)) return OUT_OF_MEMORY;
    Result (*create)(void **, const void *, unsigned) = REAL(cuMipmappedArrayCreate, void *);
    Result code = create(array, shape, levels);
    return given(code, code == OK ? (Ptr)(uintptr_t)*array : 0, bytes);
}
API Result cuMemFree_v2(Ptr key) { return freed(REAL(cuMemFree_v2, Result(*)(Ptr))(key), key); }
API Result cuMemRelease(Ptr key) { return freed(REAL(cuMemRelease, Result(*)(Ptr))(key), key); }
API Result cuArrayDestroy(void *key) {
    return freed(REAL(cuArrayDestroy, OnStream)(key), (Ptr)(uintptr_t)key);
}
API Result cuMipmappedArrayDestroy(void *key) {
    return freed(REAL(cuMipmappedArrayDestroy, OnStream)(key), (Ptr)(uintptr_t)key);
}
API Result cuDevicePrimaryCtxReset_v2(int device) {
    Result code = REAL(cuDevicePrimaryCtxReset_v2, Result(*)(int))(device);
    if (code == OK && page) forget_all();
    return code;
}

#define ASYNC(suffix)                                                                               \
    API Result cuMemAllocAsync##suffix(Ptr *found, size_t bytes, void *st) {                        \
        if (!reserve(bytes)) return OUT_OF_MEMORY;                                                  \
        Result code = REAL(cuMemAllocAsync##suffix, Result(*)(Ptr *, size_t, void *))(found, bytes, \
                                                                                      st);          \
        return given(code, code == OK ? *found : 0, bytes);                                         \
    }                                                                                               \
    API Result cuMemAllocFromPoolAsync##suffix(Ptr *found, size_t bytes, void *pool, void *st) {    \
        if (!reserve(bytes)) return OUT_OF_MEMORY;                                                  \
        Result (*take)(Ptr *, size_t, void *, void *) =                                             \
            REAL(cuMemAllocFromPoolAsync##suffix, void *);                                          \
        Result code = take(found, bytes, pool, st);                                                 \
        return given(code, code == OK ? *found : 0, bytes);                                         \
    }                                                                                               \
    API Result cuMemFreeAsync##suffix(Ptr key, void *st) {                                          \
        return freed(REAL(cuMemFreeAsync##suffix, Result(*)(Ptr, void *))(key, st), key);           \
    }
ASYNC()
ASYNC(_ptsz)

/* A process is told of its share as if it were the device. */
API Result cuMemGetInfo_v2(size_t *left, size_t *total) {
    Result code = REAL(cuMemGetInfo_v2, Result(*)(size_t *, size_t *))(left, total);
    pthread_once(&once, set_up);
    uint64_t cap = page ? cap_bytes() : 0;
    if (code != OK || !cap) return code;
    uint64_t used = used_bytes(), room = used < cap ? cap - used : 0;
    if (*total > cap) *total = cap;
    if (*left > room) *left = room;
    return code;
}
API Result cuDeviceTotalMem_v2(size_t *bytes, int device) {
    Result code = REAL(cuDeviceTotalMem_v2, Result(*)(size_t *, int))(bytes, device);
    pthread_once(&once, set_up);
    uint64_t cap = page ? cap_bytes() : 0;
    if (code == OK && cap && *bytes > cap) *bytes = cap;
    return code;
}
