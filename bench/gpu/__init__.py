"""All that only a GPU can tell, in stages: ``bench/gpu.sh``."""
