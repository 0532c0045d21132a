"""The language both sides speak. Imports nothing of ours."""
