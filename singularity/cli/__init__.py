"""The command line: `singularity ...`."""
