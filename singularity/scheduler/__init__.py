"""The judgement: pure functions from a snapshot to a plan."""
