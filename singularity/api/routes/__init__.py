"""HTTP routes: parse, call, render."""
