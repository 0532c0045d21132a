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

/* How a module, or what is called a library since CUDA 12, is asked for what it has. */
struct ways {
    Result (*find)(void **, void *, const char *);
    Result (*variable)(Ptr *, size_t *, void *, const char *);
    Result (*parameter)(void *, size_t, size_t *, size_t *);
};
static struct ways of_modules(void) {
    return (struct ways){REAL(cuModuleGetFunction, void *), REAL(cuModuleGetGlobal_v2, void *),
                         REAL(cuFuncGetParamInfo, void *)};
}
static struct ways of_libraries(void) {
    return (struct ways){REAL(cuLibraryGetKernel, void *), REAL(cuLibraryGetGlobal, void *),
                         REAL(cuKernelGetParamInfo, void *)};
}

/* Null where it cannot be said where each parameter lies (a driver before 12.4). */
static struct kernel *described(void *function, struct ways ways) {
    struct kernel *k = calloc(1, sizeof *k);
    while (ways.parameter && k && k->count < PARAMETERS &&
           ways.parameter(function, k->count, &k->at[k->count], &k->bytes[k->count]) == OK)
        k->count++;
    if (k && k->count && k->count < PARAMETERS && k->bytes[k->count - 1] == sizeof(Ptr)) return k;
    return free(k), NULL;
}

static int marked(void *module, const char *name, struct ways ways) {
    char variable[1024];
    Ptr at;
    size_t bytes;
    return snprintf(variable, sizeof variable, "%s%s", name, YIELDS) < (int)sizeof variable &&
           ways.variable && ways.variable(&at, &bytes, module, variable) == OK;
}

static void remember(struct kernel *k) {
    pthread_rwlock_wrlock(&known);
    k->next = *place_of(k->function), *place_of(k->function) = k;
    pthread_rwlock_unlock(&known);
}

static void note_kernel(void *function, void *module, const char *name, struct ways ways) {
    void *variant = function, *other = 0;
    pthread_rwlock_rdlock(&known);
    for (struct module *m = modules; m; m = m->next)
        if (m->handle == module) other = m->yielding;
    pthread_rwlock_unlock(&known);
    if (kernel_of(function) || !marked(other ? other : module, name, ways)) return;
    if (other && ways.find(&variant, other, name) != OK) return;
    struct kernel *k = described(variant, ways);
    if (!k) return;
    k->function = function, k->variant = variant, k->module = module;
    k->given = k->count - (other ? 1 : 0); /* of the program's own; else its last one is the ticket */
    remember(k);
}

static int is_text(const char *image) {
    while (image && (*image == ' ' || *image == '\n' || *image == '\t' || *image == '\r')) image++;
    return image && (*image == '.' || *image == '/');
}

static Result load_module(void **module, const char *text) {
    return REAL(cuModuleLoadData, Result(*)(void **, const void *))(module, text);
}
typedef Result (*LoadLibrary)(void **, const void *, void *, void **, unsigned, void *, void **, unsigned);
static Result load_library(void **library, const char *text) {
    return REAL(cuLibraryLoadData, LoadLibrary)(library, text, 0, 0, 0, 0, 0, 0);
}

static void load_twin(void *module, const char *image, Result (*load)(void **, const char *)) {
    if (!yielding()) return;
    char *made = is_text(image) ? 0 : text_of(image);
    char *text = made || is_text(image) ? with_prologue(made ? made : image) : 0;
    struct module *m = text ? calloc(1, sizeof *m) : 0;
    if (m && load(&m->yielding, text) == OK) {
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

/* Its twin, if it has one. */
static void *forget(void *module) {
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
    return twin;
}

API Result cuModuleLoadData(void **module, const void *image) {
    Result code = load_module(module, image);
    if (code == OK) load_twin(*module, image, load_module);
    return code;
}
API Result cuModuleLoadDataEx(void **module, const void *image, unsigned count, void *options, void **values) {
    Result code = REAL(cuModuleLoadDataEx, Result(*)(void **, const void *, unsigned, void *, void **))(
        module, image, count, options, values);
    if (code == OK) load_twin(*module, image, load_module);
    return code;
}
API Result cuLibraryLoadData(void **library, const void *image, void *options, void **values, unsigned count,
                             void *more, void **their_values, unsigned how_many) {
    Result code = REAL(cuLibraryLoadData, LoadLibrary)(library, image, options, values, count, more,
                                                       their_values, how_many);
    if (code == OK) load_twin(*library, image, load_library);
    return code;
}
API Result cuModuleGetFunction(void **function, void *module, const char *name) {
    Result code = REAL(cuModuleGetFunction, Result(*)(void **, void *, const char *))(function, module, name);
    if (code == OK && yielding()) note_kernel(*function, module, name, of_modules());
    return code;
}
API Result cuLibraryGetKernel(void **kernel, void *library, const char *name) {
    Result code = REAL(cuLibraryGetKernel, Result(*)(void **, void *, const char *))(kernel, library, name);
    if (code == OK && yielding()) note_kernel(*kernel, library, name, of_libraries());
    return code;
}
/* The same kernel by another handle, one for each context. */
API Result cuKernelGetFunction(void **function, void *kernel) {
    Result (*get)(void **, void *) = REAL(cuKernelGetFunction, void *);
    Result code = get(function, kernel);
    const struct kernel *of = code == OK ? kernel_of(kernel) : 0;
    struct kernel *k = of && !kernel_of(*function) ? malloc(sizeof *k) : 0;
    if (!k) return code;
    *k = *of, k->function = *function;
    if (get(&k->variant, of->variant) != OK) return free(k), code;
    return remember(k), code;
}
API Result cuModuleUnload(void *module) {
    void *twin = forget(module);
    OnStream unload = REAL(cuModuleUnload, OnStream);
    if (twin) unload(twin);
    return unload(module);
}
API Result cuLibraryUnload(void *library) {
    void *twin = forget(library);
    OnStream unload = REAL(cuLibraryUnload, OnStream);
    if (twin) unload(twin);
    return unload(library);
}
/* What a kernel may use must hold for the one that runs in its place. */
API Result cuFuncSetAttribute(void *function, int which, int value) {
    Result (*set)(void *, int, int) = REAL(cuFuncSetAttribute, void *);
    const struct kernel *k = kernel_of(function);
    if (k && k->variant != function) set(k->variant, which, value);
    return set(function, which, value);
}
API Result cuKernelSetAttribute(int which, int value, void *kernel, int device) {
    Result (*set)(int, int, void *, int) = REAL(cuKernelSetAttribute, void *);
    const struct kernel *k = kernel_of(kernel);
    if (k && k->variant != kernel) set(which, value, k->variant, device);
    return set(which, value, kernel, device);
}
