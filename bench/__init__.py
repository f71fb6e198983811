"""Benchmarks and checks; run from a checkout as ``python -m bench.<name>``. Not in the wheel."""
