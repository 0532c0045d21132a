"""A planet's control plane and agents in a few lines, to test what keeps them alive."""
