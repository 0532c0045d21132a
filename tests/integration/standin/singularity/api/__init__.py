"""Stands in for the control plane."""
