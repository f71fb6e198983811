"""One operation a file: the eager reference today, its Triton kernel beside it when it pays.

Imports torch (and triton) only. `quals_fast.ops` is the sole importer.
"""
