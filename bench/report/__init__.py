"""What README.md and docs/gpu.md say of bench/results, section by section."""
