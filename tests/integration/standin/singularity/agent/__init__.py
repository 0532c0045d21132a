"""Stands in for an agent."""
