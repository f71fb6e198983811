"""What the README and docs say of bench/results, section by section."""
