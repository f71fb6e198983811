"""One benchmark an operation, on a GPU: its Triton kernel against eager and compiled torch."""
