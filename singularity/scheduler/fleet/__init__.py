"""Which devices are free, kept so that a gang is placed without looking at every node.

layout.py     positions: the order of nodes in which every domain is one range
index.py      free counts per domain and level, and which nodes are at each level; deltas
reference.py  the rules of placement, from the free counts alone, in NumPy
kernels.py    the same rules on the index, compiled; imported only where fleets are large
gangs.py      topology: within, spread, apart; the one door for whole devices
"""
