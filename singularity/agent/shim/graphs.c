/* The gate inside of graphs: what is captured into one runs later, as often as the graph is launched,
 * and one may be a whole step of a training. So a wait for the gate is captured before each kernel;
 * before each, and not every n-th, for programs put a graph that they captured in the place of an
 * earlier one, and may where both have the same nodes.
 */
#include "shim.h"

typedef Result (*Wait)(void *, Ptr, uint32_t, unsigned);

/* What a driver cannot capture spoils the program's graph, so it is tried on a stream of ours. */
static int can_be_captured(Wait wait, Ptr gate) {
    void *stream = 0, *graph = 0;
    Result asked = NOT_READY, ended = NOT_READY;
    Result (*create)(void **, unsigned) = REAL(cuStreamCreate, void *);
    Result (*begin)(void *, int) = REAL(cuStreamBeginCapture_v2, void *);
    Result (*end)(void *, void **) = REAL(cuStreamEndCapture, void *);
    if (!create || !begin || !end || create(&stream, NON_BLOCKING) != OK) return 0;
    if (begin(stream, RELAXED) == OK) asked = wait(stream, gate, 0, WAIT_EQ), ended = end(stream, &graph);
    if (graph) REAL(cuGraphDestroy, OnStream)(graph);
    REAL(cuStreamDestroy_v2, OnStream)(stream);
    return asked == OK && ended == OK && graph;
}

static int able(Wait wait, Ptr gate) {
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    static enum { UNTRIED, ABLE, UNABLE } found;
    pthread_mutex_lock(&lock);
    if (found == UNTRIED) {
        found = can_be_captured(wait, gate) ? ABLE : UNABLE;
        if (found == UNABLE) say("this driver captures no wait for the gate; graphs run to their end");
    }
    pthread_mutex_unlock(&lock);
    return found == ABLE;
}

void gate_in_graph(void *stream) {
    int mode = RELAXED; /* what is asked of the driver here is no part of what is captured */
    Result (*exchange)(int *) = REAL(cuThreadExchangeStreamCaptureMode, void *);
    Wait wait = REAL(cuStreamWaitValue32_v2, Wait);
    if (!exchange || !wait || exchange(&mode) != OK) return;
    Ptr gate = gate_on_device();
    if (gate && able(wait, gate)) wait(stream, gate, 0, WAIT_EQ);
    exchange(&mode);
}
