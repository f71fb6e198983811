"""The article's experiment at a small size: see `python -m bench.conseq_experiment --help`."""
