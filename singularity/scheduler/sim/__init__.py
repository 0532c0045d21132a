"""The whole plane in one thread and no wall time, running the production code."""
