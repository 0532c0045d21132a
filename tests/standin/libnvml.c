/* A stand-in for NVIDIA's management library: two GPUs that reach each other, the second of which
 * has lost memory. With $STANDIN_NVML=old, a device that tells nothing but its memory. The driver's
 * version is $STANDIN_DRIVER. Process 4711 holds 5 GB of the first GPU, of another nobody tells. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int old(void) {
    const char *which = getenv("STANDIN_NVML");
    return which && !strcmp(which, "old");
}
int nvmlInit_v2(void) { return 0; }
int nvmlShutdown(void) { return 0; }
int nvmlSystemGetDriverVersion(char *text, unsigned room) {
    const char *said = getenv("STANDIN_DRIVER");
    return snprintf(text, room, "%s", said ? said : "580.1") < 0;
}
int nvmlDeviceGetCount_v2(unsigned *count) { return (*count = 2), 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **found) {
    return (*found = (void *)(size_t)(index + 1)), 0;
}
int nvmlDeviceGetUUID(void *device, char *text, unsigned room) {
    return snprintf(text, room, "GPU-%zu", (size_t)device) < 0;
}
int nvmlDeviceGetName(void *device, char *text, unsigned room) {
    return (void)device, snprintf(text, room, "stand-in") < 0;
}
int nvmlDeviceGetMemoryInfo(void *device, unsigned long long *memory) {
    memory[0] = 1000, memory[1] = 900, memory[2] = 100;
    return !device;
}
int nvmlDeviceGetUtilizationRates(void *device, unsigned *share) {
    share[0] = 25, share[1] = 5;
    return old() || !device ? 3 : 0;
}
int nvmlDeviceGetTemperature(void *device, int sensor, unsigned *degrees) {
    return (*degrees = 61), old() || sensor || !device ? 3 : 0;
}
int nvmlDeviceGetTotalEccErrors(void *device, int kind, int since, unsigned long long *count) {
    return (*count = device == (void *)2 ? 7 : 0), old() || kind != 1 || since ? 3 : 0;
}
int nvmlDeviceGetP2PStatus(void *one, void *other, int how, unsigned *status) {
    return (*status = 0), old() || how || one == other ? 3 : 0;
}
struct process { unsigned pid; unsigned long long used_bytes; unsigned instances[2]; };
int nvmlDeviceGetComputeRunningProcesses_v3(void *device, unsigned *count, struct process *found) {
    if (*count < 2 || old()) return 7;
    found[0] = (struct process){4711, 5000000000, {0, 0}}, found[1] = (struct process){4712, ~0ull, {0, 0}};
    return (*count = device == (void *)1 ? 2 : 0), 0;
}
