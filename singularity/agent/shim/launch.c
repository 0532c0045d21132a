/* When kernels of this process may begin. */
#include "shim.h"

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* Of a process that was brought back on another machine, `since_ns` may be of a clock that ran ahead,
 * and it was asleep meanwhile in any case. */
static uint64_t passed_ns(uint64_t since_ns) {
    uint64_t passed = now_ns() - since_ns;
    return passed < LONG_NS ? passed : 0;
}

/* -- best-effort launches ------------------------------------------------------------------------ */

struct stream {
    void *handle;
    struct stream *next;
    pthread_mutex_t lock;
    void *events[RING]; /* of launches tail .. head - 1 */
    uint64_t head, tail, launches;
    struct arena *arena;
};
static struct stream *_Atomic streams;

static struct stream *stream_of(void *handle) {
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    for (struct stream *s = streams; s; s = s->next)
        if (s->handle == handle) return s;
    pthread_mutex_lock(&lock);
    struct stream *s = streams;
    while (s && s->handle != handle) s = s->next;
    if (!s && (s = calloc(1, sizeof *s))) {
        s->handle = handle, s->next = streams;
        pthread_mutex_init(&s->lock, 0);
        streams = s;
    }
    pthread_mutex_unlock(&lock);
    if (!s) abort();
    return s;
}

static int capturing(void *handle) {
    Result (*ask)(void *, int *) = REAL(cuStreamIsCapturing, void *);
    int status = 0;
    return ask && ask(handle, &status) == OK && status;
}

static void await_gate(void) {
    uint64_t began_ns = 0;
    for (uint32_t gate; (gate = page->gate) != 0;) {
        if (!began_ns) began_ns = now_ns();
        struct timespec most = {0, 2000000};
        syscall(SYS_futex, &page->gate, FUTEX_WAIT, gate, &most, 0, 0);
    }
    if (began_ns) me->blocked_ns += passed_ns(began_ns);
}

static void *event_of(struct stream *s, uint64_t launch) {
    void **event = &s->events[launch % RING];
    if (!*event) REAL(cuEventCreate, Result(*)(void **, unsigned))(event, NO_TIMING);
    return *event;
}

/* Wait until fewer than the window are in flight: for the middle one, so that the rest of the
 * window keeps the device at work meanwhile. */
static void await_window(struct stream *s) {
    uint64_t window = page->window;
    if (window > RING) window = RING;
    while (window && s->head - s->tail >= window) {
        uint64_t middle = s->tail + (s->head - s->tail + 1) / 2;
        REAL(cuEventSynchronize, OnStream)(event_of(s, middle - 1));
        me->completed += middle - s->tail;
        s->tail = middle;
    }
    await_gate();
}

Ptr gate_on_device(void) {
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    static Ptr address;
    static int failed;
    static uint32_t life; /* the one in which the device was told of the page */
    pthread_mutex_lock(&lock);
    if (life != seat->life) life = seat->life, address = 0, failed = 0;
    if (!address && !failed) {
        Result code = REAL(cuMemHostRegister_v2, Result(*)(void *, size_t, unsigned))(
            page, PAGE_BYTES, DEVICEMAP);
        if (code == OK || code == ALREADY_REGISTERED) /* the driver brought that back as well */
            code = REAL(cuMemHostGetDevicePointer_v2, Result(*)(Ptr *, void *, unsigned))(
                &address, page, 0);
        if ((failed = code != OK)) say("the gate cannot be mapped to the device; launches wait here");
    }
    pthread_mutex_unlock(&lock);
    return address ? address + offsetof(struct page, gate) : 0;
}

static void stall(struct stream *s) {
    uint32_t every = page->gate_every ? page->gate_every : 1;
    if (s->launches++ % every) return;
    Ptr gate = gate_on_device();
    Result (*wait)(void *, Ptr, uint32_t, unsigned) = REAL(cuStreamWaitValue32_v2, void *);
    if (gate && wait && wait(s->handle, gate, 0, WAIT_EQ) == OK)
        me->gated++;
    else
        await_gate();
}

/* -- real-time launches -------------------------------------------------------------------------- */

static pthread_mutex_t rt_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t rt_raised = PTHREAD_COND_INITIALIZER;
static uint64_t rt_last_ns, rt_since_ns;
static int rt_up;
static pid_t rt_watcher; /* the process that the thread below is of; a fork has none */
static void *rt_context;

static int in_flight(void) {
    for (struct stream *s = streams; s; s = s->next)
        if (s->events[0] && REAL(cuEventQuery, OnStream)(s->events[0]) == NOT_READY) return 1;
    return 0;
}

/* Whoever opens it last adds up for how long it was shut; who closed it first has said since when
 * before its own bit goes. Who yields is woken by the closing, who waits by the opening. */
API void singularity_gate(struct page *of, uint32_t close, uint32_t open) {
    uint32_t before = close ? atomic_fetch_or(&of->gate, close) : 0;
    if (close && !before) {
        of->shut_since_ns = now_ns();
        if (of->mode & YIELD) syscall(SYS_futex, &of->gate, FUTEX_WAKE, 1 << 20, 0, 0, 0);
    }
    if (!open) return;
    uint64_t since_ns = of->shut_since_ns;
    before = atomic_fetch_and(&of->gate, ~open);
    if (before && !(before & ~open)) of->shut_ns += now_ns() - since_ns;
    if (before & open) syscall(SYS_futex, &of->gate, FUTEX_WAKE, 1 << 20, 0, 0, 0);
}

static void open_gate(void) {
    singularity_gate(page, 0, my_bit);
}

/* Sleep until this process closes the gate. The agent may die with it closed: its time is up then. */
static void sleep_until_raised(void) {
    while (!rt_up) {
        struct timespec at;
        clock_gettime(CLOCK_REALTIME, &at);
        if ((at.tv_nsec += 100000000) >= 1000000000) at.tv_nsec -= 1000000000, at.tv_sec++;
        pthread_cond_timedwait(&rt_raised, &rt_lock, &at);
        uint64_t until_ns = page->agent_until_ns;
        if (until_ns && now_ns() > until_ns) singularity_gate(page, 0, AGENT);
    }
}

static void *watch(void *none) {
    (void)none;
    REAL(cuCtxSetCurrent, OnStream)(rt_context);
    int relaxed = RELAXED;
    Result (*exchange)(int *) = REAL(cuThreadExchangeStreamCaptureMode, void *);
    if (exchange) exchange(&relaxed);
    pthread_mutex_lock(&rt_lock);
    for (;;) {
        sleep_until_raised();
        uint64_t last_ns = rt_last_ns, hold_off_ns = (uint64_t)page->hold_off_us * 1000u;
        pthread_mutex_unlock(&rt_lock);
        struct timespec pause = {0, 20000};
        nanosleep(&pause, 0);
        int flies = in_flight();
        int busy = flies || now_ns() - last_ns < hold_off_ns;
        pthread_mutex_lock(&rt_lock);
        if (rt_since_ns) me->busy_ns += passed_ns(rt_since_ns);
        rt_since_ns = flies || now_ns() - rt_last_ns < AT_ONCE_NS ? now_ns() : 0;
        if (!busy && last_ns == rt_last_ns) rt_up = 0, open_gate();
    }
    return 0;
}

static void raise_gate(void) {
    pthread_mutex_lock(&rt_lock);
    rt_last_ns = now_ns();
    if (!rt_since_ns) rt_since_ns = rt_last_ns;
    if (!rt_up) {
        rt_up = 1;
        me->raised++;
        singularity_gate(page, my_bit, 0);
        if (rt_watcher != getpid()) {
            pthread_t thread;
            Result (*context)(void **) = REAL(cuCtxGetCurrent, void *);
            if (context) context(&rt_context);
            if (pthread_create(&thread, 0, watch, 0) == 0) pthread_detach(thread);
            rt_watcher = getpid();
        }
        pthread_cond_signal(&rt_raised);
    }
    pthread_mutex_unlock(&rt_lock);
}

__attribute__((destructor)) static void leave(void) {
    if (page && me->class == RT) open_gate();
}

/* -- every launch --------------------------------------------------------------------------------- */

/* A launch that the driver makes by way of another of its functions is part of that one. */
static __thread int inside;

static struct stream *before(void *handle) {
    pthread_once(&once, set_up);
    if (!page || inside) return 0;
    if (capturing(handle)) { /* it runs later, by a launch of its graph */
        if (me->class == BE && (page->mode & STALL)) gate_in_graph(handle);
        return 0;
    }
    inside = 1;
    struct stream *s = stream_of(handle);
    pthread_mutex_lock(&s->lock); /* until after(): events are in the order of launches */
    if (me->class == RT) raise_gate();
    if (me->class == BE && (page->mode & WINDOW)) await_window(s);
    if (me->class == BE && (page->mode & STALL)) stall(s);
    return s;
}

static Result after(struct stream *s, Result result) {
    if (!s) return result;
    inside = 0;
    if (result == OK) {
        me->status = SEEING;
        me->launched++;
        WithEvent record = REAL(cuEventRecord, WithEvent);
        if (me->class == RT) record(event_of(s, 0), s->handle);
        if (me->class == BE && (page->mode & WINDOW)) record(event_of(s, s->head++), s->handle);
    }
    pthread_mutex_unlock(&s->lock);
    return result;
}

/* The driver's CUlaunchConfig; what its attributes ask for, no ticket promises. */
struct config {
    unsigned grid[6], shared;
    void *stream, *list;
    unsigned attributes;
};

typedef Result (*Go)(const struct call *);

/* What was launched as it is, though it should yield. */
static Result counted(struct stream *s, Result result) {
    if (s && result == OK && me->class == BE && (page->mode & YIELD)) me->whole++;
    return result;
}

static Result launch(const struct call *c, Go go, Go with_ticket) {
    struct stream *s = before(c->stream);
    struct ticket ticket;
    if (s && take_ticket(&ticket, &s->arena, c)) {
        Result code = with_ticket(&ticket.call);
        if (ticket_used(&ticket, code)) return after(s, code);
    }
    return after(s, counted(s, go(c)));
}

#define LAUNCHES(suffix, own)                                                                       \
    static Result go_plain##suffix(const struct call *c) {                                          \
        const unsigned *g = c->grid;                                                                \
        return REAL(cuLaunchKernel##suffix, Result(*)(void *, GRID, void *, void **, void **))(     \
            c->function, g[0], g[1], g[2], g[3], g[4], g[5], c->shared, c->stream, c->params,       \
            c->extra);                                                                              \
    }                                                                                               \
    static Result go_together##suffix(const struct call *c) {                                       \
        const unsigned *g = c->grid;                                                                \
        return REAL(cuLaunchCooperativeKernel##suffix, Result(*)(void *, GRID, void *, void **))(   \
            c->function, g[0], g[1], g[2], g[3], g[4], g[5], c->shared, c->stream, c->params);      \
    }                                                                                               \
    static Result go_config##suffix(const struct call *c) {                                         \
        return REAL(cuLaunchKernelEx##suffix, Result(*)(const void *, void *, void **, void **))(   \
            c->config, c->function, c->params, c->extra);                                           \
    }                                                                                               \
    API Result cuLaunchKernel##suffix(void *f, GRID, void *st, void **params, void **extra) {       \
        struct call c = {f, {gx, gy, gz, bx, by, bz}, shared, own(st), params, extra, 0, 1};        \
        return launch(&c, go_plain##suffix, go_plain##suffix);                                      \
    }                                                                                               \
    API Result cuLaunchCooperativeKernel##suffix(void *f, GRID, void *st, void **params) {          \
        struct call c = {f, {gx, gy, gz, bx, by, bz}, shared, own(st), params, 0, 0, 0};            \
        return launch(&c, go_together##suffix, 0);                                                  \
    }                                                                                               \
    API Result cuLaunchKernelEx##suffix(const void *config, void *f, void **params, void **extra) { \
        const struct config *g = config;                                                            \
        struct call c = {f, {0}, g->shared, own(g->stream), params, extra, config, !g->attributes}; \
        memcpy(c.grid, g->grid, sizeof c.grid);                                                     \
        return launch(&c, go_config##suffix, go_plain##suffix);                                     \
    }                                                                                               \
    API Result cuGraphLaunch##suffix(void *graph, void *st) {                                       \
        struct stream *s = before(own(st));                                                         \
        return after(s, counted(s, REAL(cuGraphLaunch##suffix, WithEvent)(graph, st)));             \
    }                                                                                               \
    API Result cuStreamSynchronize##suffix(void *st) {                                              \
        covered();                                                                                  \
        return REAL(cuStreamSynchronize##suffix, OnStream)(st);                                     \
    }
#define AS_IT_IS(st) (st)
#define OF_THREAD(st) ((st) ? (st) : (void *)PER_THREAD)

/* A process that waits for its device again and again, and neither launched through us nor ever
 * asked us for a way to launch, goes by a road that we do not know. */
static void covered(void) {
    pthread_once(&once, set_up);
    if (!page || me->launched || me->handed || ++me->syncs != BLIND_SYNCS) return;
    me->status = BLIND;
    say("this process uses the device, but its kernels are not seen: it cannot be preempted");
    if (page->mode & STRICT) _exit(78);
}

LAUNCHES(, AS_IT_IS)
LAUNCHES(_ptsz, OF_THREAD)

Result plain_launch(const struct call *c) { return go_plain(c); }

/* Its handle may be another stream's next. */
API Result cuStreamDestroy_v2(void *st) {
    for (struct stream *s = streams; st && s; s = s->next)
        if (s->handle == st) {
            pthread_mutex_lock(&s->lock);
            s->handle = s;
            arena_idle(s->arena), s->arena = 0;
            pthread_mutex_unlock(&s->lock);
        }
    return REAL(cuStreamDestroy_v2, OnStream)(st);
}

API Result cuCtxSynchronize(void) {
    covered();
    return REAL(cuCtxSynchronize, Result(*)(void))();
}
