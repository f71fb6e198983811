"""What several benchmarks use: inputs, programs that are compared, turns, results."""
