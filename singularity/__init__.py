"""Singularity: a planet-scale control plane for AI jobs."""
