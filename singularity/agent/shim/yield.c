/* Launches of kernels that can yield, and the repair of what was torn. device/prologue.py says what
 * a kernel does with its ticket.
 *
 * On the stream, around each such launch: write `begun`; the kernel; write `ended`; wait until `torn`
 * is 0. So a torn grid freezes its own stream, and at most one launch of a stream is torn. While the
 * gate is closed a thread raises the flag of each stream on which a kernel is at work. When it opens,
 * the grid of a torn launch is launched again beside the stream, for the blocks that left; closed
 * again meanwhile, that is taken back too. Then the stream goes on. */
#include "shim.h"
#include "prologue.h"

enum { LEAVE = 1, REPAIR = 2, BACK = 3, RIDES = 64, ARENAS = 512, URGENT = -5 };

struct ride { struct call call; unsigned char *values; size_t bytes, room; };
struct arena {
    Ptr control, words; /* for the device: `words` are begun and ended, numbers of launches */
    _Atomic uint32_t *begun, *ended; /* the same words for the host, whose memory they are in */
    _Atomic uint32_t given;
    uint32_t flag, due;
    int suspect;          /* its flag was up, and it is not known yet that all is whole */
    int mending;
    _Atomic int idle;     /* its stream is gone */
    struct ride rides[RIDES];
};
static struct arena *_Atomic arenas[ARENAS];
static _Atomic uint32_t made;
static void *context, *orders, *repairs, *repaired;

#define NUMBERED(number) ((number) % (ARENA - 1) + 1)
typedef Result (*OnWord)(void *, Ptr, uint32_t, unsigned);

static void nap_us(long us) {
    struct timespec pause = {0, us * 1000};
    nanosleep(&pause, 0);
}

/* -- what the thread does ------------------------------------------------------------------------ */

static void order(Ptr word, uint32_t value) {
    REAL(cuStreamWriteValue32_v2, OnWord)(orders, word, value, 0);
}
static void set_flag(struct arena *a, uint32_t flag) {
    if (a->flag != flag) order(a->control, a->flag = flag);
}
static void ordered(void) { REAL(cuStreamSynchronize, OnStream)(orders); }

static Result fetch(void *to, Ptr from, size_t bytes) {
    Result code = REAL(cuMemcpyDtoHAsync_v2, Result(*)(void *, Ptr, size_t, void *))(to, from, bytes, orders);
    ordered();
    return code;
}

static uint64_t bits_left(struct arena *a, const struct ride *r) {
    uint32_t blocks = r->call.grid[0] * r->call.grid[1] * r->call.grid[2];
    size_t words = (blocks + 31) / 32;
    uint32_t *bits = calloc(words, sizeof *bits);
    uint64_t count = 0;
    if (!bits || fetch(bits, a->control + BITMAP, words * sizeof *bits) != OK) count = 1;
    for (size_t i = 0; bits && i < words; i++) count += (uint64_t)__builtin_popcount(bits[i]);
    return free(bits), count;
}

/* Run the blocks that left; 0 when the gate was closed meanwhile and some are left still. */
static int mend(struct arena *a) {
    struct ride *r = &a->rides[*a->ended % RIDES];
    set_flag(a, REPAIR);
    ordered(); /* the launch is on another stream */
    if (!a->mending) me->left += bits_left(a, r);
    a->mending = 1;
    void *extra[] = {(void *)1, r->values, (void *)2, &r->bytes, 0};
    struct call c = r->call;
    c.stream = repairs, c.params = 0, c.extra = extra;
    Result code = plain_launch(&c);
    me->repairs++;
    REAL(cuEventRecord, WithEvent)(repaired, repairs);
    while (code == OK && REAL(cuEventQuery, OnStream)(repaired) == NOT_READY) {
        if (page->gate) set_flag(a, BACK);
        nap_us(20);
    }
    if (code != OK) say("a torn grid cannot be repaired: its stream stays where it is");
    int whole = code == OK && (a->flag == REPAIR || !bits_left(a, r));
    set_flag(a, 0);
    if (whole) order(a->control + 4, 0), a->mending = 0, me->mended++;
    ordered();
    return whole || code != OK;
}

/* All flags are down and the gate is open: find what was torn. */
static int settled(struct arena *a) {
    uint32_t torn = 1;
    if ((int32_t)(*a->ended - a->due) < 0) return 0;
    if (fetch(&torn, a->control + 4, sizeof torn) != OK) return 1;
    return !torn || mend(a);
}

static void while_closed(void) {
    for (long pause_us = 20; page->gate; pause_us += pause_us < 200 ? 20 : 0) {
        int changed = 0;
        for (uint32_t i = 0; i < made; i++) {
            struct arena *a = arenas[i];
            uint32_t flag = *a->begun != *a->ended ? LEAVE : 0;
            if (a->flag == flag) continue;
            set_flag(a, flag);
            a->suspect = changed = 1;
        }
        if (changed) ordered(), pause_us = 20;
        nap_us(pause_us);
    }
}

static void while_open(void) {
    for (uint32_t i = 0; i < made; i++) set_flag(arenas[i], 0);
    ordered();
    for (uint32_t i = 0; i < made; i++) arenas[i]->due = *arenas[i]->begun;
    for (int left = 1; left && !page->gate;) {
        left = 0;
        for (uint32_t i = 0; i < made && !page->gate; i++) {
            struct arena *a = arenas[i];
            if (a->suspect) a->suspect = !settled(a);
            left |= a->suspect;
        }
        if (left) nap_us(20);
    }
}

static void *watch(void *none) {
    (void)none;
    REAL(cuCtxSetCurrent, OnStream)(context);
    for (;;) {
        struct timespec most = {0, 100000000};
        if (!page->gate) syscall(SYS_futex, &page->gate, FUTEX_WAIT, 0, &most, 0, 0);
        if (!page->gate) continue;
        while_closed();
        while_open();
    }
    return 0;
}

/* -- tickets ---------------------------------------------------------------------------------------- */

static int start_thread(void) {
    Result (*create)(void **, unsigned, int) = REAL(cuStreamCreateWithPriority, void *);
    Result (*current)(void **) = REAL(cuCtxGetCurrent, void *);
    pthread_t thread;
    if (!create || !current || current(&context) != OK || create(&orders, NON_BLOCKING, URGENT) != OK ||
        create(&repairs, NON_BLOCKING, 0) != OK ||
        REAL(cuEventCreate, Result(*)(void **, unsigned))(&repaired, NO_TIMING) != OK ||
        pthread_create(&thread, 0, watch, 0) != 0)
        return 0;
    return pthread_detach(thread), 1;
}

/* Words of the host that the device writes, two for each arena. */
static _Atomic uint32_t *host_words(Ptr *on_device) {
    static _Atomic uint32_t *words;
    static Ptr at;
    Result (*take)(void **, size_t, unsigned) = REAL(cuMemHostAlloc, void *);
    if (!words && take) {
        void *found = 0;
        if (take(&found, ARENAS * 8, DEVICEMAP | 1) == OK &&
            REAL(cuMemHostGetDevicePointer_v2, Result(*)(Ptr *, void *, unsigned))(&at, found, 0) == OK)
            words = memset(found, 0, ARENAS * 8);
    }
    *on_device = at + made * 8;
    return words ? words + made * 2 : 0;
}

static struct arena *fresh_arena(void *stream) {
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    static int running;
    Ptr raw = 0;
    pthread_mutex_lock(&lock);
    for (uint32_t i = 0; i < made; i++) {
        struct arena *old = arenas[i];
        if (!old->idle || old->suspect || old->given != *old->ended) continue;
        old->idle = 0;
        return pthread_mutex_unlock(&lock), old;
    }
    struct arena *a = calloc(1, sizeof *a);
    int relaxed = RELAXED; /* another stream may be captured while memory is taken here */
    Result (*exchange)(int *) = REAL(cuThreadExchangeStreamCaptureMode, void *);
    if (exchange) exchange(&relaxed);
    OnWord write = REAL(cuStreamWriteValue32_v2, OnWord), wait = REAL(cuStreamWaitValue32_v2, OnWord);
    Result (*clear)(Ptr, unsigned char, size_t, void *) = REAL(cuMemsetD8Async, void *);
    int good = a && write && wait && clear && made < ARENAS && (running || (running = start_thread())) &&
               (a->begun = host_words(&a->words)) &&
               REAL(cuMemAlloc_v2, Result(*)(Ptr *, size_t))(&raw, 2 * ARENA) == OK;
    if (good) {
        a->control = (raw + ARENA - 1) & ~(Ptr)(ARENA - 1), a->ended = a->begun + 1;
        good = clear(a->control, 0, ARENA, orders) == OK &&
               REAL(cuStreamSynchronize, OnStream)(orders) == OK &&
               write(stream, a->words, 0, 0) == OK && wait(stream, a->control + 4, 0, WAIT_EQ) == OK;
    }
    if (good)
        arenas[made] = a, made++;
    else
        say("kernels cannot be made to yield on this device; the gate alone holds them"), free(a), a = 0;
    if (exchange) exchange(&relaxed);
    pthread_mutex_unlock(&lock);
    return a;
}

void arena_idle(struct arena *a) {
    if (a) a->idle = 1;
}

/* The program's values, one behind the other, and the ticket's place. */
static int packed(struct ride *r, const struct kernel *k, const struct call *c) {
    size_t place = k->at[k->count - 1];
    if (r->room < place + sizeof(Ptr)) {
        free(r->values);
        if (!(r->values = malloc(r->room = place + sizeof(Ptr)))) return r->room = 0;
    }
    r->bytes = place + sizeof(Ptr);
    memset(r->values, 0, r->bytes);
    if (c->params) {
        for (unsigned i = 0; i < k->given && i < k->count - 1; i++)
            memcpy(r->values + k->at[i], c->params[i], k->bytes[i]);
        return 1;
    }
    const void *from = 0;
    size_t bytes = 0;
    for (void **e = c->extra; e && *e; e += 2) {
        if (*e == (void *)1) from = e[1];
        if (*e == (void *)2) bytes = *(size_t *)e[1];
    }
    if (!from && place) return 0;
    memcpy(r->values, from, bytes < place ? bytes : place);
    return 1;
}

/* 1: launch `ticket->call` in place of `c`, and tell ticket_used(). The stream's lock is held. */
int take_ticket(struct ticket *ticket, struct arena **of_stream, const struct call *c) {
    const struct kernel *k = me->class == BE && (page->mode & YIELD) ? kernel_of(c->function) : 0;
    uint64_t blocks = (uint64_t)c->grid[0] * c->grid[1] * c->grid[2];
    if (!k || !c->can_yield || blocks > BLOCKS_MOST || c->stream == (void *)PER_THREAD) return 0;
    if (!*of_stream) *of_stream = fresh_arena(c->stream);
    struct arena *a = *of_stream;
    if (!a) return 0;
    uint32_t number = a->given + 1;
    while (number - *a->ended >= RIDES) nap_us(20);
    struct ride *r = &a->rides[number % RIDES];
    if (!packed(r, k, c)) return 0;
    Ptr value = a->control + NUMBERED(number);
    memcpy(r->values + k->at[k->count - 1], &value, sizeof value);
    if (REAL(cuStreamWriteValue32_v2, OnWord)(c->stream, a->words, number, 0) != OK) return 0;
    a->given = number;
    r->call = *c, r->call.function = k->variant, r->call.params = 0;
    ticket->extra[0] = (void *)1, ticket->extra[1] = r->values, ticket->extra[2] = (void *)2;
    ticket->extra[3] = &r->bytes, ticket->extra[4] = 0;
    ticket->call = r->call, ticket->call.extra = ticket->extra;
    ticket->arena = a, ticket->number = number;
    return 1;
}

/* 0: the kernel does not launch with a prologue, and is to be launched as it is. */
int ticket_used(struct ticket *ticket, Result result) {
    struct arena *a = ticket->arena;
    void *stream = ticket->call.stream;
    REAL(cuStreamWriteValue32_v2, OnWord)(stream, a->words + 4, ticket->number, 0);
    if (result == OK) REAL(cuStreamWaitValue32_v2, OnWord)(stream, a->control + 4, 0, WAIT_EQ);
    return result == OK;
}
