"""What is free, kept so that work is placed without looking at every node.

Whole devices:
layout.py        positions: the order of nodes in which every domain is one range
index.py         free counts per domain and level, and which nodes are at each level; deltas
reference.py     the rules of placement, from the free counts alone, in NumPy
kernels.py       the same rules on the index, compiled; imported only where fleets are large
gangs.py         topology: within, preferred, spread, apart; the one door for whole devices

Parts of devices:
fragments.py     what is spoilt on a node, and how good a spot is, in integers
sharekernels.py  the same, compiled
shares.py        what is left of each node; nodes in one state are judged once
slices.py        elastic slices on whatever is left
"""
