"""The definition of correct: slow, obvious programs to be read beside docs/semantics.md.

Imported by the command line, tests and benchmarks only; never by the engine.
"""
