"""The hands: one process per node."""
