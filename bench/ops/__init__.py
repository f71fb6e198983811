"""One benchmark per GPU operation: its Triton kernel against eager and compiled torch."""
