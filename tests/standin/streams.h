/* What streams and graphs of the stand-in have in common. */
#pragma once
#define _GNU_SOURCE
#include "ptx.h"
#include <pthread.h>
#include <stddef.h>
#include <stdint.h>

#define OURS __attribute__((visibility("hidden")))
typedef int Result;
typedef unsigned long long Ptr;
enum { OK = 0, INVALID = 1, OUT_OF_MEMORY = 2, BAD_PTX = 218, NOT_FOUND = 500, NOT_READY = 600 };
enum { CAPTURE_UNSUPPORTED = 900, CAPTURE_INVALIDATED = 901 };
enum { KERNEL, PTX, WAIT, WRITE, EVENT, COPY, FILL };

struct event { volatile uint32_t recorded, done; }; /* how often; the last time is what counts */
struct op {
    struct op *next;
    int kind;
    uint32_t blocks, wave_us, value;
    volatile uint32_t *word;
    struct event *event;
    const struct ptx_kernel *kernel;
    unsigned grid[6], shared;
    void *values, *to; /* values: of parameters, or what is copied */
    size_t bytes;
};
struct graph;
struct stream {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct op *first, **last;
    uint64_t given, done;
    struct graph *graph; /* into which it is captured */
};

OURS struct stream *of(void *handle);
OURS Result give(void *handle, struct op op);
OURS Result captured(struct graph *graph, struct op op);
