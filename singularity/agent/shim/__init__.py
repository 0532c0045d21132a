"""What is loaded before the CUDA driver into processes that share a device; page.py talks to it."""
