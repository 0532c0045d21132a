/* What NVRTC makes as machine code cannot be given a prologue. But it has made PTX of it on the way: that
 * is kept beside, and found by the code again when a module of it is loaded (modules.c). */
#include "shim.h"

enum { KEPT = 1024, INTERNAL_ERROR = 11 };
#define NAME "nvrtcGetCUBIN"
typedef int (*OfProgram)(void *, void *);

struct made { char *code, *text; size_t bytes; };
static struct made kept[KEPT]; /* the oldest goes first */
static unsigned count;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static _Atomic(void *) handed_out;

/* A process may have several of these libraries, and a program of one is nothing to another: the first
 * that is asked for is the one that we stand for. */
void *in_place_of_nvrtc(void *real) {
    void *before = 0;
    if (real == (void *)nvrtcGetCUBIN) return real;
    if (!atomic_compare_exchange_strong(&handed_out, &before, real) && before != real) return real;
    return (void *)nvrtcGetCUBIN;
}

static void *symbol_of(const void *within, const char *name) {
    Dl_info from;
    void *library = dladdr(within, &from) ? dlopen(from.dli_fname, RTLD_NOW | RTLD_NOLOAD) : 0;
    void *found = library ? plain_symbol(library, name) : 0;
    if (library) dlclose(library);
    return found;
}

/* That of the library which the caller is linked with, or the one that was asked for by name. */
static OfProgram real_for(const void *caller) {
    void *found = symbol_of(caller, NAME);
    if (!found || found == (void *)nvrtcGetCUBIN) found = handed_out;
    return (OfProgram)(found ? found : plain_symbol(RTLD_NEXT, NAME));
}

static void *taken(OfProgram get, void *program, const char *size_name, const char *name, size_t *bytes) {
    OfProgram size = (OfProgram)symbol_of((void *)get, size_name);
    OfProgram take = (OfProgram)symbol_of((void *)get, name);
    if (!size || !take || size(program, bytes) != OK || *bytes < 2) return 0;
    void *found = malloc(*bytes);
    if (found && take(program, found) == OK) return found;
    return free(found), NULL;
}

static void keep(OfProgram get, void *program) {
    struct made m = {0};
    size_t length;
    m.code = taken(get, program, "nvrtcGetCUBINSize", NAME, &m.bytes);
    m.text = m.code ? taken(get, program, "nvrtcGetPTXSize", "nvrtcGetPTX", &length) : 0;
    if (!m.text) {
        free(m.code);
        return;
    }
    pthread_mutex_lock(&lock);
    struct made *place = &kept[count++ % KEPT];
    free(place->code), free(place->text);
    *place = m;
    pthread_mutex_unlock(&lock);
}

API int nvrtcGetCUBIN(void *program, void *code) {
    OfProgram get = real_for(__builtin_return_address(0));
    int result = get ? get(program, code) : INTERNAL_ERROR;
    if (result == OK && yielding()) keep(get, program);
    return result;
}

char *text_of(const char *code) {
    char *found = 0;
    pthread_mutex_lock(&lock);
    for (unsigned i = 0; i < KEPT && kept[i].code && !found; i++) {
        size_t same = 0; /* nobody says how long `code` is: look no further than it is the same */
        while (same < kept[i].bytes && kept[i].code[same] == code[same]) same++;
        if (same == kept[i].bytes) found = strdup(kept[i].text);
    }
    pthread_mutex_unlock(&lock);
    return found;
}
