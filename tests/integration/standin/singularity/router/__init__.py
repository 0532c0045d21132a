"""Stands for the real one."""
