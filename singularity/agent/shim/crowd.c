/* The processes of one container under one cap: each takes a slot of the container's page by itself,
 * and what all of them hold counts. They are in one PID namespace, so each can tell who lives; the
 * driver takes back what the dead had.
 */
#include "shim.h"
#include <errno.h>
#include <signal.h>

static struct seat mine;
static int full;

static int gone(uint32_t pid) { return pid && kill((pid_t)pid, 0) && errno == ESRCH; }

/* A slot that nobody has, or had; of several who try, one gets it. */
static int take(struct slot *s) {
    uint32_t pid = s->pid;
    if (pid && !gone(pid)) return 0;
    if (!atomic_compare_exchange_strong(&s->pid, &pid, (uint32_t)getpid())) return 0;
    s->used_bytes = s->launched = s->completed = s->gated = s->denied = 0;
    s->class = BE, s->status = LOADED;
    return 1;
}

static void sit(void) {
    for (uint32_t i = 0; i < SLOTS; i++)
        if (take(&page->slots[i])) {
            mine.slot = i, full = 0;
            return;
        }
    mine.slot = SLOTS - 1, full = 1;
    say("too many processes of this container use the device; this one gets no memory of it");
}

/* Nothing of the parent's is its child's: no context of the driver survives a fork. */
static void forked(void) {
    sit();
    disown_all();
}

struct seat *any_seat(void) {
    sit();
    pthread_atfork(0, 0, forked);
    return &mine;
}

uint64_t cap_bytes(void) {
    uint64_t together = page->together_bytes;
    return together ? together : me->cap_bytes;
}

uint64_t used_bytes(void) {
    if (!page->together_bytes) return me->used_bytes;
    if (full) return UINT64_MAX;
    uint64_t all = 0;
    for (uint32_t i = 0; i < SLOTS; i++) {
        struct slot *s = &page->slots[i];
        uint32_t pid = s->pid;
        if (!gone(pid))
            all += s->used_bytes;
        else if (take(s)) /* two see it; one clears it */
            s->pid = 0;
    }
    return all;
}
