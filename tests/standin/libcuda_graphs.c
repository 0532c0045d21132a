/* Graphs of the stand-in: what one stream was given while it was captured, in that order.
 *
 * With $STANDIN_NO_WAITS a graph takes no wait for a word of memory: the call is refused, and the
 * capture is spoilt, as the driver does with whatever it cannot capture.
 */
#include "streams.h"
#include <stdlib.h>
#include <string.h>

struct graph { struct op *first, **last; int spoilt; };

Result captured(struct graph *graph, struct op op) {
    if (op.kind == WAIT && getenv("STANDIN_NO_WAITS")) return (graph->spoilt = 1), CAPTURE_UNSUPPORTED;
    struct op *kept = malloc(sizeof op);
    *kept = op, kept->next = 0;
    return (*graph->last = kept), (graph->last = &kept->next), OK;
}

Result cuStreamIsCapturing(void *handle, int *status) { return (*status = !!of(handle)->graph), OK; }
Result cuThreadExchangeStreamCaptureMode(int *mode) { return (*mode = 0), OK; }
Result cuStreamBeginCapture_v2(void *handle, int mode) {
    struct stream *s = of(handle);
    if (s->graph || mode < 0 || mode > 2) return INVALID;
    s->graph = calloc(1, sizeof *s->graph);
    return (s->graph->last = &s->graph->first), OK;
}
Result cuStreamEndCapture(void *handle, void **found) {
    struct stream *s = of(handle);
    struct graph *graph = s->graph;
    s->graph = 0;
    *found = graph && !graph->spoilt ? graph : 0;
    return *found ? OK : graph ? CAPTURE_INVALIDATED : INVALID;
}
Result cuGraphDestroy(void *graph) { return graph ? OK : INVALID; }
Result cuGraphInstantiateWithFlags(void **found, void *graph, unsigned long long flags) {
    return (*found = graph), graph && !flags ? OK : INVALID;
}
Result cuGraphLaunch(void *instance, void *handle) {
    struct graph *graph = instance;
    for (struct op *op = graph->first; op; op = op->next) {
        struct op again = *op;
        if (op->kind == PTX) { /* whoever carries it out frees what it was given */
            size_t bytes = ptx_values_bytes(op->kernel) + 8;
            again.values = memcpy(malloc(bytes), op->values, bytes);
        }
        if (give(handle, again) != OK) return INVALID;
    }
    return OK;
}
