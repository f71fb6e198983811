"""Scoring with PyTorch: the pass of a CPU, the pass of a GPU, and their stages."""
