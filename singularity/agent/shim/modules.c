/* Which kernels can yield. A module that comes as PTX text is loaded twice: as it is, which is what
 * the program gets, and with the prologue (inject.c), which runs where a launch gets a ticket. So what
 * has no ticket (graphs, cooperative launches) is exactly what the program asked for. A kernel that was
 * compiled with the prologue already (Triton's) says so by a variable beside it. Of machine code that NVRTC
 * made here, the PTX is known (nvrtc.c); any other runs through, behind the gate, and is counted. */
#include "shim.h"
#include "prologue.h"

struct module { struct module *next; void *handle, *yielding; };
static struct module *modules;
static struct kernel *kernels[1024];
static pthread_rwlock_t known = PTHREAD_RWLOCK_INITIALIZER;

static struct kernel **place_of(void *function) {
    return &kernels[((uintptr_t)function >> 4) * 0x9E3779B97F4A7C15u >> 54];
}

const struct kernel *kernel_of(void *function) {
    pthread_rwlock_rdlock(&known);
    struct kernel *k = *place_of(function);
    while (k && k->function != function) k = k->next;
    pthread_rwlock_unlock(&known);
    return k;
}

int yielding(void) {
    pthread_once(&once, set_up);
    return page && me->class == BE && (page->mode & YIELD);
}

/* Null where it cannot be said where each parameter lies (a driver before 12.4). */
static struct kernel *described(void *function) {
    Result (*ask)(void *, size_t, size_t *, size_t *) = REAL(cuFuncGetParamInfo, void *);
    struct kernel *k = calloc(1, sizeof *k);
    while (ask && k && k->count < PARAMETERS &&
           ask(function, k->count, &k->at[k->count], &k->bytes[k->count]) == OK)
        k->count++;
    if (k && k->count && k->count < PARAMETERS && k->bytes[k->count - 1] == sizeof(Ptr)) return k;
    return free(k), NULL;
}

static int marked(void *module, const char *name) {
    char variable[1024];
    Ptr at;
    size_t bytes;
    Result (*ask)(Ptr *, size_t *, void *, const char *) = REAL(cuModuleGetGlobal_v2, void *);
    return snprintf(variable, sizeof variable, "%s%s", name, YIELDS) < (int)sizeof variable && ask &&
           ask(&at, &bytes, module, variable) == OK;
}

static void note_kernel(void *function, void *module, const char *name) {
    void *variant = function, *other = 0;
    pthread_rwlock_rdlock(&known);
    for (struct module *m = modules; m; m = m->next)
        if (m->handle == module) other = m->yielding;
    pthread_rwlock_unlock(&known);
    if (kernel_of(function) || !marked(other ? other : module, name)) return;
    Result (*find)(void **, void *, const char *) = REAL(cuModuleGetFunction, void *);
    if (other && find(&variant, other, name) != OK) return;
    struct kernel *k = described(variant);
    if (!k) return;
    k->function = function, k->variant = variant, k->module = module;
    k->given = k->count - (other ? 1 : 0); /* of the program's own; else its last one is the ticket */
    pthread_rwlock_wrlock(&known);
    k->next = *place_of(function), *place_of(function) = k;
    pthread_rwlock_unlock(&known);
}

static int is_text(const char *image) {
    while (image && (*image == ' ' || *image == '\n' || *image == '\t' || *image == '\r')) image++;
    return image && (*image == '.' || *image == '/');
}

static void load_twin(void *module, const char *image) {
    if (!yielding()) return;
    char *made = is_text(image) ? 0 : text_of(image);
    char *text = made || is_text(image) ? with_prologue(made ? made : image) : 0;
    struct module *m = text ? calloc(1, sizeof *m) : 0;
    if (m && REAL(cuModuleLoadData, Result(*)(void **, const void *))(&m->yielding, text) == OK) {
        m->handle = module;
        pthread_rwlock_wrlock(&known);
        m->next = modules, modules = m;
        pthread_rwlock_unlock(&known);
    } else if (text) {
        say("a module does not load with a prologue; its kernels run through");
        free(m);
    }
    free(text), free(made);
}

API Result cuModuleLoadData(void **module, const void *image) {
    Result code = REAL(cuModuleLoadData, Result(*)(void **, const void *))(module, image);
    if (code == OK) load_twin(*module, image);
    return code;
}
API Result cuModuleLoadDataEx(void **module, const void *image, unsigned count, void *options, void **values) {
    Result code = REAL(cuModuleLoadDataEx, Result(*)(void **, const void *, unsigned, void *, void **))(
        module, image, count, options, values);
    if (code == OK) load_twin(*module, image);
    return code;
}
API Result cuModuleGetFunction(void **function, void *module, const char *name) {
    Result code = REAL(cuModuleGetFunction, Result(*)(void **, void *, const char *))(function, module, name);
    if (code == OK && yielding()) note_kernel(*function, module, name);
    return code;
}
API Result cuModuleUnload(void *module) {
    void *twin = 0;
    pthread_rwlock_wrlock(&known);
    for (struct module **at = &modules, *m; (m = *at); at = &m->next)
        if (m->handle == module) {
            *at = m->next, twin = m->yielding;
            free(m);
            break;
        }
    for (size_t i = 0; i < sizeof kernels / sizeof *kernels; i++)
        for (struct kernel **at = &kernels[i], *k; (k = *at);)
            if (k->module == module)
                *at = k->next, free(k);
            else
                at = &k->next;
    pthread_rwlock_unlock(&known);
    OnStream unload = REAL(cuModuleUnload, OnStream);
    if (twin) unload(twin);
    return unload(module);
}
/* What a kernel may use must hold for the one that runs in its place. */
API Result cuFuncSetAttribute(void *function, int which, int value) {
    Result (*set)(void *, int, int) = REAL(cuFuncSetAttribute, void *);
    const struct kernel *k = kernel_of(function);
    if (k && k->variant != function) set(k->variant, which, value);
    return set(function, which, value);
}
