/* A stand-in for the CUDA driver, where there is none: it moves no memory and runs no kernel. It
 * keeps the state that the driver would keep of each process, checks that calls come in the order
 * that the driver demands, and writes every call down.
 *
 * In the directory $STANDIN_CUDA: `calls` (one a line), `state.PID`, and `state` for processes that
 * have none of their own. A file `fail.CALL` makes that call fail with error 999. `gpus` lists the
 * bytes at which the UUIDs of the devices begin, one number a line.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { OK = 0, INVALID = 1, ILLEGAL_STATE = 401, UNKNOWN = 999 };
enum { RUNNING, LOCKED, CHECKPOINTED, FAILED };

static FILE *in(const char *name, const char *mode) {
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", getenv("STANDIN_CUDA"), name);
    return fopen(path, mode);
}

static int number(const char *name, int otherwise) {
    FILE *file = in(name, "r");
    int found = otherwise;
    if (file) {
        if (fscanf(file, "%d", &found) != 1) found = otherwise;
        fclose(file);
    }
    return found;
}

static int state_of(int pid) {
    char name[64];
    snprintf(name, sizeof name, "state.%d", pid);
    return number(name, number("state", RUNNING));
}

static int step(const char *call, int pid, int from, int to, const char *more) {
    char name[64];
    FILE *file = in("calls", "a");
    fprintf(file, "%s %d%s\n", call, pid, more);
    fclose(file);
    snprintf(name, sizeof name, "fail.%s", call);
    if ((file = in(name, "r"))) {
        fclose(file);
        return UNKNOWN;
    }
    if (state_of(pid) != from) return ILLEGAL_STATE;
    snprintf(name, sizeof name, "state.%d", pid);
    file = in(name, "w");
    fprintf(file, "%d", to);
    fclose(file);
    return OK;
}

static int gpu(int device) {
    FILE *file = in("gpus", "r");
    int found = -1;
    for (int i = 0; file && i <= device; i++)
        if (fscanf(file, "%d", &found) != 1) found = -1;
    if (file) fclose(file);
    return found;
}

int cuInit(unsigned flags) { return flags ? INVALID : OK; }

int cuDeviceGetCount(int *count) {
    for (*count = 0; gpu(*count) >= 0;) ++*count;
    return OK;
}

int cuDeviceGetUuid_v2(unsigned char *uuid, int device) {
    int first = gpu(device);
    if (first < 0) return INVALID;
    for (int i = 0; i < 16; i++) uuid[i] = (unsigned char)(first + i);
    return OK;
}

/* Enough for a process to have memory on a device: it is of the host. */
int cuDeviceGet(int *device, int number) { return (*device = number), OK; }
int cuDevicePrimaryCtxRetain(void **context, int device) { return (*context = &cuInit), device ? INVALID : OK; }
int cuCtxSetCurrent(void *context) { return context ? OK : INVALID; }
int cuMemAlloc_v2(unsigned long long *found, size_t bytes) {
    return (*found = (unsigned long long)malloc(bytes)) ? OK : INVALID;
}
int cuMemcpyHtoD_v2(unsigned long long to, const void *from, size_t bytes) {
    return memcpy((void *)to, from, bytes) ? OK : INVALID;
}
int cuMemcpyDtoH_v2(void *to, unsigned long long from, size_t bytes) {
    return memcpy(to, (void *)from, bytes) ? OK : INVALID;
}

int cuCheckpointProcessGetState(int pid, int *state) {
    *state = state_of(pid);
    return OK;
}

int cuCheckpointProcessLock(int pid, const unsigned *args) {
    return args[0] ? step("lock", pid, RUNNING, LOCKED, "") : INVALID;
}

int cuCheckpointProcessCheckpoint(int pid, const void *args) {
    (void)args;
    return step("checkpoint", pid, LOCKED, CHECKPOINTED, "");
}

struct restore {
    const unsigned char (*pairs)[32];
    unsigned count;
    char reserved[52];
};

int cuCheckpointProcessRestore(int pid, const struct restore *args) {
    char more[256] = "";
    static const char zero[52];
    if (sizeof *args != 64 || memcmp(args->reserved, zero, sizeof zero)) return INVALID;
    for (unsigned i = 0; i < args->count; i++)
        snprintf(more + strlen(more), sizeof more - strlen(more), " %d>%d", args->pairs[i][0],
                 args->pairs[i][16]);
    return step("restore", pid, CHECKPOINTED, LOCKED, more);
}

int cuCheckpointProcessUnlock(int pid, const void *args) {
    (void)args;
    return step("unlock", pid, LOCKED, RUNNING, "");
}
