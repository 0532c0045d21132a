"""Where rank images are kept: chunks by content, manifests by name, in a directory or a bucket.

    chunks/ab/cdef…                          a chunk; its name is the (keyed) blake3 of its bytes
    manifests/<job>/<incarnation>-<cut>/<node>   what one node saved for one cut
    fences/<job>/<incarnation>               no older life of the job may save
    saves/<save>                             one save is under way, and relies on chunks
    trash/<sweep>/<digest>                   a chunk on its way out

Agents save and load; the control plane drops what no job needs, sweeps, and verifies.
"""
