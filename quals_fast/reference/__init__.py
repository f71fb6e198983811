"""The definition of correct: slow, obvious programs, to be read together with docs/semantics.md.

Imported by tests and benchmarks only; never by the rest of the package.
"""
