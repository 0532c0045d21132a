/* Instructions of PTX, thread by thread. A thread runs until it waits at a barrier, sleeps or ends. */
#include "ptx_parts.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { READY, WAITING, SLEEPING, OVER };
struct thread {
    uint64_t *registers;
    unsigned at, number;
    int state, barrier, target;
    unsigned expected;
    uint64_t vote, until_ns;
};
struct ptx_block {
    const struct ptx_kernel *kernel;
    unsigned grid[6], number, threads;
    unsigned char *values, *shared;
    struct thread thread[];
};

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static int has(const struct instruction *i, const char *part) {
    for (unsigned n = 1; n < i->parts; n++)
        if (!strcmp(i->part[n], part)) return 1;
    return 0;
}
static int is(const struct instruction *i, const char *name) { return !strcmp(i->part[0], name); }

static void unknown(const struct instruction *i) {
    fprintf(stderr, "stand-in: no instruction %s.%s here\n", i->part[0], i->part[i->parts - 1]);
    abort();
}

static uint64_t special(const struct ptx_block *b, const struct thread *t, uint64_t which) {
    const unsigned *g = b->grid;
    unsigned ids[] = {t->number % g[3], t->number / g[3] % g[4], t->number / (g[3] * g[4]), g[3], g[4], g[5],
                      b->number % g[0], b->number / g[0] % g[1], b->number / (g[0] * g[1]), g[0], g[1], g[2],
                      t->number % 32, t->number / 32};
    return which == 14 ? now_ns() : ids[which];
}

static uint64_t value(struct ptx_block *b, struct thread *t, const struct operand *o) {
    switch (o->kind) {
    case REGISTER: return t->registers[o->value] + (uint64_t)o->offset;
    case SPECIAL: return special(b, t, o->value);
    case PARAMETER: return (uint64_t)(uintptr_t)b->values + o->value + (uint64_t)o->offset;
    case SHARED: return o->value + (uint64_t)o->offset;
    default: return o->value + (uint64_t)o->offset;
    }
}

static uint64_t cut(uint64_t v, unsigned bytes, int is_signed) {
    if (bytes >= 8 || !bytes) return v;
    uint64_t mask = ((uint64_t)1 << 8 * bytes) - 1;
    return is_signed && v >> (8 * bytes - 1) & 1 ? v | ~mask : v & mask;
}

static void *where(struct ptx_block *b, struct thread *t, const struct instruction *i, const struct operand *o) {
    uint64_t at = value(b, t, o);
    return has(i, "shared") ? b->shared + at : (void *)(uintptr_t)at;
}

static float as_float(uint64_t bits) {
    uint32_t low = (uint32_t)bits;
    float f;
    return memcpy(&f, &low, sizeof f), f;
}
static uint64_t as_bits(float f) {
    uint32_t low;
    return memcpy(&low, &f, sizeof low), low;
}

static int compared(const struct instruction *i, uint64_t a, uint64_t b) {
    static const char *const names[] = {"eq", "ne", "lt", "le", "gt", "ge", "lo", "ls", "hi", "hs"};
    int64_t order = i->is_float ? (as_float(a) > as_float(b)) - (as_float(a) < as_float(b))
                  : i->is_signed ? ((int64_t)a > (int64_t)b) - ((int64_t)a < (int64_t)b) : (a > b) - (a < b);
    for (unsigned n = 0; n < 10; n++)
        if (has(i, names[n])) {
            int truths[] = {order == 0, order != 0, order < 0, order <= 0, order > 0, order >= 0,
                            order < 0, order <= 0, order > 0, order >= 0};
            return truths[n];
        }
    return unknown(i), 0;
}

static uint64_t combined(const struct instruction *i, const char *how, uint64_t a, uint64_t b) {
    if (!strcmp(how, "add")) return i->is_float ? as_bits(as_float(a) + as_float(b)) : a + b;
    if (!strcmp(how, "sub")) return i->is_float ? as_bits(as_float(a) - as_float(b)) : a - b;
    if (!strcmp(how, "mul")) return i->is_float ? as_bits(as_float(a) * as_float(b)) : a * b;
    if (!strcmp(how, "and")) return a & b;
    if (!strcmp(how, "or")) return a | b;
    if (!strcmp(how, "xor")) return a ^ b;
    if (!strcmp(how, "shl")) return b < 64 ? a << b : 0;
    if (!strcmp(how, "shr")) return i->is_signed ? (uint64_t)((int64_t)a >> (b < 63 ? b : 63)) : b < 64 ? a >> b : 0;
    if (!strcmp(how, "exch")) return b;
    if (!strcmp(how, "min") || !strcmp(how, "max")) {
        int less = i->is_signed ? (int64_t)a < (int64_t)b : a < b;
        return less == (how[1] == 'i') ? a : b;
    }
    if (!strcmp(how, "div")) return !b ? 0 : i->is_signed ? (uint64_t)((int64_t)a / (int64_t)b) : a / b;
    if (!strcmp(how, "rem")) return !b ? a : i->is_signed ? (uint64_t)((int64_t)a % (int64_t)b) : a % b;
    return unknown(i), 0;
}

static uint64_t read_at(const void *p, const struct instruction *i) {
    uint64_t v = 0;
    if (i->bytes == 4) v = __atomic_load_n((const uint32_t *)p, __ATOMIC_SEQ_CST);
    else if (i->bytes == 8) v = __atomic_load_n((const uint64_t *)p, __ATOMIC_SEQ_CST);
    else memcpy(&v, p, i->bytes);
    return cut(v, i->bytes, i->is_signed);
}
static void write_at(void *p, const struct instruction *i, uint64_t v) {
    if (i->bytes == 4) __atomic_store_n((uint32_t *)p, (uint32_t)v, __ATOMIC_SEQ_CST);
    else if (i->bytes == 8) __atomic_store_n((uint64_t *)p, v, __ATOMIC_SEQ_CST);
    else memcpy(p, &v, i->bytes);
}

/* atom and red, of 4 or 8 bytes. */
static uint64_t at_once(const struct instruction *i, void *p, uint64_t with) {
    const char *how = i->part[i->parts - 2];
    if (i->bytes == 8) {
        uint64_t old = *(uint64_t *)p;
        while (!__atomic_compare_exchange_n((uint64_t *)p, &old, combined(i, how, old, with), 0, 5, 5)) {}
        return old;
    }
    uint32_t old = *(uint32_t *)p;
    while (!__atomic_compare_exchange_n((uint32_t *)p, &old, (uint32_t)combined(i, how, old, with), 0, 5, 5)) {}
    return old;
}

static uint64_t reckoned(struct ptx_block *b, struct thread *t, const struct instruction *i) {
    uint64_t v[OPERANDS] = {0};
    for (unsigned n = 1; n < i->count; n++) {
        unsigned bytes = n == 3 && has(i, "wide") ? 8 : i->bytes;
        v[n] = cut(value(b, t, &i->operand[n]), bytes, i->is_signed);
    }
    if (is(i, "shl") || is(i, "shr")) v[2] = cut(v[2], 4, 0);
    if (is(i, "mov") || is(i, "cvta") || is(i, "cvt")) return v[1];
    if (is(i, "not")) return i->bytes == 1 ? !v[1] : ~v[1];
    if (is(i, "neg")) return -v[1];
    if (is(i, "setp")) {
        int and_it = i->count == 4 ? (int)value(b, t, &i->operand[3]) & 1 : 1;
        return (uint64_t)(compared(i, v[1], v[2]) && and_it);
    }
    if (is(i, "selp")) return v[3] ? v[1] : v[2];
    if (is(i, "mad") && has(i, "wide"))
        return i->is_signed ? (uint64_t)((int64_t)v[1] * (int64_t)v[2]) + v[3] : v[1] * v[2] + v[3];
    if (is(i, "mad")) return v[1] * v[2] + v[3];
    if (is(i, "fma")) return as_bits(as_float(v[1]) * as_float(v[2]) + as_float(v[3]));
    return combined(i, i->part[0], v[1], v[2]);
}

/* One instruction; what it does to the thread's state is all that stops it. */
static void step(struct ptx_block *b, struct thread *t) {
    if (t->at >= b->kernel->length) {
        t->state = OVER;
        return;
    }
    const struct instruction *i = &b->kernel->code[t->at++];
    const struct operand *o = i->operand;
    if (i->guard >= 0 && (int)(t->registers[i->guard] & 1) == i->inverted) return;
    if (is(i, "ret") || is(i, "exit")) {
        t->state = OVER;
    } else if (is(i, "bra")) {
        t->at = (unsigned)o[0].value;
    } else if (is(i, "nanosleep")) {
        t->state = SLEEPING, t->until_ns = now_ns() + value(b, t, &o[0]);
    } else if (is(i, "bar") || is(i, "barrier")) {
        int votes = has(i, "red");
        t->state = WAITING, t->target = votes ? (int)o[0].value : -1;
        t->barrier = (int)value(b, t, &o[votes]);
        t->expected = !votes && i->count > 1 ? (unsigned)value(b, t, &o[1]) : 0;
        t->vote = votes ? value(b, t, &o[i->count - 1]) & 1 : 0;
        if (votes && !has(i, "or")) unknown(i);
    } else if (is(i, "ld") || is(i, "ldu")) {
        t->registers[o[0].value] = read_at(where(b, t, i, &o[1]), i);
    } else if (is(i, "st")) {
        write_at(where(b, t, i, &o[0]), i, value(b, t, &o[1]));
    } else if (is(i, "red")) {
        at_once(i, where(b, t, i, &o[0]), value(b, t, &o[1]));
    } else if (is(i, "atom")) {
        t->registers[o[0].value] = at_once(i, where(b, t, i, &o[1]), value(b, t, &o[2]));
    } else if (!is(i, "membar") && !is(i, "fence")) {
        unsigned bytes = has(i, "wide") ? 2 * i->bytes : i->bytes;
        if (is(i, "setp")) bytes = 1;
        if (is(i, "cvt")) bytes = (unsigned)atoi(i->part[i->parts - 2] + 1) / 8;
        t->registers[o[0].value] = cut(reckoned(b, t, i), bytes, i->is_signed && bytes == 8);
    }
}

/* Let go those of a barrier whose others have all come or ended. */
static int release(struct ptx_block *b) {
    int released = 0;
    for (unsigned first = 0; first < b->threads; first++) {
        struct thread *one = &b->thread[first];
        unsigned come = 0, alive = 0;
        uint64_t vote = 0;
        if (one->state != WAITING) continue;
        for (unsigned n = 0; n < b->threads; n++) {
            struct thread *t = &b->thread[n];
            int here = t->state == WAITING && t->barrier == one->barrier;
            alive += t->state != OVER, come += (unsigned)here;
            if (here) vote |= t->vote;
        }
        if (come < (one->expected ? one->expected : alive)) continue;
        int barrier = one->barrier;
        for (unsigned n = 0; n < b->threads; n++) {
            struct thread *t = &b->thread[n];
            if (t->state != WAITING || t->barrier != barrier) continue;
            if (t->target >= 0) t->registers[t->target] = vote;
            t->state = READY, released = 1;
        }
    }
    return released;
}

int ptx_run(struct ptx_block *b, uint64_t *until_ns) {
    for (;;) {
        uint64_t soonest = UINT64_MAX;
        unsigned over = 0, asleep = 0;
        for (unsigned n = 0; n < b->threads; n++) {
            struct thread *t = &b->thread[n];
            if (t->state == SLEEPING && now_ns() >= t->until_ns) t->state = READY;
            while (t->state == READY) step(b, t);
            over += t->state == OVER, asleep += t->state == SLEEPING;
            if (t->state == SLEEPING && t->until_ns < soonest) soonest = t->until_ns;
        }
        if (over == b->threads) return PTX_ENDED;
        if (release(b)) continue;
        if (!asleep) fprintf(stderr, "stand-in: a block waits for itself\n"), abort();
        return *until_ns = soonest, PTX_ASLEEP;
    }
}

struct ptx_block *ptx_begin(const struct ptx_kernel *k, const unsigned grid[6], unsigned shared,
                            const void *values, uint32_t number) {
    unsigned threads = grid[3] * grid[4] * grid[5];
    struct ptx_block *b = calloc(1, sizeof *b + threads * sizeof *b->thread);
    b->kernel = k, b->number = number, b->threads = threads;
    memcpy(b->grid, grid, sizeof b->grid);
    b->values = malloc(k->values_bytes + 8);
    memcpy(b->values, values, k->values_bytes);
    b->shared = calloc(1, DYNAMIC + shared + 8);
    for (unsigned n = 0; n < threads; n++) {
        b->thread[n].registers = calloc(k->registers + 1, sizeof(uint64_t));
        b->thread[n].number = n;
    }
    return b;
}

void ptx_free(struct ptx_block *b) {
    for (unsigned n = 0; n < b->threads; n++) free(b->thread[n].registers);
    free(b->values), free(b->shared), free(b);
}
