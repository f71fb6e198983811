"""How many kernels the GPU path launches, counted without a GPU."""
