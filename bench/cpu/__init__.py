"""Measures all that a CPU can tell, in stages that resume."""
