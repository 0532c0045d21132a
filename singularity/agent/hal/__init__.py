"""Accelerators behind one interface: faces.py says what, model.py, cpu.py and cuda.py do it."""
